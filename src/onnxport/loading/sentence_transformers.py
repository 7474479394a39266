"""Sentence encoders: a transformer, and after it what sentence-transformers' modules.json lists.

Pooling, dense layers and the normalization become part of the module, so that they are part of
the graph: the ONNX model gives the sentence embedding itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.checkpoints.weight_files import find_weights
from onnxport.errors import CheckpointError
from onnxport.formats.json_file import read_json, read_object
from onnxport.system.library_errors import first_line

TOKENS = "token_embeddings"
SENTENCE = "sentence_embedding"

# Names as they stand in config.json; anything else is refused, because resolving an arbitrary
# dotted path would import code.
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    name: getattr(nn, name) for name in ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "ELU", "LeakyReLU")
}
_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
# Old spelling of the pooling modes, in the order in which their results are concatenated.
_MODE_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass
class SentenceEncoderOutput(ModelOutput):
    """Token embeddings (batch, tokens, width) and sentence embeddings (batch, dimension).

    A class of its own: torch.export knows subclasses of ModelOutput, not ModelOutput itself.
    """

    last_hidden_state: Tensor | None = None
    sentence_embedding: Tensor | None = None


class Pooling(nn.Module):
    """Token embeddings (batch, tokens, width) to sentence embeddings (batch, modes * width)."""

    def __init__(self, modes: tuple[str, ...]) -> None:
        super().__init__()
        self.modes = modes

    def forward(self, features: dict[str, Tensor], mask: Tensor) -> None:
        """Set the sentence embedding; `mask` is (batch, tokens), 1 for a token and 0 for padding."""
        tokens = features[TOKENS]
        weights = mask.unsqueeze(-1).to(tokens.dtype)
        features[SENTENCE] = torch.cat([self._pool(mode, tokens, mask, weights) for mode in self.modes], dim=-1)

    @staticmethod
    def _pool(mode: str, tokens: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        if mode == "max":
            return tokens.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)
        if mode in {"cls", "lasttoken"}:
            # The first or last real token of each row: rows may be padded on either side.
            places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=torch.int32)
            order = places if mode == "lasttoken" else places.flip(0)
            chosen = (mask.to(torch.int32) * order).argmax(dim=1)
            return tokens.gather(1, chosen.view(-1, 1, 1).expand(-1, 1, tokens.shape[-1])).squeeze(1)
        if mode == "weightedmean":
            places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=tokens.dtype)
            weights = weights * places.unsqueeze(-1)
        total = (tokens * weights).sum(dim=1)
        count = weights.sum(dim=1).clamp(min=1e-9)
        return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


class Dense(nn.Module):
    """A linear layer and an activation over one of the features; optionally added to its input."""

    def __init__(self, settings: Mapping[str, Any], activation: nn.Module) -> None:
        super().__init__()
        width, out = int(settings["in_features"]), int(settings["out_features"])
        self.linear = nn.Linear(width, out, bias=bool(settings.get("bias", True)))
        self.activation = activation
        self.source = str(settings.get("module_input_name") or SENTENCE)
        self.target = str(settings.get("module_output_name") or self.source)
        self.residual: nn.Module | None = None
        if settings.get("use_residual"):
            self.residual = nn.Identity() if width == out else nn.Linear(width, out, bias=False)

    def forward(self, features: dict[str, Tensor], mask: Tensor) -> None:
        value = features[self.source]
        result: Tensor = self.activation(self.linear(value))
        features[self.target] = result if self.residual is None else result + self.residual(value)


class Normalize(nn.Module):
    """Scale one of the features to length 1 (Euclidean, over the last axis)."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.source = str(settings.get("module_input_name") or SENTENCE)
        self.target = str(settings.get("module_output_name") or self.source)

    def forward(self, features: dict[str, Tensor], mask: Tensor) -> None:
        features[self.target] = nn.functional.normalize(features[self.source], p=2.0, dim=-1)


class SentenceEncoder(nn.Module):
    """A transformer and the modules after it, as one module for a pipeline or an exporter.

    forward(**inputs) takes the transformer's own inputs (`inspect.signature` of forward is the
    transformer's) and returns an output with `last_hidden_state` (batch, tokens, width) and
    `sentence_embedding` (batch, dimension).
    """

    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, transformer: nn.Module, layers: list[nn.Module]) -> None:
        super().__init__()
        self.transformer = transformer
        self.layers = nn.ModuleList(layers)
        # An exporter filters a tokenizer's keys by the signature of forward, so it must be that of this
        # very transformer. A class of its own carries it: one function per class, as tracing expects.
        own = type(self)
        self.__class__ = type(own.__name__, (own,), {"forward": _with_signature_of(transformer.forward)})

    @property
    def config(self) -> Any:
        return self.transformer.config

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())

    def can_generate(self) -> bool:
        return False

    def encode(self, inputs: dict[str, Any]) -> SentenceEncoderOutput:
        """The forward pass; `inputs` are keyword arguments of the transformer."""
        inputs.pop("return_dict", None)
        hidden: Tensor = self.transformer(**inputs, return_dict=True).last_hidden_state
        mask = inputs.get("attention_mask")
        if mask is None:
            mask = torch.ones(hidden.shape[:-1], dtype=torch.int64, device=hidden.device)
        features = {TOKENS: hidden}
        for layer in self.layers:
            layer(features, mask)
        return SentenceEncoderOutput(last_hidden_state=features[TOKENS], sentence_embedding=features[SENTENCE])


def _with_signature_of(inner: Any) -> Any:
    """A forward method for an encoder whose visible parameters are the named ones of `inner`."""

    def forward(self: SentenceEncoder, **inputs: Any) -> SentenceEncoderOutput:
        return self.encode(inputs)

    parameters = [
        parameter.replace(kind=parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(inner).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD or parameter.kind is parameter.KEYWORD_ONLY
    ]
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    forward.__signature__ = inspect.Signature([me, *parameters])  # type: ignore[attr-defined]
    return forward


@dataclass(frozen=True)
class SentenceSettings:
    """What sentence-transformers' files say.

    Attributes:
        layers: the modules after the transformer, in order.
        notes: what a user should know.
    """

    layers: list[nn.Module]
    notes: tuple[str, ...] = ()


def read_sentence_settings(checkpoint: Checkpoint, *, allow_pickle: bool = False) -> SentenceSettings:
    """Build the modules of a sentence-transformers checkpoint, without its transformer.

    Raises:
        CheckpointError: a module that is unknown or does not begin with a transformer and a
            pooling, an unknown pooling mode or activation, or weights that are missing.
        UntrustedCheckpointError: weights of a module that only pickle can read, without `allow_pickle`.
    """
    modules = read_json(checkpoint.path / "modules.json")
    kinds = [_kind(entry) for entry in modules]
    if kinds[0] != "Transformer" or "Pooling" not in kinds:
        raise _fault(f"modules.json lists {', '.join(kinds)}: not a transformer with a pooling after it")
    layers = [
        _layer(checkpoint.path, kind, entry, allow_pickle) for kind, entry in zip(kinds[1:], modules[1:], strict=True)
    ]
    settings_file = checkpoint.model_folder / "sentence_bert_config.json"
    settings = read_object(settings_file) if settings_file.is_file() else {}
    task = settings.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise _fault(f"sentence_bert_config.json wants the transformer as {task}, which is not a sentence encoder")
    notes = []
    prompts_file = checkpoint.path / "config_sentence_transformers.json"
    prompts = read_object(prompts_file) if prompts_file.is_file() else {}
    default = prompts.get("default_prompt_name")
    if default and (prompts.get("prompts") or {}).get(default):
        notes.append(f"Put the model's default prompt before every text: {prompts['prompts'][default]!r}.")
    return SentenceSettings(layers, tuple(notes))


def _kind(entry: Mapping[str, Any]) -> str:
    """The module's class name, if it is one of those that this file builds."""
    dotted = str(entry.get("type", ""))
    package, _, name = dotted.rpartition(".")
    if not package.startswith("sentence_transformers.") or name not in _KINDS:
        raise _fault(f"modules.json lists the module {dotted!r}, which is not one of {', '.join(_KINDS)}")
    return name


def _layer(folder: Path, kind: str, entry: Mapping[str, Any], allow_pickle: bool) -> nn.Module:
    """One module with its weights."""
    place = folder / str(entry.get("path") or "")
    if not place.resolve().is_relative_to(folder.resolve()):
        raise _fault(f"modules.json names a module outside of the folder ({entry.get('path')!r})")
    config = place / "config.json"
    settings = read_object(config) if place != folder and config.is_file() else {}
    if kind == "Normalize":
        return Normalize(settings)
    if not settings:
        raise _fault(f"{kind} has no {config.relative_to(folder)}")
    if kind == "Pooling":
        return Pooling(_modes(settings))
    return _dense(folder, place, settings, allow_pickle)


def _modes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Pooling modes in the order of their results, from either spelling of the config."""
    named = settings.get("pooling_mode")
    if named is None:
        modes = tuple(mode for flag, mode in _MODE_FLAGS.items() if settings.get(flag))
        return modes or ("mean",)
    modes = (named,) if isinstance(named, str) else tuple(map(str, named))
    unknown = [mode for mode in modes if mode not in _MODE_FLAGS.values()]
    if unknown or not modes:
        raise _fault(f"the pooling mode {unknown or named!r} is not one of {', '.join(_MODE_FLAGS.values())}")
    return modes


def _dense(folder: Path, place: Path, settings: Mapping[str, Any], allow_pickle: bool) -> Dense:
    from safetensors.torch import load_file

    dotted = str(settings.get("activation_function") or "torch.nn.modules.activation.Tanh")
    package, _, name = dotted.rpartition(".")
    if not (package == "torch.nn" or package.startswith("torch.nn.modules.")) or name not in _ACTIVATIONS:
        raise _fault(f"the activation {dotted!r} of {place.name} is not one of {', '.join(_ACTIVATIONS)}")
    try:
        dense = Dense(settings, _ACTIVATIONS[name]())
    except (KeyError, TypeError, ValueError) as error:
        raise _fault(f"{place.name}/config.json does not describe a dense layer ({error})") from None
    found = find_weights(place, {}, allow_pickle=allow_pickle)
    state: dict[str, Tensor] = {}
    for file in found.files:
        pickled = found.format == "pickle"
        state.update(torch.load(file, map_location="cpu", weights_only=True) if pickled else load_file(file))
    try:
        dense.load_state_dict(state)
    except RuntimeError as error:
        raise _fault(f"the weights in {place.name} do not fit its config.json ({first_line(error)})") from None
    return dense


def _fault(what: str) -> CheckpointError:
    return CheckpointError(
        f"The sentence encoder cannot be built: {what}.",
        hint="`--task feature-extraction` on a copy without modules.json converts the transformer alone.",
    )
