"""Inputs on which loss, ranges and speed of a variant are measured: real texts where a graph reads texts.

The package has 200 sentences of many languages from works and proverbs that nobody owns; a user's own texts come
before them. Graphs of images and sounds get generated ones: smooth noise of the size that was verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from onnxport.artifact.folder import Folder
from onnxport.artifact.manifest import Component
from onnxport.errors import OnnxPortError, UsageError
from onnxport.graph.inputs import Arrays, random_inputs, verified_sizes, vocabulary_size
from onnxport.specs import TensorSpec
from onnxport.tensor_names import is_past

_ROWS = 4  # texts in one call
_LONGEST = 256  # tokens of a text
_IMAGES = 24  # generated rows
_COARSE = 8  # side of the noise that is enlarged to an image
_TEXT = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}


@dataclass(frozen=True)
class Samples:
    """Inputs of one graph.

    Attributes:
        arrays: of each call, by the names of the graph's inputs.
        kind: what they are, in words: "211 texts", "24 generated inputs".
        count: number of rows.
        real: they are texts, not generated arrays.
    """

    arrays: list[Arrays]
    kind: str
    count: int
    real: bool = False


def shipped_texts() -> list[str]:
    """The sentences of the package."""
    text = resources.files(__package__).joinpath("data/sentences.txt").read_text(encoding="utf-8")
    return text.splitlines()


def read_texts(file: Path) -> list[str]:
    """The texts of a user: one in each line.

    Raises:
        UsageError: the file cannot be read, or has none.
    """
    try:
        texts = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} cannot be read as text: {error}.", hint="Give a file with one text in each line."
        ) from error
    if not texts:
        raise UsageError(f"{file} has no text.", hint="Give a file with one text in each line.")
    return texts


def sample_inputs(folder: Folder, component: Component, texts: Sequence[str] | None = None) -> Samples:
    """Inputs of a graph of a folder.

    Args:
        texts: used instead of those of the package.

    Raises:
        FolderError: sizes on record are no sizes.
    """
    names = {spec.name for spec in component.inputs}
    reads_texts = "input_ids" in names and all(name in _TEXT or is_past(name) for name in _needed(component))
    if reads_texts and (folder.path / "tokenizer.json").is_file():
        given = list(texts or shipped_texts())
        try:
            return Samples(list(_texts(folder, component, given)), f"{len(given)} texts", len(given), real=True)
        except OnnxPortError:  # a tokenizer of another model, or a text that it cannot encode
            if texts is not None:
                raise
    words = vocabulary_size(folder.path)
    sizes = verified_sizes(component)
    count = max(1, _IMAGES // max(1, len(sizes)))
    found = [
        _smooth(component.inputs, random_inputs(component.inputs, dict(one), words, seed), seed)
        for seed in range(count) for one in sizes
    ]  # fmt: skip
    rows = sum(len(next(iter(one.values()))) if one else 0 for one in found)
    return Samples(found, f"{rows} generated inputs", rows)


def _needed(component: Component) -> list[str]:
    return [spec.name for spec in component.inputs if spec.name != "num_logits_to_keep"]


def _texts(folder: Folder, component: Component, texts: Sequence[str]) -> Iterator[Arrays]:
    """Calls of several texts of similar length, padded."""
    from onnxport.runtime.prompts.tokenizer import FolderTokenizer

    tokenizer = FolderTokenizer(folder.path)
    past = any(is_past(spec.name) for spec in component.inputs)
    words = vocabulary_size(folder.path)
    fixed = next((spec.axes[1] for spec in component.inputs if spec.name == "input_ids"), None)
    longest = min(_LONGEST, fixed) if isinstance(fixed, int) else _longest(component)
    ordered = sorted(texts, key=len)
    for start in range(0, len(ordered), _ROWS):
        ids, mask = tokenizer.encode(
            ordered[start : start + _ROWS], 0, "left" if past else "right", longest=longest
        )  # fmt: skip
        yield text_call(component.inputs, np.minimum(ids, words - 1), mask)


def _longest(component: Component) -> int:
    """Tokens up to which numbers were compared."""
    sizes = [sizes.get("sequence_length", 0) for sizes in verified_sizes(component)]
    known = max([*sizes, 2])
    return min(_LONGEST, known)


def text_call(inputs: Sequence[TensorSpec], ids: np.ndarray, mask: np.ndarray) -> Arrays:
    """The inputs of a graph for tokens; a decoder's cache is empty.

    Args:
        inputs: of the graph.
        ids, mask: (rows, tokens).
    """
    made: Arrays = {}
    for spec in inputs:
        if spec.name == "input_ids":
            made[spec.name] = ids
        elif spec.name == "attention_mask":
            made[spec.name] = mask
        elif spec.name == "position_ids":
            made[spec.name] = np.maximum(mask.cumsum(1) - 1, 0)
        elif spec.name == "token_type_ids":
            made[spec.name] = np.zeros_like(ids)
        elif is_past(spec.name):
            shape = [axis if isinstance(axis, int) else 0 for axis in spec.axes]
            shape[0] = len(ids)
            made[spec.name] = np.zeros(shape, np.dtype(spec.dtype))
            continue
        else:
            continue
        made[spec.name] = made[spec.name].astype(spec.dtype)
    return made


def _smooth(inputs: Sequence[TensorSpec], arrays: Arrays, seed: int) -> Arrays:
    """Images as coarse noise, enlarged: neighbouring pixels of real images are alike."""
    rng = np.random.default_rng(seed)
    for spec in inputs:
        array = arrays[spec.name]
        if spec.name == "pixel_values" and array.ndim == 4:
            rows, channels, height, width = array.shape
            coarse = rng.standard_normal((rows, channels, _COARSE, _COARSE))
            tall = coarse[:, :, np.arange(height) * _COARSE // height]
            arrays[spec.name] = tall[:, :, :, np.arange(width) * _COARSE // width].astype(array.dtype)
    return arrays


def require_texts(folder: Folder, texts: Sequence[str] | None) -> None:
    """Refuse a user's texts for a folder that reads none.

    Raises:
        UsageError: it has no tokenizer.
    """
    if texts is not None and not (folder.path / "tokenizer.json").is_file():
        raise UsageError(
            f"{folder.path} has no tokenizer.json, so that --data cannot be encoded.",
            hint="Leave out --data: inputs are generated.",
        )
