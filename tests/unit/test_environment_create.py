"""Making and removing an environment with a package that is built here; nothing is downloaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from onnxport.environments import ENVIRONMENTS, Definition, State, create, processes, remove, status_of
from onnxport.environments.locks import using
from onnxport.environments.places import folder_of, python_of
from onnxport.environments.state import state_of
from onnxport.errors import ManagedEnvironmentError, OutputError, UsageError
from onnxport.progress import Silent, Step
from tests.unit.cli_runner import run
from tests.unit.environment_samples import make_wheel, tiny_definition

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Definition:
    """An environment with one package, which pip finds in a folder."""
    make_wheel(tmp_path / "wheels", "onnxport_tiny")
    monkeypatch.setenv("ONNXPORT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    definition = tiny_definition(tmp_path)
    monkeypatch.setitem(ENVIRONMENTS, "tiny", definition)
    return definition


class Titles(Silent):
    """Remembers the steps."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        self.titles.append(title)
        with super().step(title) as step:
            yield step


@pytest.mark.slow
def test_create_use_and_remove(tiny: Definition, tmp_path: Path, capsys: Capture) -> None:
    # One that cannot be used is not whole; the same pins with a better check go on from it.
    with pytest.raises(ManagedEnvironmentError, match=r"cannot be used: .*onnxport_absent"):
        create(tiny_definition(tmp_path, check="import onnxport_absent"))
    assert state_of(tiny) is State.INCOMPLETE

    created = run(capsys, "env", "create", "tiny", "--json")
    assert created.code == 0, created.err
    assert created.document["state"] == "whole"
    assert created.document["path"] == str(folder_of("tiny"))
    assert [line.split()[1] for line in created.err.splitlines()] == ["Create", "Install", "Check"]
    value = subprocess.run(
        [python_of(folder_of("tiny")), "-c", "import onnxport_tiny; print(onnxport_tiny.VALUE)"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert value.stdout == "1\n"

    again = Titles()
    assert create(tiny, again).state is State.WHOLE
    assert again.titles == []

    (row,) = [row for row in run(capsys, "env", "list", "--json").document if row["name"] == "tiny"]
    assert row.keys() == {"name", "purpose", "state", "python", "size_bytes", "path"}
    assert row["python"].startswith("3.")
    assert row["size_bytes"] > 1_000_000
    assert "whole" in run(capsys, "env", "list").out

    with using("tiny"):
        busy = run(capsys, "env", "remove", "tiny")
    assert busy.code == 2
    assert "uses the environment tiny" in busy.err
    removed = run(capsys, "env", "remove", "tiny", "--json")
    assert removed.code == 0
    assert removed.document["state"] == "not created"
    assert removed.document["freed_bytes"] == row["size_bytes"]
    assert not folder_of("tiny").exists()


@pytest.mark.sweep
def test_older_pins_are_replaced_and_nothing_of_them_stays(tiny: Definition, tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "onnxport_old")
    tiny.lock.write_text("onnxport-old==1.0\nonnxport-tiny==1.0\n", encoding="utf-8")
    create(tiny)
    tiny.lock.write_text("onnxport-tiny==1.0\n", encoding="utf-8")
    assert state_of(tiny) is State.OUTDATED
    assert create(tiny).state is State.WHOLE
    assert list(folder_of("tiny").rglob("onnxport_tiny.py"))
    assert not list(folder_of("tiny").rglob("onnxport_old.py"))


@pytest.mark.slow
@pytest.mark.sweep
def test_a_package_that_is_not_found_is_told_and_the_next_create_goes_on(
    tiny: Definition, tmp_path: Path, capsys: Capture
) -> None:
    tiny.lock.write_text("onnxport-tiny==1.0\nonnxport-late==2.0\n", encoding="utf-8")
    failed = run(capsys, "env", "create", "tiny", "--verbose")
    assert failed.code == 2
    assert "pip could not install the packages of tiny: " in failed.err
    assert "No matching distribution found for onnxport-late==2.0" in failed.err
    assert "onnxport env create tiny goes on" in failed.err
    assert "Looking in links" in failed.err.partition("printed by libraries")[2]
    assert state_of(tiny) is State.INCOMPLETE
    make_wheel(tmp_path / "wheels", "onnxport_late", "2.0")
    done = run(capsys, "env", "create", "tiny")
    assert done.code == 0
    assert "goes on where it stopped" in done.err
    assert done.out.strip() == str(folder_of("tiny"))


@pytest.mark.slow
@pytest.mark.sweep
def test_packages_that_do_not_fit_together(tiny: Definition, tmp_path: Path) -> None:
    make_wheel(tmp_path / "wheels", "onnxport_needy", requires="onnxport-tiny>=7")
    tiny.lock.write_text("onnxport-tiny==1.0\nonnxport-needy==1.0\n", encoding="utf-8")
    with pytest.raises(ManagedEnvironmentError, match=r"do not fit together: onnxport-needy 1\.0 has requirement"):
        create(tiny)
    assert state_of(tiny) is State.INCOMPLETE


def test_too_little_space_is_told_before_anything_is_made(tiny: Definition) -> None:
    huge = Definition("tiny", "Tests", tiny.lock, (3, 11), (3, 99), 10**16, 0, "")
    with pytest.raises(OutputError, match="it needs about") as caught:
        create(huge)
    assert "ONNXPORT_HOME" in str(caught.value.hint)
    assert not folder_of("tiny").exists()


def test_a_home_that_cannot_be_written(tiny: Definition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ONNXPORT_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(OutputError, match="file is a file"):
        create(tiny)


def test_what_is_behind_a_link_is_left_alone(tiny: Definition, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    folder_of("tiny").parent.mkdir(parents=True)
    folder_of("tiny").symlink_to(tmp_path / "precious")
    for change in (create, remove):
        with pytest.raises(OutputError, match="is a symbolic link"):
            change(tiny)
    assert (tmp_path / "precious" / "file").exists()


def test_remove_what_is_not_there(tiny: Definition, capsys: Capture) -> None:
    with pytest.raises(UsageError, match="There is no environment tiny"):
        remove(tiny)
    unknown = run(capsys, "env", "remove", "tinny")
    assert unknown.code == 2
    assert "Did you mean 'tiny'?" in unknown.err


def test_remove_of_an_incomplete_one(tiny: Definition) -> None:
    folder_of("tiny").mkdir(parents=True)
    assert remove(tiny).state is State.INCOMPLETE
    assert status_of(tiny).state is State.NOT_CREATED


_PROGRAM = """
import sys
from pathlib import Path
from onnxport.environments.definition import ENVIRONMENTS, Definition
from onnxport.cli.main import main
ENVIRONMENTS["tiny"] = Definition("tiny", "Tests", Path(sys.argv[1]), (3, 11), (3, 99), 1, 0, "import onnxport_tiny")
sys.exit(main(["env", "create", "tiny"]))
"""


@pytest.mark.slow
def test_an_interrupted_create_stops_pip_and_is_completed_later(tiny: Definition) -> None:
    # A package index that never answers: pip waits until it is stopped.
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        variables = {
            name: value for name, value in os.environ.items() if name not in ("PIP_NO_INDEX", "PIP_FIND_LINKS")
        }
        variables["PIP_INDEX_URL"] = f"http://127.0.0.1:{port}/simple"
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, tiny.lock], env=variables, stderr=subprocess.PIPE, text=True
        )
        server.settimeout(60)
        connection, _ = server.accept()
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert time.monotonic() - started < 15
        connection.settimeout(10)
        while connection.recv(65536):  # its end: pip is gone
            pass
        connection.close()
    assert process.returncode == 130, said
    assert "interrupted: `onnxport env create tiny` continues" in said
    assert "Traceback" not in said
    assert state_of(tiny) is State.INCOMPLETE
    (folder_of("tiny") / "tmp").mkdir(exist_ok=True)
    (folder_of("tiny") / "tmp" / "left by a crash").touch()
    assert create(tiny).state is State.WHOLE
    assert not (folder_of("tiny") / "tmp").exists()


@pytest.mark.sweep
def test_how_far_pip_is_is_told_while_it_runs(tiny: Definition, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_LOOK_SECONDS", 0.02)
    told: list[tuple[int, int]] = []

    class Telling(Titles):
        @contextmanager
        def step(self, title: str) -> Iterator[Step]:
            with super().step(title) as step:
                monkeypatch.setattr(step, "advance", lambda done, total: told.append((done, total)))
                yield step

    create(tiny, Telling())
    assert told and {total for _, total in told} == {tiny.disk_bytes + tiny.download_bytes}
    assert all(done > 1_000_000 for done, _ in told)  # pip itself is there already
