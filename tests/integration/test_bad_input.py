"""What is wrong, exit code 2, and nothing written: through the command line, as a user meets it.

Most cases run it in this process. Three are processes of their own: they say that the exit code and the streams of a
process are those of `main`, for an error before the framework is loaded, for one behind it, and without the framework.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tiny import save
from tests.unit.cli_runner import refusal, run, run_apart

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return save("bert-text-classification", tmp_path_factory.mktemp("good") / "m")


@pytest.fixture
def source(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "m"))


def refused_apart(*arguments: str | Path, writes: Path, **environment: str) -> str:
    """What the fixture `refused` does, in a process of its own."""
    outcome = run_apart("convert", *arguments, timeout=300, env={**os.environ, **environment})
    return refusal(outcome, writes)


def test_missing_path(tmp_path):
    said = refused_apart(tmp_path / "no" / "such", tmp_path / "out", writes=tmp_path / "out")
    assert "such" in said


def test_empty_folder(refused, tmp_path):
    (tmp_path / "m").mkdir()
    assert "empty" in refused(tmp_path / "m", tmp_path / "out", writes=tmp_path / "out")


def test_no_config(refused, source, tmp_path):
    (source / "config.json").unlink()
    assert "config.json" in refused(source, tmp_path / "out", writes=tmp_path / "out")


def test_broken_json(refused, source, tmp_path):
    (source / "config.json").write_text('{"model_type": "bert",\n "hidden_size": }')
    said = refused(source, tmp_path / "out", writes=tmp_path / "out")
    assert "config.json" in said and "line 2" in said


def test_truncated_safetensors(source, tmp_path):
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    said = refused_apart(source, tmp_path / "out", writes=tmp_path / "out")
    assert "model.safetensors" in said


def test_weights_that_are_missing(refused, source, tmp_path):
    from safetensors.numpy import load_file, save_file

    weights = load_file(source / "model.safetensors")
    save_file({k: v for k, v in weights.items() if not k.startswith("classifier")}, source / "model.safetensors")
    said = refused(source, tmp_path / "out", writes=tmp_path / "out")
    assert "classifier.weight" in said and "--allow-missing-weights" in said


def test_weights_of_another_shape(refused, source, tmp_path):
    import numpy as np
    from safetensors.numpy import load_file, save_file

    weights = load_file(source / "model.safetensors")
    weights["classifier.weight"] = np.zeros((7, 32), np.float32)
    save_file(weights, source / "model.safetensors")
    assert "classifier.weight" in refused(source, tmp_path / "out", writes=tmp_path / "out")


def test_pickle_is_refused_and_never_opened(refused, source, tmp_path):
    # A pickle that would leave a trace if it were loaded.
    (source / "model.safetensors").unlink()
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "executed").encode() + b"'\ntR."
    (source / "pytorch_model.bin").write_bytes(bomb)
    said = refused(source, tmp_path / "out", writes=tmp_path / "out")
    assert "--allow-pickle" in said
    refused(source, tmp_path / "out", "--allow-pickle", writes=tmp_path / "out")  # torch's restricted unpickler
    assert not (tmp_path / "executed").exists()


def test_custom_code_is_refused_and_never_run(refused, source, tmp_path):
    config = json.loads((source / "config.json").read_text())
    config |= {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "code.C", "AutoModelForSequenceClassification": "code.M"},
    }
    (source / "config.json").write_text(json.dumps(config))
    (source / "code.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    said = refused(source, tmp_path / "out", writes=tmp_path / "out")
    assert "--trust-remote-code" in said
    assert not (tmp_path / "executed").exists()


def test_unknown_task(refused, source, tmp_path):
    said = refused(source, tmp_path / "out", "--task", "text-clasification", writes=tmp_path / "out")
    assert "Did you mean 'text-classification'" in said


def test_task_that_the_model_cannot_do(refused, source, tmp_path):
    said = refused(source, tmp_path / "out", "--task", "image-classification", writes=tmp_path / "out")
    assert "bert" in said.lower() and "text-classification" in said


@pytest.mark.parametrize("opset", ["11", "16", "26", "99"])
def test_opset_out_of_range(refused, opset, source, tmp_path):
    said = refused(source, tmp_path / "out", "--opset", opset, writes=tmp_path / "out")
    assert f"Opset {opset} is not supported: use 17 to" in said


def test_output_not_empty(source, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for flags in ((), ("--overwrite",)):  # a stranger's folder is not replaced even with --overwrite
        outcome = run(capsys, "convert", source, tmp_path / "out", *flags)
        assert outcome.code == 2 and "Traceback" not in outcome.err
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 64 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


def test_full_disk(refused, source, small_disk):
    said = refused(source, small_disk / "out", writes=small_disk / "out")
    assert "space" in said.lower()
    assert list(small_disk.iterdir()) == []


def test_read_only_disk(refused, source, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    said = refused(source, small_disk / "out", writes=small_disk / "out")
    assert "not writable" in said


def test_torch_not_installed(source, tmp_path):
    # An importer that hides torch, as on a machine with the base install.
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name.split('.')[0] == 'torch' else find(name, *a)\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name='torch')\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    paths = [str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    said = refused_apart(source, tmp_path / "out", writes=tmp_path / "out", PYTHONPATH=os.pathsep.join(paths))
    assert 'pip install "onnxport[pytorch]"' in said
