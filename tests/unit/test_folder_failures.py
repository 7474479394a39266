"""The destination is what it was or what it should be: full disks, dying processes, races."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxport.artifact.data_files import data_name, next_free
from onnxport.errors import OutputError
from onnxport.publishing import atomic_rename as moves
from onnxport.publishing.destination import check_destination, check_file_destination
from onnxport.publishing.leftovers import clean_leftovers
from onnxport.publishing.staging import stage, stage_file
from tests.unit.sample_folder import FOLDER, fill, publish, tree

# ---------------------------------------------------------------- file systems that refuse


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tmpfs with the given options; skips where that is not permitted."""
    point = tmp_path / "mounted"
    point.mkdir()
    done = False

    def mount(options: str) -> Path:
        nonlocal done
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(point)]
        if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small file system needs root")
        done = True
        return point

    yield mount
    if done:
        subprocess.run(["umount", str(point)], check=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_full_disk(overwrite: bool, mounted: Callable[[str], Path]) -> None:
    disk = mounted("size=1m")
    if overwrite:
        publish(disk / "model", "old")
    before = tree(disk)
    with pytest.raises(OutputError, match=r"No space left: .* could not be written") as caught:
        with stage(disk / "model", overwrite=overwrite) as staging:
            fill(staging.path)
            with (staging.path / "weights").open("wb") as file:
                for _ in range(64):
                    file.write(bytes(2**16))
            staging.publish()
    assert caught.value.hint
    assert tree(disk) == before
    publish(disk / "model", "new", overwrite=overwrite)


def test_no_inodes(mounted: Callable[[str], Path]) -> None:
    disk = mounted("nr_inodes=3")
    with pytest.raises(OutputError, match="No space left"), stage(disk / "a" / "b" / "c" / "model"):
        pass
    assert tree(disk) == {}


def test_read_only(mounted: Callable[[str], Path]) -> None:
    disk = mounted("ro")
    for check in (check_destination, check_file_destination):
        with pytest.raises(OutputError, match="not writable"):
            check(disk / "a" / "model.onnx", overwrite=False)
    with pytest.raises(OutputError, match="not writable"), stage(disk / "model"):
        pass


def test_read_only_in_the_middle(mounted: Callable[[str], Path]) -> None:
    disk = mounted("size=1m")
    with pytest.raises(OutputError, match="read-only"), stage(disk / "model") as staging:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        fill(staging.path)
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    publish(disk / "model")
    assert [entry.name for entry in disk.iterdir()] == ["model"]


def test_mount_points_are_refused_because_they_cannot_be_renamed(mounted: Callable[[str], Path]) -> None:
    disk = mounted("size=1m")
    with pytest.raises(OutputError, match="mount point") as caught, stage(disk):
        pass
    assert str(disk / "model") in str(caught.value)


# ---------------------------------------------------------------- processes that die


SCRIPT = """
    import os, signal, sys, time
    from pathlib import Path
    from onnxport.publishing.staging import stage, stage_file
    destination, overwrite = Path(sys.argv[1]), sys.argv[2] == "True"
    with {stage}(destination, overwrite=overwrite) as staging:
        (staging.path / "model.onnx").write_text("new")
        {body}
"""
SAY_AND_SLEEP = 'print("staged", flush=True); time.sleep(60)'
KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def start(destination: Path, body: str, *, overwrite: bool = False, stage: str = "stage") -> subprocess.Popen[str]:
    source = textwrap.dedent(SCRIPT).format(stage=stage, body=body)
    command = [sys.executable, "-c", source, str(destination), str(overwrite)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def staging_folders(parent: Path) -> list[Path]:
    return [entry for entry in parent.iterdir() if ".onnxport-" in entry.name]


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_while_writing(overwrite: bool, tmp_path: Path) -> None:
    if overwrite:
        publish(tmp_path / "model", "old")
    before = tree(tmp_path)
    with start(tmp_path / "model", KILL, overwrite=overwrite) as process:
        assert process.wait() == -signal.SIGKILL
    assert len(staging_folders(tmp_path)) == 1
    assert {name: text for name, text in tree(tmp_path).items() if ".onnxport-" not in name} == before
    publish(tmp_path / "model", "new", overwrite=overwrite)
    assert (tmp_path / "model" / "onnx" / "model.onnx").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_interrupted_while_writing(tmp_path: Path) -> None:
    with start(tmp_path / "a" / "model", SAY_AND_SLEEP) as process:
        assert process.stdout is not None and process.stdout.readline() == "staged\n"
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate()[1]
    assert tree(tmp_path) == {}


def test_the_living_are_left_alone(tmp_path: Path) -> None:
    with start(tmp_path / "model", SAY_AND_SLEEP) as process:
        assert process.stdout is not None and process.stdout.readline() == "staged\n"
        (theirs,) = staging_folders(tmp_path)
        publish(tmp_path / "model")
        clean_leftovers(tmp_path / "model")
        assert (theirs / "model.onnx").read_text() == "new"
        process.kill()
    clean_leftovers(tmp_path / "model")
    assert staging_folders(tmp_path) == []
    assert set(tree(tmp_path / "model")) == FOLDER


def test_of_two_at_once_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    with stage(tmp_path / "model") as first, pytest.raises(OutputError, match="model"):
        with stage(tmp_path / "model") as second:
            assert first.path != second.path
            fill(first.path, "first")
            fill(second.path, "second")
            first.publish()
            second.publish()
    assert (tmp_path / "model" / "onnx" / "model.onnx").read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_many_processes_at_once(tmp_path: Path) -> None:
    running = [start(tmp_path / "model", "staging.publish()") for _ in range(4)]
    errors = [process.communicate()[1] for process in running]
    codes = [process.returncode for process in running]
    assert codes.count(0) == 1, errors
    assert sum("OutputError" in error for error in errors) == 3
    assert tree(tmp_path) == {"model": "/", "model/model.onnx": "new"}


def test_killed_between_the_renames_of_the_fallback(tmp_path: Path) -> None:
    publish(tmp_path / "model", "old")
    body = f"""
        from onnxport.publishing import atomic_rename as moves
        moves._renameat2 = lambda *_: False
        rename = Path.rename
        def die(self, target):
            if self == staging.path: {KILL}
            return rename(self, target)
        Path.rename = die
        (staging.path / "onnxport.json").write_text("x")
        staging.publish()
    """
    with start(tmp_path / "model", textwrap.indent(textwrap.dedent(body), "    "), overwrite=True) as process:
        assert process.wait() == -signal.SIGKILL, process.communicate()[1]
    assert not (tmp_path / "model").exists()
    clean_leftovers(tmp_path / "model")
    assert (tmp_path / "model" / "onnx" / "model.onnx").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_folders_that_only_look_alike_are_left_alone(tmp_path: Path) -> None:
    names = [
        ".model.onnxport-notes",
        ".model.onnxport-1-zz",
        ".models.onnxport-1-0123abcd",
        "model.onnxport-1-0123abcd",
    ]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / ".model.onnxport-2-0123abcd").write_text("a file")
    clean_leftovers(tmp_path / "model")
    assert len(list(tmp_path.iterdir())) == 5


# ---------------------------------------------------------------- single graphs


def publish_graph(destination: Path, text: str, *, data: bool = True, overwrite: bool = False) -> tuple[Path, ...]:
    with stage_file(destination, overwrite=overwrite) as staging:
        (staging.path / destination.name).write_text(text)
        if data:
            (staging.path / f"{destination.name}_data").write_text(text)
        return staging.publish()


def test_graph_with_its_data(tmp_path: Path) -> None:
    files = publish_graph(tmp_path / "out" / "model.onnx", "new")
    assert [file.name for file in files] == ["model.onnx", "model.onnx_data"]
    assert tree(tmp_path) == {"out": "/", "out/model.onnx": "new", "out/model.onnx_data": "new"}


def test_the_original_scripts_rule(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(OutputError, match="not empty"):
        publish_graph(tmp_path / "model.onnx", "new")
    publish_graph(tmp_path / "model.onnx", "new", overwrite=True)
    assert (tmp_path / "mine").read_text() == "x"
    with pytest.raises(OutputError, match="is a folder"):
        check_file_destination(tmp_path, overwrite=True)


def test_overwriting_a_graph_takes_its_old_data_along(tmp_path: Path) -> None:
    publish_graph(tmp_path / "model.onnx", "old")
    publish_graph(tmp_path / "model.onnx", "new", data=False, overwrite=True)
    assert tree(tmp_path) == {"model.onnx": "new"}
    publish_graph(tmp_path / "model.onnx", "newer", overwrite=True)
    assert tree(tmp_path) == {"model.onnx": "newer", "model.onnx_data": "newer"}


def publish_pair(destination: Path, value: float) -> None:
    """A graph that adds `value`, which is in a data file: a new one each time."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y) { y = Add(x, w) }"""
    )
    with stage_file(destination, overwrite=True) as staging:
        weight = onnx.numpy_helper.from_array(np.full(1, value, np.float32), "w")
        data = data_name(destination.name, next_free(destination.name, 0, staging.taken))
        model.graph.initializer.append(weight)
        onnx.save(model, staging.path / destination.name, save_as_external_data=True, location=data, size_threshold=0)
        assert (staging.path / data).is_file()
        staging.publish()


def what_it_adds(graph: Path) -> float:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": np.zeros(1, np.float32)})[0][0])


def test_a_crash_at_any_moment_leaves_a_pair_that_works(tmp_path: Path) -> None:
    """Graph and data are several files: at no moment does a graph find the data of another one."""
    graph = tmp_path / "model.onnx"
    seen = set()
    for step in range(1, 20):
        for entry in tmp_path.iterdir():
            entry.unlink()
        publish_pair(graph, 1.0)
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                kill_before_change(tmp_path, step)
                publish_pair(graph, 2.0)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = what_it_adds(graph)
        seen.add(found)
        clean_leftovers(graph)
        assert what_it_adds(graph) in ({1.0, 2.0} if code else {2.0})
        # One data file, the graph's own.
        assert len(list(tmp_path.iterdir())) == 2
        if code == 0:
            break
    assert code == 0 and seen == {1.0, 2.0} and step > 3


def kill_before_change(root: Path, step: int) -> None:
    """End this process before its `step`th rename or removal of a file in `root` itself."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in ("os.rename", "os.remove"):
            places = [Path(os.fsdecode(one)) for one in arguments if isinstance(one, (str, bytes, Path))]
            count += any(place.parent == root for place in places)
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def test_failed_graph_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError), stage_file(tmp_path / "out" / "model.onnx") as staging:
        (staging.path / "model.onnx").write_text("x")
        raise ValueError
    assert tree(tmp_path) == {}


def test_two_graphs_at_once(tmp_path: Path) -> None:
    with stage_file(tmp_path / "model.onnx") as first, pytest.raises(OutputError):
        with stage_file(tmp_path / "model.onnx") as second:
            for staging, text in ((first, "first"), (second, "second")):
                (staging.path / "model.onnx").write_text(text)
            first.publish()
            second.publish()
    assert tree(tmp_path) == {"model.onnx": "first"}


@pytest.mark.parametrize("moved_before_death", [0, 1])
@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_between_data_and_graph(moved_before_death: int, overwrite: bool, tmp_path: Path) -> None:
    """Data and graph cannot change in one step; the next start makes both old or both new."""
    if overwrite:
        publish_graph(tmp_path / "model.onnx", "old")
    body = f"""
        from onnxport.publishing import atomic_rename as moves
        real = moves.os.replace if overwrite else moves.rename_new
        count = 0
        def die(source, target):
            global count
            if count == {moved_before_death}: {KILL}
            count += 1
            return real(source, target)
        if overwrite: moves.os.replace = die
        else: moves.rename_new = die
        (staging.path / "model.onnx_data").write_text("new")
        staging.publish()
    """
    indented = textwrap.indent(textwrap.dedent(body), "    ")
    with start(tmp_path / "model.onnx", indented, overwrite=overwrite, stage="stage_file") as process:
        assert process.wait() == -signal.SIGKILL, process.communicate()[1]
    clean_leftovers(tmp_path / "model.onnx")
    new = {"model.onnx": "new", "model.onnx_data": "new"}
    old = {"model.onnx": "old", "model.onnx_data": "old"} if overwrite else {}
    assert tree(tmp_path) == (new if moved_before_death else old)


def test_interrupt_between_data_and_graph_completes_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_graph(tmp_path / "model.onnx", "old")
    replace, calls = os.replace, 0

    def interrupted(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(moves.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish_graph(tmp_path / "model.onnx", "new", overwrite=True)
    assert tree(tmp_path) == {"model.onnx": "new", "model.onnx_data": "new"}
