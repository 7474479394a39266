"""Make the tiny checkpoint of a pair: config, random weights of a fixed seed, and what prepares its inputs."""

from __future__ import annotations

import json
import shutil
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.coverage import dry_run
from benchmarks.coverage.configs import Cut, Values, candidates, shrink
from benchmarks.coverage.fitting import fit_counts, fit_images
from benchmarks.coverage.pairs import Pair
from benchmarks.coverage.preprocessing import Preprocessing, preprocessing_of
from benchmarks.coverage.settings import IMAGE_TOKENS
from tests.tiny_base import randomize

_MOST_PARAMETERS = 24_000_000
_SPARE_ROWS = 32
_LABELS = ("contradiction", "neutral", "entailment")
# Configs that are made of two others and have no defaults.
_TWO_CONFIGS = {
    "encoder-decoder": ("encoder", "bert", "decoder", "bert"),
    "vision-encoder-decoder": ("encoder", "vit", "decoder", "gpt2"),
    "speech-encoder-decoder": ("encoder", "wav2vec2", "decoder", "gpt2"),
    "vision-text-dual-encoder": ("vision_config", "vit", "text_config", "bert"),
}


@dataclass
class Built:
    """What became of the checkpoint of a pair.

    Attributes:
        name: of the pair.
        made: whether it was written.
        error: why not.
        torch_runs: whether the model ran on simple inputs; None if it was not built.
        torch_error: what it raised.
        missing: preprocessing that could not be made -> why.
        parameters: number of weights.
        cut: how far the config was shrunk.
    """

    name: str
    made: bool = False
    error: str = ""
    torch_runs: bool | None = None
    torch_error: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    parameters: int = 0
    cut: dict[str, Any] | None = None

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


def build(pair: Pair, folder: Path, first: Cut | None = None) -> Built:
    """Write the checkpoint of a pair to `folder`.

    Args:
        pair: model type and task.
        folder: replaced.
        first: the cut that worked for another task of the type; tried first.
    """
    built = Built(pair.name)
    try:
        pre = preprocessing_of(pair.model_type, text=pair.modality not in ("image", "sound", "series"))
        built.missing = pre.missing
        kind = getattr(transformers, pair.architecture)
        model, cut = _model(kind, pair, pre, built, first)
    except Exception as error:
        built.error = built.error or message_of(error)
        return built
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    pre.save(folder)
    built.made, built.cut = True, asdict(cut)
    built.parameters = sum(one.numel() for one in model.parameters())
    return built


def message_of(error: BaseException) -> str:
    """Type and first words of an exception."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _model(kind: Any, pair: Pair, pre: Preprocessing, built: Built, first: Cut | None) -> tuple[Any, Cut]:
    """The model with the smallest cut that torch builds and runs; else the smallest that it builds.

    Raises:
        Exception: torch builds none of them; the error of the first.
    """
    defaults = _defaults(kind.config_class, pair.model_type)
    tokenizer = pre.parts.get("tokenizer")
    vocabulary = (len(tokenizer) if tokenizer is not None else 512) + _SPARE_ROWS
    only_built: tuple[Any, Cut, str] | None = None
    first_error: Exception | None = None
    for cut in dict.fromkeys([*([first] if first else []), *candidates(-(-vocabulary // 16) * 16)]):
        try:
            values = shrink(defaults, cut)
            _set_tokens(values, pre, vocabulary)
            _set_head(values, pair.task)
            model = _instance(kind, values, pair)
        except Exception as error:
            first_error = first_error or error
            continue
        fit_images(pre, model.config)
        fit_counts(pre, model)
        ran = dry_run.error_of(model, pair, pre)
        if not ran:
            built.torch_runs = True
            return model, cut
        if only_built is None:
            only_built = (model, cut, ran)
    if only_built is None:
        raise first_error or RuntimeError("no candidate")
    built.torch_runs, built.torch_error = False, only_built[2]
    fit_images(pre, only_built[0].config)
    fit_counts(pre, only_built[0])
    return only_built[:2]


def _defaults(config_class: Any, model_type: str) -> Values:
    if model_type in _TWO_CONFIGS:
        one, first, other, second = _TWO_CONFIGS[model_type]
        values = {
            name: transformers.AutoConfig.for_model(kind).to_dict() for name, kind in ((one, first), (other, second))
        }
        if other == "decoder":
            values["decoder"] |= {"is_decoder": True, "add_cross_attention": True}
            values |= {"decoder_start_token_id": 1, "pad_token_id": 3, "is_encoder_decoder": True}
        return {**values, "model_type": model_type}
    config = config_class()
    values = config.to_dict()
    # What a config leaves out of its dictionary is not shrunk; sub-configs always are in it.
    for name in getattr(config_class, "sub_configs", {}) or {}:
        sub = getattr(config, name, None)
        if sub is None and name == "vision_config" and (kind := config_class.sub_configs[name]).model_type:
            sub = kind()  # left out by the default, although the tasks are about images
        if sub is not None and not isinstance(values.get(name), dict):
            values[name] = sub.to_dict()
    return values


def _instance(kind: Any, values: Values, pair: Pair) -> Any:
    config = kind.config_class.from_dict(values)
    config.architectures = [pair.architecture]
    with torch.device("meta"):
        size = sum(one.numel() for one in kind(config).parameters())
    if size > _MOST_PARAMETERS:
        raise ValueError(f"{size:,} parameters with this cut")
    config = kind.config_class.from_dict(values)
    seed = zlib.crc32(pair.model_type.encode())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # buffers that a model draws by itself
        model = kind(config)
    randomize(model, torch.Generator().manual_seed(seed))
    with torch.no_grad():  # as trained models have it; some classes of transformers also set it so when they load
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
    return model.eval()


def _set_tokens(values: Values, pre: Preprocessing, vocabulary: int) -> None:
    """Ids of special tokens: the tokenizer's where it has the token, else a spare row of the word table."""
    tokenizer = pre.parts.get("tokenizer")
    spare = iter(range(vocabulary - _SPARE_ROWS, vocabulary - 1))
    taken: dict[str, int] = {}

    def of(name: str) -> int | None:
        if name in taken:
            return taken[name]
        named = IMAGE_TOKENS.get(values.get("model_type", "")) if name == "image" else None
        if named and tokenizer is not None:
            tokenizer.add_tokens([named], special_tokens=True)
            return int(tokenizer.convert_tokens_to_ids(named))
        found = getattr(tokenizer, f"{name}_token_id", None) if tokenizer is not None else None
        processor = pre.parts.get("processor")
        if found is None and processor is not None:
            found = getattr(processor, f"{name}_token_id", None)
            token = getattr(processor, f"{name}_token", None)
            if found is None and isinstance(token, str) and tokenizer is not None:
                found = tokenizer.get_vocab().get(token)
        if found is None and tokenizer is not None:
            found = next((tokenizer.get_vocab()[mark] for mark in _forms(name) if mark in tokenizer.get_vocab()), None)
        taken[name] = found if isinstance(found, int) else next(spare, vocabulary - 1)
        return taken[name]

    def walk(inner: Values) -> None:
        for key, value in inner.items():
            if isinstance(value, dict) and (key.endswith("config") or "model_type" in value):
                walk(value)
            elif key.endswith("_token_ids") and isinstance(value, (list, tuple)) and max(value, default=0) > vocabulary:
                inner[key] = [next(spare, vocabulary - 1) for _ in value]
            elif key.endswith(("_token_id", "_token_index")) and not isinstance(value, bool):
                name = key.rpartition("_token_")[0]
                rows = inner.get("vocab_size")
                if isinstance(value, int) and isinstance(rows, int) and value < rows < vocabulary:
                    continue  # a table of other things than words
                if isinstance(value, int) and value >= 0:
                    if name == "decoder_start":
                        name = "bos" if getattr(tokenizer, "bos_token_id", None) is not None else "pad"
                    inner[key] = of(name)
                elif (value is None and name in ("pad", "image") and tokenizer is not None) or (
                    isinstance(value, list) and value and isinstance(value[0], int)
                ):
                    inner[key] = of(name)

    walk(values)


def _forms(name: str) -> tuple[str, ...]:
    return (
        f"<{name}>",
        f"<|{name}|>",
        f"<|{name}_pad|>",
        f"<{name}_soft_token>",
        f"[{name.upper()}]",
        f"<|{name.upper()}|>",
    )


def _set_head(values: Values, task: str) -> None:
    if task == "text-generation" and "is_decoder" in values and not values.get("is_encoder_decoder"):
        values["is_decoder"] = True  # encoders that also have a class for this are saved so
    if task in ("text-classification", "zero-shot-classification", "token-classification", "image-classification",
                "audio-classification", "object-detection", "semantic-segmentation", "image-segmentation"):  # fmt: skip
        values["id2label"] = dict(enumerate(_LABELS))
        values["label2id"] = {label: index for index, label in enumerate(_LABELS)}
        values.pop("num_labels", None)
