"""Bad and good checkpoints, told apart without any framework."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from onnxport import checkpoint as checkpoint_module
from onnxport.checkpoint import inspect_checkpoint, transformers_knows
from onnxport.errors import CheckpointError, MissingDependencyError, UntrustedCheckpointError
from onnxport.hub import looks_like_path
from onnxport.safetensors_file import read_header

CONFIG = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}


def safetensors_bytes(tensors: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file of zeros; F32 has 4 bytes an element, everything else here 2."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    place = 0
    for name, (dtype, shape) in tensors.items():
        size = (4 if dtype == "F32" else 2) * int(np_prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(place)


def np_prod(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


WEIGHTS = safetensors_bytes({"a": ("F32", (3, 5)), "b": ("F32", (7,))}, {"format": "pt"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole checkpoint."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "model.safetensors").write_bytes(WEIGHTS)
    return path


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


def fails(path: str | Path, *parts: str, kind: type[CheckpointError] = CheckpointError, **kwargs: Any) -> str:
    """Inspect, expect an error whose text has all `parts` and says that nothing was written."""
    with pytest.raises(kind) as caught:
        inspect_checkpoint(path, **kwargs)
    error = caught.value
    text = str(error)
    for part in parts:
        assert part in text, text
    assert "othing was written" in error.message
    assert error.hint
    return text


def test_whole_checkpoint(folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"pickled, and nobody reads it")
    found = inspect_checkpoint(folder)
    assert found.model_type == "bert"
    assert found.architectures == ("BertForMaskedLM",)
    assert found.weight_files == (folder / "model.safetensors",)
    assert (found.weights_format, found.framework, found.dtype) == ("safetensors", "pt", "float32")
    assert found.total_bytes == len(WEIGHTS)
    assert found.source == "model"
    assert not found.is_sentence_transformers
    assert not found.notes


def test_no_framework_is_imported(folder: Path) -> None:
    code = (
        "import sys; from onnxport.checkpoint import inspect_checkpoint; "
        f"inspect_checkpoint({str(folder)!r}); "
        "heavy = {'torch', 'transformers', 'numpy', 'huggingface_hub', 'safetensors'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "nowhere/", "..\\windows"])
def test_path_that_does_not_exist(name: str) -> None:
    assert looks_like_path(name)
    fails(name, "There is no folder", repr(name))


def test_close_folder_is_suggested(folder: Path) -> None:
    fails(folder.parent / "modle", "Did you mean", str(folder))


def test_first_part_that_exists_makes_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert looks_like_path("models/absent")
    assert not looks_like_path("user/absent")
    assert not looks_like_path("bert-base-uncased")


def test_hub_name_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError) as caught:
        inspect_checkpoint("user/absent")
    assert caught.value.hint == 'pip install "onnxport[pytorch]"'


@pytest.mark.parametrize(
    ("error", "part"),
    [
        ("LocalEntryNotFoundError", "cannot be reached"),
        ("OfflineModeIsEnabled", "cannot be reached"),
        ("HFValidationError", "cannot be the name"),
        ("GatedRepoError", "is gated"),
        ("RepositoryNotFoundError", "no public model of that name"),
        ("RevisionNotFoundError", "no revision"),
        ("HfHubHTTPError", "did not deliver"),
    ],
)
def test_hub_errors(error: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    kind = getattr(pytest.importorskip("huggingface_hub.errors"), error)

    def refuse(*args: Any, **kwargs: Any) -> str:
        raise kind.__new__(kind, "refused")  # without a response, which some constructors ask for

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    fails("user/absent", part)


def test_hub_download(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[Any] = []

    def download(name: str, **kwargs: Any) -> str:
        asked.append((name, kwargs))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert inspect_checkpoint("user/model", revision="v1").source == "user/model"
    inspect_checkpoint("user/model", allow_pickle=True, trust_remote_code=True)
    (name, first), (_, second) = asked
    assert (name, first["revision"]) == ("user/model", "v1")
    assert not {"*.bin", "*.py"} & set(first["allow_patterns"])
    assert {"*.bin", "*.py"} <= set(second["allow_patterns"])


def test_empty_folder(tmp_path: Path) -> None:
    fails(tmp_path, "is empty")


def test_file_instead_of_a_folder(folder: Path) -> None:
    fails(folder / "model.safetensors", "is a file", "Give the folder")
    graph = folder / "model.onnx"
    graph.write_bytes(b"")
    fails(graph, "an ONNX graph already")


@pytest.mark.parametrize(
    ("file", "content", "part"),
    [
        ("notes.txt", "", "it holds notes.txt"),
        ("model.Q4.gguf", "", "GGUF"),
        ("saved_model.pb", "", "SavedModel"),
        ("net.keras", "", "Keras model"),
        ("model.onnx", "", "ONNX graph already"),
        ("model_index.json", "{}", "diffusers"),
        ("adapter_config.json", '{"base_model_name_or_path": "user/base", "peft_type": "LORA"}', "LORA) for user/base"),
        ("onnxport.json", "{}", "already converted"),
    ],
)
def test_folder_without_config(tmp_path: Path, file: str, content: str, part: str) -> None:
    (tmp_path / file).write_text(content)
    fails(tmp_path, part)


def test_checkpoints_one_level_below(folder: Path) -> None:
    fails(folder.parent, "Did you mean", str(folder))


def test_converted_folder(folder: Path) -> None:
    (folder / "onnxport.json").write_text("{}")
    fails(folder, "already converted", "onnxport run")


@pytest.mark.parametrize(
    "file",
    ["config.json", "tokenizer_config.json", "preprocessor_config.json", "modules.json", "tokenizer.json"],
)
def test_broken_json(folder: Path, file: str) -> None:
    (folder / file).write_text('{"a": 1,\n  "b": }\n')
    fails(folder, file, "line 2, column 8")


def test_json_of_another_kind(folder: Path) -> None:
    (folder / "modules.json").write_text("{}")
    fails(folder, "modules.json", "not a list")
    (folder / "modules.json").unlink()
    (folder / "config.json").write_text("[]")
    fails(folder, "config.json", "list")
    (folder / "config.json").write_bytes(b'{"a": "\xff"}')
    fails(folder, "not UTF-8")
    (folder / "config.json").write_text("[" * 100_000)
    fails(folder, "nested too deeply")


def test_byte_order_mark_is_no_error(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(CONFIG).encode())
    assert inspect_checkpoint(folder).model_type == "bert"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "cut off or empty"),
        (WEIGHTS[:4], "cut off or empty"),
        (WEIGHTS[:40], "its header alone is"),
        (WEIGHTS[:-10], "10 are missing"),
        (WEIGHTS + b"more", "4 bytes follow"),
        (b"PK\x03\x04" + bytes(100), "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n", "Git LFS pointer"),
        (struct.pack("<Q", 4) + b"{oh}", "not JSON"),
        (struct.pack("<Q", 2) + b"[]", "not a safetensors file"),
        (struct.pack("<Q", 8) + b'{"a":{}}', "'a' is incomplete"),
    ],
)
def test_damaged_safetensors(folder: Path, content: bytes, part: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    fails(folder, "model.safetensors", part)


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}, "does not start where"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "has 8 bytes"),
        ({"dtype": "F32", "shape": ["x"], "data_offsets": [0, 8]}, "incomplete"),
    ],
)
def test_header_that_contradicts_itself(folder: Path, entry: dict[str, Any], part: str) -> None:
    raw = json.dumps({"a": entry}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(12))
    fails(folder, "'a'", part)


def test_header_places(folder: Path) -> None:
    header = read_header(folder / "model.safetensors")
    start = len(WEIGHTS) - 4 * (15 + 7)
    assert (header.tensors["a"].begin, header.tensors["a"].end) == (start, start + 60)
    assert header.tensors["b"].end == len(WEIGHTS)
    assert header.metadata == {"format": "pt"}


def test_dtype_is_that_of_most_bytes(folder: Path) -> None:
    mixed = safetensors_bytes({"a": ("F32", (2,)), "b": ("BF16", (100,))})
    (folder / "model.safetensors").write_bytes(mixed)
    assert inspect_checkpoint(folder).dtype == "bfloat16"


def test_tensorflow_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(safetensors_bytes({"a": ("F32", (2,))}, {"format": "tf"}))
    assert inspect_checkpoint(folder).framework == "tf"
    (folder / "model.safetensors").write_bytes(safetensors_bytes({"a": ("F32", (2,))}, {"format": "flax"}))
    fails(folder, "weights for flax")


def shard(folder: Path, weight_map: dict[str, str]) -> None:
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def test_shards(folder: Path) -> None:
    shard(folder, {"a": "part-1.safetensors", "b": "part-2.safetensors"})
    fails(folder, "lacks 2 of its 2 weight files", "part-1.safetensors")
    (folder / "part-1.safetensors").write_bytes(safetensors_bytes({"a": ("F32", (3,))}))
    fails(folder, "lacks 1 of its 2 weight files", "part-2.safetensors")
    (folder / "part-2.safetensors").write_bytes(safetensors_bytes({"other": ("F32", (3,))}))
    fails(folder, "part-2.safetensors holds 'b'")
    (folder / "part-2.safetensors").write_bytes(safetensors_bytes({"b": ("F32", (3,))})[:-1])
    fails(folder, "part-2.safetensors is cut off")
    (folder / "part-2.safetensors").write_bytes(safetensors_bytes({"b": ("F32", (3,))}))
    assert len(inspect_checkpoint(folder).weight_files) == 2


def test_index_faults(folder: Path) -> None:
    shard(folder, {"a": "../outside.safetensors"})
    fails(folder, "outside of the folder")
    (folder / "model.safetensors.index.json").write_text("{")
    fails(folder, "model.safetensors.index.json", "line 1")
    (folder / "model.safetensors.index.json").write_text("{}")
    fails(folder, "without a weight_map")


def pickled(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(50))
    return file


def test_pickle_is_refused(folder: Path) -> None:
    file = pickled(folder)
    fails(folder, "only as pickle", "--allow-pickle", kind=UntrustedCheckpointError)
    found = inspect_checkpoint(folder, allow_pickle=True)
    assert (found.weights_format, found.weight_files) == ("pickle", (file,))
    file.write_bytes(file.read_bytes()[:-20])
    fails(folder, "cut off", allow_pickle=True)


def test_pickle_under_another_name(folder: Path) -> None:
    pickled(folder).rename(folder / "best.pt")
    fails(folder, "best.pt", kind=UntrustedCheckpointError)
    (folder / "best.pt").rename(folder / "training_args.bin")
    fails(folder, "no weights")


def test_safetensors_win_over_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"PK cut")
    assert inspect_checkpoint(folder).weights_format == "safetensors"


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("weights.safetensors", "another name (weights.safetensors)"),
        ("flax_model.msgpack", "only Flax weights"),
        ("model.gguf", "GGUF"),
    ],
)
def test_other_weights(folder: Path, file: str, part: str) -> None:
    (folder / "model.safetensors").rename(folder / file)
    fails(folder, part)


def test_weights_named_in_config(folder: Path) -> None:
    write_json(folder / "config.json", {**CONFIG, "transformers_weights": "best.safetensors"})
    fails(folder, "lacks best.safetensors")
    (folder / "model.safetensors").rename(folder / "best.safetensors")
    assert inspect_checkpoint(folder).weight_files == (folder / "best.safetensors",)
    write_json(folder / "config.json", {**CONFIG, "transformers_weights": "../best.safetensors"})
    fails(folder, "outside of the folder")
    write_json(folder / "config.json", {**CONFIG, "transformers_weights": "best.bin"})
    (folder / "best.bin").write_bytes(b"x")
    fails(folder, "only as pickle", kind=UntrustedCheckpointError)


def test_tensorflow_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    found = inspect_checkpoint(folder)
    assert (found.framework, found.weights_format) == ("tf", "h5")


def test_adapter_without_base(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "user/base", "peft_type": "LORA"})
    fails(folder, "only an adapter (LORA) for user/base", "merge_and_unload")


def test_quantized_checkpoint(folder: Path) -> None:
    write_json(folder / "config.json", {**CONFIG, "quantization_config": {"quant_method": "gptq"}})
    fails(folder, "already quantized (gptq)", "onnxport quantize")
    write_json(folder / "config.json", {**CONFIG, "quantization_config": None})
    inspect_checkpoint(folder)


def test_custom_code_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "transformers_knows", lambda model_type: model_type == "bert")
    code = {"AutoConfig": "mine.MyConfig", "AutoModel": "mine.MyModel"}
    write_json(folder / "config.json", {"model_type": "mine", "auto_map": code})
    fails(folder, "mine.MyConfig", "--trust-remote-code", kind=UntrustedCheckpointError)
    found = inspect_checkpoint(folder, trust_remote_code=True)
    assert found.custom_code == ("config.json: mine.MyConfig", "config.json: mine.MyModel")
    assert not found.notes


def test_custom_code_of_a_known_family_is_ignored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "transformers_knows", lambda model_type: model_type == "bert")
    write_json(folder / "config.json", {**CONFIG, "auto_map": {"AutoModel": "mine.MyModel"}})
    found = inspect_checkpoint(folder)
    assert "was not run" in found.notes[0]
    assert "'bert'" in found.notes[0]


def test_custom_tokenizer_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "transformers_knows", lambda model_type: False)
    write_json(folder / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["mine.MyTokenizer", None]}})
    fails(folder, "tokenizer_config.json: mine.MyTokenizer", kind=UntrustedCheckpointError)


def test_families_that_transformers_has() -> None:
    pytest.importorskip("transformers")
    assert transformers_knows("bert")
    assert transformers_knows("audio-spectrogram-transformer")
    assert not transformers_knows("mine")
    assert not transformers_knows("BertConfig")


def test_old_sentence_transformers_layout(folder: Path) -> None:
    write_json(folder / "modules.json", [{"idx": 0, "path": "0_Transformer", "type": "x.Transformer"}])
    inside = folder / "0_Transformer"
    inside.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(inside / name)
    found = inspect_checkpoint(folder)
    assert found.is_sentence_transformers
    assert (found.path, found.model_folder) == (folder, inside)
    write_json(folder / "modules.json", [{"idx": 0, "path": "../elsewhere", "type": "x.Transformer"}])
    fails(folder, "no config.json")
