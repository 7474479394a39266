"""What memory is left, read from files as Linux and its containers write them."""

from pathlib import Path

import pytest

from onnxport.errors import MemoryLimitError
from onnxport.system.memory import BASE_BYTES, available_bytes, memory_limit, require_memory

GIB = 2**30


def _system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MACHINE = {"proc/meminfo": f"MemTotal: {16 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {8 * 2**20} kB\n"}


def test_of_the_machine(tmp_path):
    assert available_bytes(_system(tmp_path, MACHINE)) == 8 * GIB


def test_a_system_that_does_not_tell(tmp_path):
    assert available_bytes(tmp_path) is None


@pytest.mark.parametrize(
    ("group", "files"),
    [
        (
            "0::/outer/inner",
            {
                "sys/fs/cgroup/outer/inner/memory.max": "max",
                "sys/fs/cgroup/outer/inner/memory.current": "5",
                "sys/fs/cgroup/outer/memory.max": str(3 * GIB),
                "sys/fs/cgroup/outer/memory.current": str(2 * GIB),
                "sys/fs/cgroup/outer/memory.stat": f"anon 7\nfile {GIB}\n",
            },
        ),
        (
            "5:cpu,cpuacct:/x\n4:memory:/outer",
            {
                "sys/fs/cgroup/memory/outer/memory.limit_in_bytes": str(3 * GIB),
                "sys/fs/cgroup/memory/outer/memory.usage_in_bytes": str(2 * GIB),
                "sys/fs/cgroup/memory/outer/memory.stat": f"cache {GIB}\nrss 7\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1",
            },
        ),
    ],
    ids=["v2", "v1"],
)
def test_of_a_container_whose_page_cache_counts_as_free(tmp_path, group, files):
    _system(tmp_path, {**MACHINE, **files, "proc/self/cgroup": f"{group}\n"})
    assert available_bytes(tmp_path) == 2 * GIB


def test_a_limit_is_kept():
    with memory_limit(2 * GIB):
        require_memory(2 * GIB - BASE_BYTES, "Holding x", "Do y.")
        with pytest.raises(MemoryLimitError) as refused:
            require_memory(3 * GIB - BASE_BYTES, "Holding x", "Do y.")
        with memory_limit(4 * GIB):
            require_memory(3 * GIB - BASE_BYTES, "Holding x", "Do y.")
    assert refused.value.message == ("Holding x needs about 3.0 GiB of memory, and the limit is 2.0 GiB.")
    assert refused.value.hint == "Do y. The limit is 80 % of the free memory, or --memory-limit."
    require_memory(2**60, "Outside of a conversion", "")


def test_the_limit_is_a_share_of_what_is_free(monkeypatch):
    monkeypatch.setattr("onnxport.system.memory.available_bytes", lambda: 10 * GIB)
    with memory_limit(None):
        require_memory(8 * GIB - BASE_BYTES, "x", "y")
        with pytest.raises(MemoryLimitError):
            require_memory(8 * GIB - BASE_BYTES + 1, "x", "y")
