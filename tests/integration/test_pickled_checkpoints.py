"""Checkpoints of the time before safetensors: what works with permission, and that nothing in them is ever run."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from onnxport import convert, pipeline
from onnxport.errors import CheckpointError, UntrustedCheckpointError
from tests.sample import sampled
from tests.tiny import save

pytestmark = pytest.mark.integration

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, State]:
    folder = save("bert-text-classification", tmp_path_factory.mktemp("pickled") / "m")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return folder, state


@pytest.fixture
def source(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved[0], tmp_path / "m"))


def _sharded(folder: Path, state: State) -> None:
    names = sorted(state)
    files = {f"pytorch_model-0000{i + 1}-of-00003.bin": names[i::3] for i in range(3)}
    for file, part in files.items():
        torch.save({name: state[name] for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def _legacy(folder: Path, state: State) -> None:
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(folder / "pytorch_model.bin")


def _strided(folder: Path, state: State) -> None:
    """Tensors that do not lie in the file in order, and one storage for several."""
    changed = {name: t.t().contiguous().t() if t.dim() == 2 else t for name, t in state.items()}
    torch.save(changed, folder / "pytorch_model.bin")


@pytest.mark.parametrize("write", sampled([_sharded, _legacy, _strided], _strided))
def test_conversion(write: Callable[[Path, State], None], saved, source, tmp_path) -> None:
    write(source, saved[1])
    with pytest.raises(UntrustedCheckpointError, match="--allow-pickle"):
        convert(None, source, tmp_path / "out")
    done = convert(None, source, tmp_path / "out", allow_pickle=True)
    assert done.passed
    assert not list((tmp_path / "out").rglob("*.bin"))
    sentence = "I love this film."
    plain = pipeline("text-classification", model=str(source), allow_pickle=True)(sentence)
    assert pipeline(model=str(tmp_path / "out"))(sentence)[0]["score"] == pytest.approx(plain[0]["score"], abs=1e-5)


class _Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def _saved(value: object, **how: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "shard"])
def test_code_is_never_run(kind: str, saved, source, tmp_path, refused) -> None:
    trace = tmp_path / "executed"
    value = {**saved[1], "classifier.extra": _Bomb(trace)}
    file = source / "pytorch_model.bin"
    if kind == "bare":
        file.write_bytes(pickle.dumps(_Bomb(trace)))
    elif kind == "shard":
        _sharded(source, saved[1])
        file = source / "pytorch_model-00002-of-00003.bin"
        file.write_bytes(_saved(value))
    else:
        file.write_bytes(_saved(value, _use_new_zipfile_serialization=kind == "zip"))
    said = refused(source, tmp_path / "out", "--allow-pickle", writes=tmp_path / "out")
    assert file.name in said
    assert "weights_only" not in said  # torch's message advises to run it
    if kind != "bare":
        assert "posix.system" in said and "no code was run." in said
    with pytest.raises(CheckpointError, match=file.name):  # through transformers' own reader too
        pipeline("text-classification", model=str(source), allow_pickle=True)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda state: _saved(state)[:-2000], "cut off"),
        (lambda state: _saved(state, _use_new_zipfile_serialization=False)[:-2000], "damaged"),
        (lambda state: _saved(state)[:60] + bytes(400) + _saved(state)[460:], "damaged"),
        (lambda state: b"not a pickle at all " * 20, "damaged"),
        (lambda state: _saved(list(state.values())), "holds a list"),
        (lambda state: _saved({"state_dict": state, "epoch": 3}), "with weights in 'state_dict'"),
        (lambda state: _saved(torch.nn.Linear(2, 2)), "torch.nn.modules.linear.Linear"),
    ],
    ids=["cut", "legacy-cut", "damaged", "garbage", "list", "nested", "module"],
)
def test_files_that_cannot_be_read(make: Callable[[State], bytes], part: str, saved, source, tmp_path) -> None:
    (source / "pytorch_model.bin").write_bytes(make(saved[1]))
    with pytest.raises(CheckpointError) as caught:
        convert(None, source, tmp_path / "out", allow_pickle=True)
    assert part in caught.value.message and "pytorch_model.bin" in caught.value.message
    assert caught.value.outcome == "Nothing was written." and caught.value.hint
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_shard(saved, source, tmp_path) -> None:
    _sharded(source, saved[1])
    (source / "pytorch_model-00003-of-00003.bin").unlink()
    with pytest.raises(CheckpointError, match="lacks 1 of its 3 weight files"):
        convert(None, source, tmp_path / "out", allow_pickle=True)
