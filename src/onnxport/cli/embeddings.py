"""`onnxport run` for feature-extraction: hidden states and sentence embeddings of texts, and their similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST = 6


@dataclass(frozen=True)
class Embedded:
    """One text: the outputs of the graph, their shapes, and its sentence embedding if there is one."""

    text: str
    shapes: dict[str, list[int]]
    embedding: NDArray[np.float32] | None
    outputs: dict[str, NDArray[Any]]


def embed(pipeline: Any, texts: Sequence[str], settings: Mapping[str, Any]) -> list[Embedded]:
    """Run a feature-extraction pipeline on every text, and keep all outputs.

    Args:
        pipeline: without a framework, or transformers'.
        texts: the texts.
        settings: arguments of the call. Long texts are cut unless `truncation` is False, and the model's default
            prompt is put before them unless there is another, as `encode` does.
    """
    found = []
    arguments = {"truncation": True, **settings}
    default = getattr(getattr(pipeline, "modules", None), "default_prompt", None)
    if default is not None and not {"prompt", "prompt_name"} & set(settings):
        arguments["prompt_name"] = default
    for text in texts:
        if hasattr(pipeline, "outputs"):
            arrays = pipeline.outputs(text, **arguments)
        else:  # its call would return the first output only
            outputs = pipeline.forward(pipeline.preprocess(text, **arguments))
            arrays = {name: np.asarray(value) for name, value in outputs.items()}
        sentence = arrays.get("sentence_embedding")
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        found.append(Embedded(text, shapes, None if sentence is None else sentence[0], arrays))
    return found


def similarities(found: Sequence[Embedded]) -> NDArray[np.float64] | None:
    """Cosine similarities (texts, texts); None for a single text, or without sentence embeddings."""
    vectors = [item.embedding for item in found if item.embedding is not None]
    if len(vectors) < 2 or len(vectors) != len(found):
        return None
    matrix = np.stack(vectors).astype(np.float64)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    cosines: NDArray[np.float64] = matrix @ matrix.T
    return cosines


def lines(found: Sequence[Embedded]) -> list[str]:
    """Lines of text."""
    shown = []
    for item in found:
        shown.append(item.text)
        shown += [f"  {name}: {' x '.join(map(str, shape))}" for name, shape in item.shapes.items()]
        if item.embedding is not None:
            first = ", ".join(f"{value:.4f}" for value in item.embedding[:_FIRST])
            shown.append(f"  sentence_embedding begins: {first}")
    cosines = similarities(found)
    if cosines is not None:
        shown.append("cosine similarities")
        for row in range(len(found)):
            for column in range(row + 1, len(found)):
                shown.append(f"  {cosines[row, column]:.6f}  {found[row].text!r}, {found[column].text!r}")
    return shown


def document(found: Sequence[Embedded]) -> dict[str, Any]:
    """The document for --json, with the whole vectors."""
    results = [{"text": item.text, "shapes": item.shapes, "embedding": item.embedding} for item in found]
    return {"results": results, "similarities": similarities(found)}
