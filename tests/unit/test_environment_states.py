"""Managed environments on disk: definitions, places, states, locks, what pip left unfinished."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

import pytest

from onnxport import environments
from onnxport.environments import ENVIRONMENTS, State
from onnxport.environments.bridge import bridge
from onnxport.environments.creation import forget_unfinished, last_words, require_python
from onnxport.environments.locks import changing, using
from onnxport.environments.places import disk_bytes, folder_of, home, lock_file_of, python_of
from onnxport.environments.processes import clean_variables
from onnxport.environments.state import state_of
from onnxport.errors import ManagedEnvironmentError, MissingDependencyError, UsageError
from tests.unit.environment_samples import this_python


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_every_package_is_pinned_to_one_version(name: str) -> None:
    packages = ENVIRONMENTS[name].packages()
    names = [re.fullmatch(r"([\w.-]+)==[\w.]+( ?; .+)?", line) for line in packages]
    assert all(names)
    assert len({match[1].lower().replace("_", "-") for match in names if match}) == len(packages)


def test_the_pins_of_hf_tensorflow() -> None:
    packages = ENVIRONMENTS["hf-tensorflow"].packages()
    wanted = "tensorflow==2.21.0 tf-keras==2.21.0 transformers==4.52.4 tf2onnx==1.17.0 onnx==1.23.2 onnxruntime==1.32.0"
    assert set(wanted.split()) <= set(packages)
    # What onnxport itself imports there.
    names = {line.partition("==")[0].lower() for line in packages}
    assert {"rich", "typer", "numpy", "tokenizers", "sentencepiece", "pillow", "jinja2", "safetensors"} <= names


def test_the_lock_is_package_data() -> None:
    root = Path(__file__).parents[2]
    assert '"environments/*.txt"' in (root / "pyproject.toml").read_text(encoding="utf-8")
    assert ENVIRONMENTS["hf-tensorflow"].lock.parent == root / "src" / "onnxport" / "environments"


def test_a_python_without_wheels_is_refused() -> None:
    definition = ENVIRONMENTS["hf-tensorflow"]
    require_python(definition, (3, 13))
    with pytest.raises(ManagedEnvironmentError, match=r"3\.11 to 3\.13, and this is Python 3\.14"):
        require_python(definition, (3, 14))


def test_an_unknown_name_suggests() -> None:
    with pytest.raises(UsageError) as caught:
        environments.find_definition("hf-tensorflwo")
    assert caught.value.hint == "Did you mean 'hf-tensorflow'?"


def test_where_environments_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONNXPORT_HOME", str(tmp_path / "own"))
    assert folder_of("x") == tmp_path / "own" / "envs" / "x"
    monkeypatch.delenv("ONNXPORT_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert home() == tmp_path / "xdg" / "onnxport"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".local" / "share" / "onnxport"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert home() == tmp_path / "Library" / "Application Support" / "onnxport"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert home() == tmp_path / "local" / "onnxport"


def test_states(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    definition = this_python("stand-in", tmp_path, monkeypatch)
    assert state_of(definition) is State.WHOLE
    assert environments.require("stand-in") == python_of(folder_of("stand-in"))
    definition.lock.write_text("another==2\n", encoding="utf-8")
    assert state_of(definition) is State.OUTDATED
    assert state_of(replace(definition, name="other")) is State.NOT_CREATED
    definition.lock.write_text("# only a comment\n", encoding="utf-8")
    assert state_of(definition) is State.WHOLE
    python_of(folder_of("stand-in")).unlink()
    assert state_of(definition) is State.INCOMPLETE


@pytest.mark.parametrize("marker", ["", "[]", '{"pins": ', "{}"])
def test_a_broken_marker_is_an_incomplete_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, marker: str
) -> None:
    definition = this_python("stand-in", tmp_path, monkeypatch)
    (folder_of("stand-in") / "onnxport-whole.json").write_text(marker, encoding="utf-8")
    assert state_of(definition) is State.INCOMPLETE


def test_require_says_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONNXPORT_HOME", str(tmp_path))
    with pytest.raises(MissingDependencyError) as caught:
        environments.require("hf-tensorflow")
    assert caught.value.hint == "onnxport env create hf-tensorflow"
    assert "is not there yet." in caught.value.message
    folder_of("hf-tensorflow").mkdir(parents=True)
    with pytest.raises(MissingDependencyError, match="is incomplete") as caught:
        environments.require("hf-tensorflow")
    assert caught.value.hint == "onnxport env create hf-tensorflow"


def test_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONNXPORT_HOME", str(tmp_path))
    with using("x") as held:  # nothing to lock yet
        assert held == ()
    with changing("x"):
        with pytest.raises(ManagedEnvironmentError, match="Another process makes or removes"), using("x"):
            pass
        with pytest.raises(ManagedEnvironmentError), changing("x"):
            pass
        with changing("y"):
            pass
    with using("x"), using("x"):
        with pytest.raises(ManagedEnvironmentError, match="makes, removes or uses"), changing("x"):
            pass
    with changing("x"):
        pass
    assert lock_file_of("x").is_file()


def test_a_lock_lives_as_long_as_a_process_that_got_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONNXPORT_HOME", str(tmp_path))
    with changing("x") as held:
        pip = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=held)
    with pytest.raises(ManagedEnvironmentError), changing("x"):
        pass
    pip.communicate()
    with changing("x"):
        pass


def test_nothing_of_the_caller_leaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "leak.py").touch()
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "VIRTUAL_ENV", "PIP_TARGET"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with bridge() as path:
        variables = clean_variables(path)
        code = "import sys, onnxport; print(onnxport.__file__); import leak"
        done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
        assert [entry.name for entry in path.iterdir()] == ["onnxport"]
    assert done.stdout.strip() == str(path / "onnxport" / "__init__.py")
    assert "No module named 'leak'" in done.stderr
    assert not {"PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET"} & set(variables)
    assert not path.exists()


def test_the_bridge_is_a_copy_where_links_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no right to link")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with bridge() as path:
        assert not (path / "onnxport").is_symlink()
        assert (path / "onnxport" / "environments" / "hf-tensorflow.txt").is_file()


def _package(folder: Path, name: str, *, finished: bool = True) -> Path:
    """A package as pip leaves it."""
    place = folder / "lib" / "python3.11" / "site-packages"
    info = place / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (place / f"{name}.py").write_text("x = 1\n", encoding="utf-8")
    (info / "METADATA").touch()
    own = f"{info.name}/INSTALLER,sha256=x,4\n" if finished else ""
    (info / "INSTALLER").write_text("pip\n", encoding="utf-8")
    (info / "RECORD").write_text(f"{name}.py,sha256=x,6\n__pycache__/{name}.pyc,,\n{own}", encoding="utf-8")
    return place / f"{name}.py"


def test_packages_that_pip_did_not_finish_are_forgotten(tmp_path: Path) -> None:
    _package(tmp_path, "good")
    _package(tmp_path, "stopped", finished=False)
    _package(tmp_path, "gone").unlink()
    _package(tmp_path, "torn").write_text("x", encoding="utf-8")
    (tmp_path / "lib" / "python3.11" / "site-packages" / "bare-1.dist-info").mkdir()
    assert sorted(forget_unfinished(tmp_path)) == [
        f"{name}-1.dist-info" for name in ("bare", "gone", "stopped", "torn")
    ]
    assert forget_unfinished(tmp_path) == []


def test_what_pip_installed_is_told_from_what_it_did_not_finish() -> None:
    # The rule is about pip's habits: it must hold for a package that pip has really installed.
    record = distribution("pytest").read_text("RECORD") or ""
    assert "INSTALLER" in record


def test_sizes_are_those_of_du(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "a" / "file", tmp_path / "again")
    assert 100_000 <= disk_bytes(tmp_path) < 110_000
    assert disk_bytes(tmp_path / "absent") == 0


def test_last_words() -> None:
    assert last_words("Collecting x\nERROR: No matching distribution\n[notice] new pip\n") == "No matching distribution"
    assert last_words("a\nb\n\nc\n") == "b c"
    assert last_words("") == "it said nothing."
    assert len(last_words("x" * 5000)) < 600


def test_every_package_of_the_lock_has_a_version_and_a_hash() -> None:
    text = ENVIRONMENTS["hf-tensorflow"].lock.read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z])", re.sub(r"^#.*\n", "", text, flags=re.M).strip())
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.]+", entry) and "--hash=sha256:" in entry, entry
