"""GGUF files (llama.cpp) through transformers: it unpacks the weights and makes config and tokenizer of the header.

transformers maps names and layouts of an architecture, but only some keys of the header: what it
leaves out keeps the default of its config class, and rotary factors in the file are not read. The
numbers would then be another model's without any error, so the header is compared with the config
here.
"""

from __future__ import annotations

import importlib.util
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.errors import CheckpointError, MissingDependencyError
from onnxport.formats.gguf_file import GgufHeader, read_gguf_header
from onnxport.loading.components import has_vocabulary
from onnxport.system.library_errors import first_line

if TYPE_CHECKING:
    import torch

_PACKAGES = ("gguf", "accelerate")  # transformers asks for both
_ORIGINAL = "Convert the checkpoint that it was made from."
_CONFIG_BESIDE = (
    "Convert the checkpoint that it was made from; or put its config.json into a folder with this file "
    "and give the folder."
)
_EPSILONS = ("rms_norm_eps", "norm_eps", "norm_epsilon", "layer_norm_eps", "layer_norm_epsilon")


def with_described_config(checkpoint: Checkpoint) -> Checkpoint:
    """`checkpoint` with the config that a GGUF file's header describes; any other as it is.

    Raises:
        MissingDependencyError: a package that reads such files is not installed.
        CheckpointError: transformers does not know the architecture, or cannot read the header.
    """
    if checkpoint.weights_format != "gguf":
        return checkpoint
    _require_packages(checkpoint.source)
    from transformers import PreTrainedConfig, __version__
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    file = checkpoint.weight_files[0]
    architecture = read_gguf_header(file).architecture
    try:
        described, _ = PreTrainedConfig.get_config_dict(str(file), gguf_file=str(file))
    except Exception as error:
        unknown = "not supported" in str(error)
        because = "" if unknown else f" ({first_line(error)})"
        raise CheckpointError(
            f"{file.name} has the architecture {architecture!r}, which transformers {__version__} cannot read "
            f"from a GGUF file{because}.",
            hint=_ORIGINAL,
        ) from error
    if checkpoint.config:
        return checkpoint
    described.pop("_model_name_or_path", None)  # free text of the header
    model_type = described.get("model_type")
    if "architectures" not in described and model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        named = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
        described["architectures"] = [named if isinstance(named, str) else named[0]]
    return replace(checkpoint, config=described)


def gguf_config(checkpoint: Checkpoint) -> Any:
    """The config that the header describes, or None where there is a config.json or another kind of weights."""
    has_own = _is_folder(checkpoint) and (checkpoint.model_folder / "config.json").is_file()
    if checkpoint.weights_format != "gguf" or has_own:
        return None
    from transformers import AutoConfig

    return AutoConfig.for_model(**checkpoint.config)


def how_to_load(checkpoint: Checkpoint, auto_class: Any, config: Any) -> tuple[Any, Path, dict[str, Any]]:
    """(class, folder, arguments) of the `from_pretrained` that reads the file.

    Raises:
        CheckpointError: the config does not say what the header says.
    """
    import transformers
    from transformers.utils.quantization_config import GgufConfig

    file = checkpoint.weight_files[0]
    _check_config(file.name, read_gguf_header(file), config)
    causal = transformers.AutoModelForCausalLM
    if auto_class is transformers.AutoModel and type(config) in causal._model_mapping:
        # llama.cpp's tables know the names of the model with a head; not all of them without its prefix.
        auto_class = causal
    # Left to itself, transformers looks for kernels that compute on packed weights, on the network too.
    arguments = {"gguf_file": str(file.resolve()), "quantization_config": GgufConfig(dequantize=True)}
    return auto_class, file.parent, arguments


def finish(
    checkpoint: Checkpoint, auto_class: Any, model: torch.nn.Module, report: dict[str, Any]
) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """(the model that `auto_class` stands for, what its report says of it, notes).

    Raises:
        CheckpointError: the file has more numbers than the model.
    """
    header = read_gguf_header(checkpoint.weight_files[0])
    _check_all_read(checkpoint.weight_files[0].name, header, model, report)
    wanted = auto_class._model_mapping.get(type(model.config), None)
    base = getattr(model, "base_model", model)
    if isinstance(wanted, type) and type(model) is not wanted and type(base) is wanted:
        prefix = f"{model.base_model_prefix}."
        missing = {name.removeprefix(prefix) for name in report["missing_keys"] if name.startswith(prefix)}
        mismatched = {(key[0].removeprefix(prefix), *key[1:]) for key in report["mismatched_keys"]
                      if key[0].startswith(prefix)}  # fmt: skip
        model, report = base, {**report, "missing_keys": missing, "mismatched_keys": mismatched}
    model.config.name_or_path = str(checkpoint.path)
    notes: tuple[str, ...] = ()
    if header.quantized:
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        notes = (f"{' and '.join(header.quantized)} weights were dequantized to {dtype}.",)
    return model, report, notes


def gguf_components(
    checkpoint: Checkpoint, given: Mapping[str, Any]
) -> tuple[Path | None, Mapping[str, Any], tuple[str, ...]]:
    """(the folder to load components from, or None; those that were given, with the header's tokenizer; notes)."""
    # Of a file that was given the neighbours do not count: they may belong to another model.
    folder = checkpoint.model_folder if _is_folder(checkpoint) else None
    if given.get("tokenizer") is not None or (folder is not None and has_vocabulary(folder)):
        return folder, given, ()
    tokenizer, notes = _tokenizer(checkpoint)
    return folder, {**given, "tokenizer": tokenizer}, notes


def _tokenizer(checkpoint: Checkpoint) -> tuple[Any, tuple[str, ...]]:
    """(the tokenizer that the header describes, or None; notes)."""
    if "tokenizer.ggml.tokens" not in read_gguf_header(checkpoint.weight_files[0]).values:
        return None, ()
    from transformers import AutoTokenizer

    try:
        with tempfile.TemporaryDirectory() as empty:
            file = str(checkpoint.weight_files[0].resolve())
            tokenizer = AutoTokenizer.from_pretrained(empty, gguf_file=file, local_files_only=True)
    except Exception as error:
        return None, (f"The tokenizer in the GGUF file cannot be used ({first_line(error)}).",)
    # The temporary folder must not be published.
    tokenizer.name_or_path = tokenizer.init_kwargs["name_or_path"] = checkpoint.source
    return tokenizer, ()


def _is_folder(checkpoint: Checkpoint) -> bool:
    return checkpoint.path.is_dir()


def _require_packages(source: str) -> None:
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise MissingDependencyError(
            f"{source} is a GGUF file, and reading it needs {' and '.join(absent)}.",
            hint='pip install "onnxport[gguf]"',
        )


def _check_config(name: str, header: GgufHeader, config: Any) -> None:
    """Compare what the header and the config say about how to compute.

    Raises:
        CheckpointError: they differ, so that the numbers would be another model's.
    """
    for key, stated, used in _differences(header, config.get_text_config()):
        raise CheckpointError(
            f"{name} says {key} = {stated}, but transformers' config has {used}: the numbers would be another model's.",
            hint=_CONFIG_BESIDE,
        )


# (key, value in the header, value in the config) of what does not agree.
_Difference = tuple[str, object, object]


def _differences(header: GgufHeader, config: Any) -> Iterator[_Difference]:
    """What of the header the config does not say. Keys that are absent on either side agree."""
    stated = {
        key.removeprefix(f"{header.architecture}."): value
        for key, value in header.values.items()
        if key.startswith(f"{header.architecture}.")
    }
    yield from _rotary_differences(header, stated, config)
    yield from _window_differences(stated, config)
    yield from _cap_differences(stated, config)
    yield from _epsilon_differences(stated, config)


def _rotary_differences(header: GgufHeader, stated: Mapping[str, Any], config: Any) -> Iterator[_Difference]:
    rope = getattr(config, "rope_parameters", None) or {}
    # Models with two kinds of layers have one set of parameters for each.
    sets: list[Mapping[str, Any]] = [part for part in rope.values() if isinstance(part, Mapping)] or [rope]
    plain = all(str(part.get("rope_type", "default")) == "default" for part in sets)
    scaling = stated.get("rope.scaling.type")
    if plain and scaling not in (None, "", "none"):
        yield "rope.scaling.type", scaling, "none"
    factors = sorted(tensor for tensor in header.tensors if _is_rope(tensor))
    if plain and factors:
        yield factors[0], "factors of the rotary positions", "none"
    thetas = [part["rope_theta"] for part in sets if "rope_theta" in part]
    yield from _number_difference("rope.freq_base", stated, thetas)


def _window_differences(stated: Mapping[str, Any], config: Any) -> Iterator[_Difference]:
    key = "attention.sliding_window"
    window, used, longest = stated.get(key), getattr(config, "sliding_window", None), stated.get("context_length")
    # A window as long as the longest text hides nothing.
    matters = isinstance(window, int) and 0 < window < (longest if isinstance(longest, int) else math.inf)
    if matters and window != used:
        yield key, window, used


def _cap_differences(stated: Mapping[str, Any], config: Any) -> Iterator[_Difference]:
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        cap, used = stated.get(key), getattr(config, key, None)
        if isinstance(cap, float) and cap and (used is None or not _close(cap, used)):
            yield key, cap, used


def _epsilon_differences(stated: Mapping[str, Any], config: Any) -> Iterator[_Difference]:
    used = [getattr(config, key) for key in _EPSILONS if isinstance(getattr(config, key, None), float)]
    for key in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"):
        yield from _number_difference(key, stated, used)


def _number_difference(key: str, stated: Mapping[str, Any], used: list[float]) -> Iterator[_Difference]:
    """A number of the header that is none of those that the config uses for it."""
    value = stated.get(key)
    if isinstance(value, float) and used and not any(_close(value, one) for one in used):
        yield key, value, used[0]


def _check_all_read(name: str, header: GgufHeader, model: torch.nn.Module, report: Mapping[str, Any]) -> None:
    """Count numbers: transformers passes over a tensor that it has no name for.

    Raises:
        CheckpointError: the file has some that are in no parameter.
    """
    if report["missing_keys"] or report["mismatched_keys"]:
        return  # told by name
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    stored = {
        tensor: math.prod(entry.shape)
        for tensor, entry in header.tensors.items()
        if not _is_rope(tensor) and not _predicts_ahead(tensor, header, layers)
    }
    persistent = {id(value): value.numel() for value in model.state_dict(keep_vars=True).values()}
    unread = sum(stored.values()) - sum(persistent.values())
    # A model for another task leaves the head that predicts words.
    if unread > 0 and unread != stored.get("output.weight"):
        raise CheckpointError(
            f"{name} holds {unread} numbers that {type(model).__name__} has no parameter for; transformers does "
            f"not read all of this {header.architecture!r} file.",
            hint=_ORIGINAL,
        )


def _is_rope(tensor: str) -> bool:
    return tensor.split(".")[0].startswith("rope_f")  # rope_freqs, rope_factors_long, rope_factors_short


def _predicts_ahead(tensor: str, header: GgufHeader, layers: int | None) -> bool:
    """Whether it is of a block after the last layer, which guesses further tokens; transformers leaves those out."""
    parts = tensor.split(".")
    if not header.values.get(f"{header.architecture}.nextn_predict_layers") or layers is None:
        return False
    return parts[0] == "blk" and parts[1].isdigit() and int(parts[1]) >= layers


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-5)  # the header has 32 bits
