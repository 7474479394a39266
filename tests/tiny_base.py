"""What the tables of tiny checkpoints share: the row, how a row is built, and how its weights are drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn

Parts = tuple[Any, ...]


@dataclass(frozen=True)
class Tiny:
    """One tiny checkpoint.

    Attributes:
        name: key of the table, like "bert-fill-mask".
        task: task that its head is for.
        build: makes the model (weights not drawn yet) and whatever is saved beside it.
        needs: packages without which transformers cannot make the model.
    """

    name: str
    task: str
    build: Callable[[], Parts]
    needs: tuple[str, ...] = ()


# The tables are kept independent of onnxport.tasks, which they test.
AUTO: dict[str, str] = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "text-classification": "AutoModelForSequenceClassification",
    "zero-shot-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
    "next-sentence-prediction": "AutoModelForNextSentencePrediction",
    "image-feature-extraction": "AutoModel",
    "image-classification": "AutoModelForImageClassification",
    "object-detection": "AutoModelForObjectDetection",
    "semantic-segmentation": "AutoModelForSemanticSegmentation",
    "image-segmentation": "AutoModelForUniversalSegmentation",
    "depth-estimation": "AutoModelForDepthEstimation",
    "zero-shot-image-classification": "AutoModelForZeroShotImageClassification",
    "automatic-speech-recognition": "AutoModelForCTC",
    "audio-classification": "AutoModelForAudioClassification",
}

_SCENE = ("sky", "road", "house", "tree", "person")
LABELS: dict[str, tuple[str, ...]] = {
    "text-classification": ("negative", "neutral", "positive"),
    "zero-shot-classification": ("contradiction", "neutral", "entailment"),
    "token-classification": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
    "image-classification": ("cat", "dog", "bird", "horse", "fish"),
    "object-detection": ("cat", "dog", "person", "car"),
    "semantic-segmentation": _SCENE,
    "image-segmentation": _SCENE,
    "audio-classification": ("speech", "music", "noise", "silence"),
}


def row(
    name: str,
    task: str,
    model_type: str,
    config: Callable[[Parts], dict[str, Any]],
    parts: Callable[[], Parts],
    needs: tuple[str, ...] = (),
) -> Tiny:
    """A row of a table: `config` is given the parts, because vocabularies decide sizes and token ids."""
    return Tiny(name, task, partial(_build, task, model_type, config, parts), needs)


def _build(task: str, model_type: str, config: Callable[[Parts], dict[str, Any]], parts: Callable[[], Parts]) -> Parts:
    made = parts()
    values: dict[str, Any] = {}
    if labels := LABELS.get(task):
        values["id2label"] = dict(enumerate(labels))
        values["label2id"] = {label: index for index, label in enumerate(labels)}
    values |= config(made)
    auto = getattr(transformers, AUTO[task])
    return auto.from_config(transformers.AutoConfig.for_model(model_type, **values)), *made


# Parameters whose trained value is a constant of the method, not noise.
_CONSTANTS = {"logit_scale": 2.66, "logit_bias": -1.0}

# The last weights before the ReLU of Depth Anything's head: depths are positive, and mostly zeros would hide mistakes.
_POSITIVE = ("head.conv3.weight",)

# Standard deviations in units of 1/sqrt(fan in). Linear layers get more than 1, so that attention prefers some
# tokens and residual branches weigh against what they are added to; convolutions make up for their ReLU.
_GAINS: dict[type, float] = {nn.Linear: 1.5, nn.Conv1d: math.sqrt(2), nn.Conv2d: math.sqrt(2), nn.Embedding: 1.0}


def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight and running statistic so that signals keep their size from layer to layer.

    The default init (std 0.02) makes tiny models answer nearly the same for every input, and then
    a wrong graph looks right. Tied weights are drawn once.
    """

    def normal(tensor: torch.Tensor, std: float, mean: float = 0.0) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    drawn: set[int] = set()
    with torch.no_grad():
        for path, owner in model.named_modules():
            is_norm = "Norm" in type(owner).__name__
            tensors = dict(owner.named_parameters(recurse=False))
            if is_norm:  # frozen batch norms keep weight and bias as buffers too
                tensors |= dict(owner.named_buffers(recurse=False))
            # Weight norm keeps a direction (original1) and its length (original0): the length follows.
            for name, tensor in sorted(tensors.items(), reverse="original0" in tensors):
                if id(tensor) in drawn or not tensor.is_floating_point():
                    continue
                drawn.add(id(tensor))
                if name in _CONSTANTS:
                    tensor.fill_(_CONSTANTS[name])
                elif name == "original0":
                    length = tensors["original1"].square().sum([d for d, n in enumerate(tensor.shape) if n == 1])
                    normal(tensor, 0.1, 1.0)
                    tensor.mul_(length.sqrt().view(tensor.shape))
                elif name == "running_var":
                    tensor.copy_(1 + 0.3 * torch.rand(tensor.shape, generator=generator))
                elif name.endswith(("bias", "running_mean")) and tensor.dim() == 1:
                    normal(tensor, 0.1)
                elif tensor.dim() <= 1:  # norms, and gains such as layer scale (1e-6 by default: the branch is gone)
                    normal(tensor, 0.1, 1.0)
                elif isinstance(owner, nn.ConvTranspose2d):  # (in, out, *kernel), each pixel seen kernel/stride times
                    fan_in = tensor.numel() / tensor.shape[1] / math.prod(owner.stride)
                    normal(tensor, _GAINS[nn.Conv2d] / math.sqrt(fan_in))
                elif type(owner) in _GAINS or name == "original1":
                    normal(tensor, _GAINS.get(type(owner), 1.0) / math.sqrt(tensor[0].numel()))
                else:  # learned tables: class tokens, positions, relative biases
                    normal(tensor, 0.5)
                if f"{path}.{name}".endswith(_POSITIVE):
                    tensor.abs_()
