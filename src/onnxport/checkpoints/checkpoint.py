"""Inspect a checkpoint before any framework is imported, so that its faults are reported at once.

Standard library only. Everything that can be wrong with the files themselves is found here:
a missing or broken file, a cut-off download, weights that only pickle can read, code that the
checkpoint wants to bring along. Nothing of the checkpoint is executed.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxport.checkpoints.adapter import Adapter, base_of, find_adapter
from onnxport.checkpoints.config_limits import check_config
from onnxport.checkpoints.hub import resolve_folder
from onnxport.checkpoints.links import require_links_inside
from onnxport.checkpoints.packed_weights import PackedWeights, find_packed_weights
from onnxport.checkpoints.weight_files import Weights, adapter_fault, find_gguf, find_weights, gguf_weights
from onnxport.errors import CheckpointError, UntrustedCheckpointError, UsageError
from onnxport.formats.json_file import read_json, read_object

# Read by the loaders; a broken one would surface deep inside a library.
_JSON_FILES = (
    "generation_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
_CODE_CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """A local checkpoint whose files are complete.

    Attributes:
        path: the folder (or GGUF file) that was given, or the local copy of the hub's model.
        source: what the user typed, shortened to the folder's name for a path.
        model_folder: where config.json and the weights are; `path`, except in old sentence-transformers layouts.
        config: config.json; {} for a GGUF file without one (`loading/gguf.py` fills it in from the header).
        weight_files: the files that will be read.
        weights_format: "safetensors", "pickle", "gguf" or "h5".
        framework: "pt" or "tf".
        dtype: the weights' main type as numpy and torch spell it ("float32", "bfloat16"), None if unknown.
        is_sentence_transformers: the folder has a modules.json.
        custom_code: classes that the checkpoint brings along, "config.json: modeling_x.XModel".
        notes: what a user should know.
        adapter: changes the weights; the rest is of the model that it is for.
        quantized: how weights are packed that are to be dequantized; `config` then says nothing of it.
    """

    path: Path
    source: str
    model_folder: Path
    config: dict[str, Any]
    weight_files: tuple[Path, ...]
    weights_format: str
    framework: str
    dtype: str | None
    is_sentence_transformers: bool = False
    custom_code: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    adapter: Adapter | None = None
    quantized: PackedWeights | None = None

    @property
    def architectures(self) -> tuple[str, ...]:
        """Class names from the config, often one: ("BertForMaskedLM",)."""
        named = self.config.get("architectures") or ()
        return tuple(map(str, named)) if isinstance(named, (list, tuple)) else (str(named),)

    @property
    def model_type(self) -> str | None:
        """Transformers' name of the family ("bert"), or None if the config has none."""
        found = self.config.get("model_type")
        return found if isinstance(found, str) and found else None

    @property
    def total_bytes(self) -> int:
        """Size of the weight files."""
        return sum(file.stat().st_size for file in self.weight_files)


def inspect_checkpoint(
    path: str | Path,
    *,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    framework: str | None = None,
    base_model: str | None = None,
) -> Checkpoint:
    """Find out what a checkpoint is, and check that its files are complete.

    Args:
        path: a folder, a GGUF file, or a model of the hub ("user/model"), which is then downloaded.
        allow_pickle: accept pickled weights (pytorch_model.bin).
        trust_remote_code: accept classes that the checkpoint brings along.
        revision: branch, tag or commit of a hub model.
        token: access token of a hub model.
        framework: "tf" where TF classes will read the weights.
        base_model: of an adapter, the model that it is for, in place of the one that it names.

    Raises:
        CheckpointError: nothing there, not a checkpoint, or a file that is missing, cut off or broken.
        UntrustedCheckpointError: pickled weights or custom code without permission; a link out of the checkpoint.
    """
    folder = resolve_folder(
        path, revision=revision, token=token, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code,
        framework=framework,
    )  # fmt: skip
    source = Path(path).resolve().name if Path(path).expanduser().exists() else str(path)
    if folder.is_file() and folder.suffix.lower() == ".gguf":
        # What lies beside it may belong to another model: only the file itself counts.
        return _checkpoint(folder, source, folder.parent, {}, gguf_weights(folder))
    if not folder.is_dir():
        raise _not_a_folder(folder)
    if (folder / "onnxport.json").is_file():
        raise CheckpointError(
            f"{folder} is a folder that onnxport wrote: already converted.",
            hint=f"`onnxport run {folder}` runs it; give the original checkpoint to convert it again.",
        )
    require_links_inside(folder)
    adapter = find_adapter(folder, allow_pickle=allow_pickle)
    if adapter is not None:
        base = _base_of(
            adapter, base_model, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, revision=revision,
            token=token, framework=framework,
        )  # fmt: skip
        return replace(base, source=source, adapter=adapter)
    if base_model is not None:
        raise UsageError(f"{source} is no adapter, so it has no base model.", hint="Leave --base-model out.")
    modules = _read_modules(folder)
    model_folder = _transformer_folder(folder, modules)
    gguf = None if (model_folder / "config.json").is_file() else find_gguf(model_folder)
    config = {} if gguf else _read_config(model_folder)
    _check_json_files(dict.fromkeys((folder, model_folder)))
    weights = (
        gguf_weights(gguf) if gguf
        else find_weights(model_folder, config, allow_pickle=allow_pickle, framework=framework)
    )  # fmt: skip
    size = sum(file.stat().st_size for file in weights.files)
    check_config(config, model_folder / "config.json", weights.tensors, size)
    custom_code, notes = _custom_code(model_folder, config, trust_remote_code)
    found = _checkpoint(folder, source, model_folder, config, weights)
    return replace(found, is_sentence_transformers=bool(modules), custom_code=custom_code, notes=notes)


def judge_quantized(checkpoint: Checkpoint, *, dequantize: bool) -> Checkpoint:
    """`checkpoint` with what is known about its quantized weights; one without any as it is.

    Args:
        checkpoint: its config may have a quantization_config.
        dequantize: accept quantized weights.

    Raises:
        CheckpointError: they are not accepted; or are packed in a way that is not read, or damaged.
    """
    settings = checkpoint.config.get("quantization_config")
    if not isinstance(settings, dict):
        return checkpoint
    if not dequantize:
        raise CheckpointError(
            f"The weights of {checkpoint.path} are already quantized "
            f"({settings.get('quant_method', 'unknown method')}).",
            hint="Convert the original float checkpoint; `onnxport quantize` makes the result small. Where there is "
            "none: `--dequantize` (dequantize=True) converts these weights, as float32.",
        )
    if checkpoint.weights_format != "safetensors" or checkpoint.framework != "pt":
        raise CheckpointError(
            f"The quantized weights of {checkpoint.path} are stored as {checkpoint.weights_format}; only safetensors "
            "of PyTorch are dequantized.",
            hint="Save the checkpoint again as safetensors.",
        )
    quantized = find_packed_weights(checkpoint.config, checkpoint.weight_files)
    config = {name: value for name, value in checkpoint.config.items() if name != "quantization_config"}
    return replace(checkpoint, config=config, quantized=quantized)


def _base_of(adapter: Adapter, chosen: str | None, **options: Any) -> Checkpoint:
    """The checkpoint that an adapter is for.

    Raises:
        CheckpointError: it is not there.
    """
    name = base_of(adapter, chosen)
    if Path(name).expanduser().resolve() == adapter.folder.resolve():
        raise CheckpointError(
            f"{adapter.folder} names itself as its base model.", hint="Give it: `--base-model MODEL`."
        )
    if chosen is None:
        options["revision"] = adapter.settings.get("revision")  # the caller's is of the adapter
    try:
        base = inspect_checkpoint(name, **options)
    except CheckpointError as error:
        raise CheckpointError(
            f"The base model of the adapter {adapter.folder.name} cannot be read: {error.message}",
            hint=f"Say where it is: `--base-model MODEL`. {error.hint or ''}".rstrip(),
        ) from error
    if base.framework != "pt" or base.weights_format == "gguf" or base.adapter is not None:
        raise CheckpointError(
            f"The base model {name} of the adapter {adapter.folder.name} has no weights of PyTorch that it can be "
            "merged into.",
            hint="Give a checkpoint with model.safetensors: `--base-model MODEL`.",
        )
    return base


def _checkpoint(path: Path, source: str, model_folder: Path, config: dict[str, Any], weights: Weights) -> Checkpoint:
    declared = config.get("dtype") or config.get("torch_dtype")
    dtype = weights.dtype or (declared if isinstance(declared, str) else None)
    return Checkpoint(path, source, model_folder, config, weights.files, weights.format, weights.framework, dtype)


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise _no_config(folder)
    return read_object(folder / "config.json")


def _check_json_files(folders: Iterable[Path]) -> None:
    """Read every JSON file that a loader will read.

    Raises:
        CheckpointError: one is broken.
    """
    for file in (folder / name for name in _JSON_FILES for folder in folders):
        if file.is_file():
            read_json(file)


def _read_modules(folder: Path) -> list[Any]:
    """The entries of modules.json (sentence-transformers), or [] where there is none."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(entry, dict) for entry in modules):
        raise CheckpointError("modules.json is not a list of modules.", hint=f"Repair {path} or copy it again.")
    return modules


def _transformer_folder(folder: Path, modules: list[Any]) -> Path:
    """Where the transformer lies: sentence-transformers once kept it in "0_Transformer"."""
    if modules and not (folder / "config.json").is_file():
        inside = folder / str(modules[0].get("path") or "")
        if inside.resolve().is_relative_to(folder.resolve()) and inside.is_dir():
            return inside
    return folder


def _custom_code(
    folder: Path, config: dict[str, Any], trust_remote_code: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(classes that the checkpoint brings along, notes).

    Raises:
        UntrustedCheckpointError: there are some, they are needed, and permission was not given.
    """
    found: list[str] = []
    for name in _CODE_CONFIGS:
        document = config if name == "config.json" else None
        if document is None and (folder / name).is_file():
            document = read_json(folder / name)
        references = document.get("auto_map") if isinstance(document, dict) else None
        values = references.values() if isinstance(references, dict) else [references]
        for value in values:
            classes = value if isinstance(value, list) else [value]
            found.extend(f"{name}: {reference}" for reference in classes if reference)
    custom_code = tuple(dict.fromkeys(found))
    if not custom_code or trust_remote_code:
        return custom_code, ()
    model_type = config.get("model_type")
    if isinstance(model_type, str) and transformers_knows(model_type):
        note = (
            f"The checkpoint brings its own code ({custom_code[0]}), which was not run: "
            f"transformers' own {model_type!r} was used."
        )
        return custom_code, (note,)
    raise UntrustedCheckpointError(
        f"Loading {folder} would run Python code from the checkpoint ({', '.join(custom_code[:3])}). Nothing was run.",
        hint="Read that code; if you trust it, add `--trust-remote-code`.",
    )


def transformers_knows(model_type: str) -> bool:
    """Whether the installed transformers has its own code for `model_type`.

    Read from the text of its tables, because importing it costs seconds. True where transformers
    is not installed: then that is what the user must be told, not that code would be run.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return True
    tables = Path(spec.origin).parent / "models" / "auto"
    entry = re.compile(rf"[(\[]\s*\"{re.escape(model_type)}\",")
    return any(
        table.is_file() and entry.search(table.read_text(encoding="utf-8")) is not None
        for table in (tables / "auto_mappings.py", tables / "configuration_auto.py")
    )


def _not_a_folder(path: Path) -> CheckpointError:
    """The error for a file where a folder was expected. Keras files do not come here: `loading/resolve.py`."""
    if path.suffix.lower() == ".onnx":
        return CheckpointError(
            f"{path} is an ONNX graph already, not a checkpoint folder.",
            hint="`onnxport optimize`, `quantize` and `verify` take it; `convert` does not.",
        )
    return CheckpointError(
        f"{path} is a file, not a checkpoint folder.",
        hint="Give the folder that holds config.json and the weights.",
    )


def _no_config(folder: Path) -> CheckpointError:
    """The error for a folder without config.json: what it is instead, or what it holds."""
    entries = sorted(folder.iterdir())
    names = [entry.name + ("/" if entry.is_dir() else "") for entry in entries]
    if not names:
        return CheckpointError(f"{folder} is empty.", hint="Give a folder that holds config.json and weights.")
    inner = [entry.name for entry in entries if (entry / "config.json").is_file()]
    suffixes = {entry.suffix.lower() for entry in entries}
    what = f"has no config.json (it holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"
    hint = "Give a folder written by `save_pretrained`."
    if "adapter_config.json" in names:
        what, hint = adapter_fault(folder)
    elif "model_index.json" in names:
        what = "is a diffusers pipeline: several models, none of them in this folder itself"
    elif ".keras" in suffixes:
        name = next(name for name in names if name.lower().endswith(".keras"))
        what, hint = "holds a Keras model, no config.json", f"Give that file: {folder / name}"
    elif ".onnx" in suffixes:
        what, hint = "holds an ONNX graph already", "`convert` takes the checkpoint that it was made from."
    if inner:
        hint = f"Did you mean {' or '.join(str(folder / name) for name in inner[:3])}?"
    return CheckpointError(f"{folder} {what}.", hint=hint)
