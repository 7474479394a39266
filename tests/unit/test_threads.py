"""Little work on few weights is one thread's."""

from __future__ import annotations

import os

import pytest

from onnxport.system import threads
from onnxport.system.threads import worth_threads


def test_a_decoder_of_92m_parameters_reads_three_rows_of_71_tokens_on_one_thread():
    assert not worth_threads(368_000_000, 92e6 * 3 * 71)


def test_much_work_and_many_weights_are_worth_threads():
    assert worth_threads(100_000_000, 25e6 * 3 * 233 * 233)  # ResNet-50, an image
    assert worth_threads(8 * 2**30, 2e9)  # a step of a decoder of two billion parameters


@pytest.mark.parametrize(
    ("files", "own", "wanted"),
    [
        ({"a/b/cpu.max": "250000 100000", "a/cpu.max": "max 100000"}, "0::/a/b", 3),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, "0::/a/b", 1),
        # Inside a container the path is that of the machine, and the root is the container's.
        ({"cpu.max": "200000 100000"}, "0::/machine/container", 2),
        ({"cpu/a/cpu.cfs_quota_us": "150000", "cpu/a/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/a\n3:memory:/x", 2),
        ({"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/a", None),
        ({}, "0::/", None),
    ],
)
def test_a_quota_of_processors_limits_the_threads(files, own, wanted, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own + "\n")
    monkeypatch.setattr(threads, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(threads, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert threads.usable_processors() == wanted
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert threads.usable_processors() == 1
