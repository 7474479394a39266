"""Sentence encoders: a transformer, and after it what sentence-transformers' modules.json lists.

Pooling, dense layers and the normalization become part of the module, so that they are part of
the graph: the ONNX model gives the sentence embedding itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.checkpoints.pooling_modes import POOLING_MODES, pooling_modes
from onnxport.checkpoints.weight_files import find_weights
from onnxport.errors import CheckpointError
from onnxport.formats.json_file import read_json, read_object, read_object_if_present
from onnxport.loading.sentence_layers import SENTENCE, TOKENS, Dense, Normalize, Pooling, SpladePooling
from onnxport.loading.sentence_settings import CLASSIFIES, transformer_settings
from onnxport.system.library_errors import first_line

FEATURES = "feature-extraction"
# Models of sentence-transformers that are no encoders.
_OTHER_TASKS = {
    CLASSIFIES: "It scores a pair of texts: `--task text-classification`.",
    "text-generation": "`--task text-generation` converts its language model; LogitScore's config says which logits "
    "of the last token are the score.",
}

# Names as they stand in config.json; anything else is refused, because resolving an arbitrary
# dotted path would import code.
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    name: getattr(nn, name) for name in ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "ELU", "LeakyReLU")
}
# MultiVectorMask says which tokens of a document are compared; it does not change their embeddings.
_KINDS = ("Transformer", "Pooling", "Dense", "Normalize", "SpladePooling", "MultiVectorMask")
# What the transformer is loaded as, by `transformer_task`, and its output that the next module reads.
_HEADS = {"feature-extraction": ("AutoModel", "last_hidden_state"), "fill-mask": ("AutoModelForMaskedLM", "logits")}


@dataclass
class SentenceEncoderOutput(ModelOutput):
    """Embeddings of tokens and of sentences.

    Attributes:
        last_hidden_state: of the transformer, (batch, tokens, width).
        sentence_embedding: (batch, dimension).
        token_embeddings: one vector a token, of models that have no sentence embedding: (batch, tokens, dimension).

    A class of its own: torch.export knows subclasses of ModelOutput, not ModelOutput itself.
    """

    last_hidden_state: Tensor | None = None
    sentence_embedding: Tensor | None = None
    token_embeddings: Tensor | None = None


class SentenceEncoder(nn.Module):
    """A transformer and the modules after it, as one module for a pipeline or an exporter.

    forward(**inputs) takes the transformer's own inputs (`inspect.signature` of forward is the
    transformer's) and returns a SentenceEncoderOutput.
    """

    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, transformer: nn.Module, layers: list[nn.Module], output: str = "last_hidden_state") -> None:
        super().__init__()
        self.transformer = transformer
        self.output = output  # of the transformer, which the first layer reads
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
        hidden: Tensor = self.transformer(**inputs, return_dict=True)[self.output]
        mask = inputs.get("attention_mask")
        if mask is None:
            mask = torch.ones(hidden.shape[:-1], dtype=torch.int64, device=hidden.device)
        features = {TOKENS: hidden}
        for layer in self.layers:
            layer(features, mask)
        # The hidden state stays the transformer's own: sentence-transformers runs its modules on it once more.
        return SentenceEncoderOutput(
            last_hidden_state=hidden if self.output == "last_hidden_state" else None,
            sentence_embedding=features.get(SENTENCE),
            token_embeddings=None if SENTENCE in features else features[TOKENS],
        )


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
        auto: the auto class of the transformer.
        output: of the transformer, which the first layer reads.
        notes: what a user should know.
    """

    layers: list[nn.Module]
    auto: str
    output: str
    notes: tuple[str, ...] = ()


def read_sentence_settings(checkpoint: Checkpoint, *, allow_pickle: bool = False) -> SentenceSettings:
    """Build the modules of a sentence-transformers checkpoint, without its transformer.

    Raises:
        CheckpointError: a module that is unknown or does not begin with a transformer and a
            pooling, an unknown pooling mode or activation, or weights that are missing.
        UntrustedCheckpointError: weights of a module that only pickle can read, without `allow_pickle`.
    """
    modules = read_json(checkpoint.path / "modules.json")
    settings = transformer_settings(checkpoint)
    task = settings.get("transformer_task", FEATURES)
    if task not in _HEADS:
        raise CheckpointError(
            f"{checkpoint.source} is no sentence encoder: its sentence_bert_config.json says {task}.",
            hint=_OTHER_TASKS.get(task, "`onnxport tasks` shows what can be converted."),
        )
    kinds = [_kind(entry) for entry in modules]
    if kinds[0] != "Transformer" or len(kinds) == 1:
        raise _fault(f"modules.json lists {', '.join(kinds)}: not a transformer with other modules after it")
    entries = list(zip(kinds[1:], modules[1:], strict=True))
    layers = [
        _layer(checkpoint.path, kind, entry, allow_pickle) for kind, entry in entries if kind != "MultiVectorMask"
    ]
    return SentenceSettings(layers, *_HEADS[task], tuple(_notes(checkpoint, entries)))


def _notes(checkpoint: Checkpoint, entries: list[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """What a user must know of prompts and of which tokens count."""
    file = checkpoint.path / "config_sentence_transformers.json"
    settings = read_object_if_present(file)
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if default and prompts.get(default):
        yield f"Put the model's default prompt before every text: {prompts[default]!r}."
    configs = [_config(checkpoint.path, entry) for kind, entry in entries if kind == "Pooling"]
    if any(config.get("include_prompt") is False for config in configs):
        yield (
            "The model leaves the tokens of a prompt out of its pooling (include_prompt: false). sentence_embedding "
            "pools all tokens, so it is right for texts without a prompt; for a text with one, pool last_hidden_state "
            "without the prompt's tokens."
        )
    if any(kind == "MultiVectorMask" for kind, _ in entries):
        yield (
            "token_embeddings has a vector for every token; leave out padding, and the words that the config of "
            "MultiVectorMask skips."
        )


def _kind(entry: Mapping[str, Any]) -> str:
    """The module's class name, if it is one of those that this file builds."""
    dotted = str(entry.get("type", ""))
    package, _, name = dotted.rpartition(".")
    if not package.startswith("sentence_transformers.") or name not in _KINDS:
        raise _fault(f"modules.json lists the module {dotted!r}, which is not one of {', '.join(_KINDS)}")
    return name


def _layer(folder: Path, kind: str, entry: Mapping[str, Any], allow_pickle: bool) -> nn.Module:
    """One module with its weights."""
    settings = _config(folder, entry)
    place = folder / str(entry.get("path") or "")
    if kind == "Normalize":
        return Normalize(settings)
    if not settings:
        raise _fault(f"{kind} has no {(place / 'config.json').relative_to(folder)}")
    if kind == "Pooling":
        return Pooling(_modes(settings))
    if kind == "SpladePooling":
        return _splade(settings)
    return _dense(folder, place, settings, allow_pickle)


def _config(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a module, or {}."""
    place = folder / str(entry.get("path") or "")
    if not place.resolve().is_relative_to(folder.resolve()):
        raise _fault(f"modules.json names a module outside of the folder ({entry.get('path')!r})")
    config = place / "config.json"
    return read_object(config) if place != folder and config.is_file() else {}


def _splade(settings: Mapping[str, Any]) -> SpladePooling:
    strategy = settings.get("pooling_strategy", "max")
    activation = settings.get("activation_function", "relu")
    if strategy not in {"max", "sum"} or activation not in {"relu", "log1p_relu"}:
        raise _fault(f"SpladePooling has the strategy {strategy!r} and the activation {activation!r}")
    return SpladePooling(strategy, twice=activation == "log1p_relu")


def _modes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Pooling modes in the order of their results, all of them known."""
    modes = pooling_modes(settings)
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown or not modes:
        shown = unknown or settings["pooling_mode"]
        raise _fault(f"the pooling mode {shown!r} is not one of {', '.join(POOLING_MODES)}")
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
    dense.stored = tuple(found.files), str(found.format)
    return dense


def _fault(what: str) -> CheckpointError:
    return CheckpointError(
        f"The sentence encoder cannot be built: {what}.",
        hint="A copy without modules.json converts as the transformer alone, without what these modules compute.",
    )
