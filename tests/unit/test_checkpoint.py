"""Bad and good checkpoints, told apart without any framework."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onnxport.checkpoints import checkpoint as checkpoint_module
from onnxport.checkpoints.checkpoint import inspect_checkpoint, judge_quantized, transformers_knows
from onnxport.checkpoints.hub import looks_like_path
from onnxport.errors import CheckpointError, MissingDependencyError, UntrustedCheckpointError
from tests.unit.checkpoints import CONFIG, WEIGHTS, fails, folder, write_json

__all__ = ["folder"]  # the fixture


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
        "import sys; from onnxport.checkpoints.checkpoint import inspect_checkpoint; "
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
        ("net.keras", "", "net.keras"),
        ("model.onnx", "", "ONNX graph already"),
        ("model_index.json", "{}", "diffusers"),
        (
            "adapter_config.json",
            '{"base_model_name_or_path": "user/base", "peft_type": "LORA"}',
            "no adapter_model.safetensors",
        ),
        ("adapter_config.json", '{"base_model_name_or_path": "user/base", "peft_type": "LOHA"}', "LOHA"),
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


def test_adapter_without_base(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    gone = str(folder / "gone")
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": gone, "peft_type": "LORA"})
    fails(folder, gone, "--base-model")


def test_quantized_checkpoint(folder: Path) -> None:
    write_json(folder / "config.json", {**CONFIG, "quantization_config": {"quant_method": "gptq"}})
    with pytest.raises(CheckpointError) as caught:
        judge_quantized(inspect_checkpoint(folder), dequantize=False)
    assert "gptq" in caught.value.message
    assert "--dequantize" in str(caught.value.hint)
    write_json(folder / "config.json", {**CONFIG, "quantization_config": None})
    judge_quantized(inspect_checkpoint(folder), dequantize=False)


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
