"""Two further models for a graph of token ids: one that makes tokens, and an ensemble from texts to outputs.

    OUTPUT/NAME_tokenizer/config.pbtxt, 1/model.py and the tokenizer's files
    OUTPUT/NAME_text/config.pbtxt and an empty folder 1

Source: docs/user_guide/ensemble_models.md of the Triton server, and README.md of its python_backend.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from onnxport.artifact.folder import Folder
from onnxport.specs import TensorSpec
from onnxport.targets.triton_config import TritonModel, tensors

_TOKENS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_TEXT = TensorSpec("text", "str", ("batch_size", 1))
# What the run time reads beside tokenizer.json.
_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json",
    "sentence_bert_config.json",
)  # fmt: skip


def takes_tokens(folder: Folder, models: Iterable[TritonModel]) -> TritonModel | None:
    """The graph whose inputs a tokenizer makes; None if there is no such graph, or several graphs belong together."""
    models = list(models)
    names = {spec.name for spec in models[0].inputs} if len(models) == 1 else set()
    fits = "input_ids" in names and names <= _TOKENS and (folder.path / "tokenizer.json").is_file()
    return models[0] if fits and models[0].most_rows else None


def write_text_models(folder: Folder, model: TritonModel, root: Path) -> dict[str, str]:
    """Write the two models into the repository `root`.

    Returns:
        Path in the repository -> sha256, of the files that are the folder's own.
    """
    tokenizer, ensemble = f"{model.name}_tokenizer", f"{model.name}_text"
    version = root / tokenizer / "1"
    version.mkdir(parents=True)
    digests = {}
    for name in _FILES:
        if name in folder.manifest.files:
            shutil.copyfile(folder.path / name, version / name)
            digests[f"{tokenizer}/1/{name}"] = folder.manifest.files[name]
    code = resources.files("onnxport.targets").joinpath("triton_model.py").read_text(encoding="utf-8")
    (version / "model.py").write_text(code, encoding="utf-8", newline="\n")
    _write(root / tokenizer, _tokenizer_config(tokenizer, model))
    (root / ensemble / "1").mkdir(parents=True)
    _write(root / ensemble, _ensemble_config(ensemble, tokenizer, model))
    return digests


def _write(place: Path, lines: list[str]) -> None:
    (place / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _tokenizer_config(name: str, model: TritonModel) -> list[str]:
    return [
        f"name: {json.dumps(name)}",
        'backend: "python"',
        f"max_batch_size: {model.most_rows}",
        *tensors("input", [_TEXT], batched=True),
        *tensors("output", model.inputs, batched=True),
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
    ]


def _ensemble_config(name: str, tokenizer: str, model: TritonModel) -> list[str]:
    return [
        f"name: {json.dumps(name)}",
        'platform: "ensemble"',
        f"max_batch_size: {model.most_rows}",
        *tensors("input", [_TEXT], batched=True),
        *tensors("output", model.outputs, batched=True),
        "ensemble_scheduling { step [",
        *_step(tokenizer, ["text"], [spec.name for spec in model.inputs], ","),
        *_step(model.name, [spec.name for spec in model.inputs], [spec.name for spec in model.outputs], ""),
        "] }",
    ]


def _step(name: str, inputs: Iterable[str], outputs: Iterable[str], comma: str) -> list[str]:
    """Tensors have the same names inside and outside of a step."""
    maps = [
        f"    {kind}_map {{ key: {json.dumps(tensor)} value: {json.dumps(tensor)} }}"
        for kind, names in (("input", inputs), ("output", outputs))
        for tensor in names
    ]
    return [f"  {{ model_name: {json.dumps(name)} model_version: -1", *maps, f"  }}{comma}"]
