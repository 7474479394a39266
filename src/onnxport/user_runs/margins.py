"""How clear the choices of a source are: by how much the best candidate led the second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

_ABSOLUTE, _RELATIVE = 1e-5, 1e-4  # of a graph in float32; see verification.tolerance


class Margins:
    """Collects logits while a pipeline answers.

    Attributes:
        near_tie: some choice was closer than two graphs may differ: twice the tolerance, once for each logit.
    """

    def __init__(self) -> None:
        self.near_tie = False

    def add(self, logits: Any) -> None:
        """Judge the choices over the last axis of `logits`."""
        values = np.asarray(logits.detach().float().cpu() if hasattr(logits, "detach") else logits, np.float64)
        if values.ndim == 0 or values.shape[-1] < 2:
            return
        best = np.partition(values, -2, axis=-1)[..., -2:]
        finite = np.abs(values[np.isfinite(values)])
        scale = float(finite.max()) if finite.size else 0.0
        with np.errstate(invalid="ignore"):
            margin = np.nan_to_num(best[..., 1] - best[..., 0], nan=np.inf, posinf=np.inf)
        self.near_tie |= bool((margin < 2 * (_ABSOLUTE + _RELATIVE * scale)).any())


@contextmanager
def recorded_margins(pipeline: Any) -> Iterator[Margins]:
    """Record the choices that a pipeline makes within the block: of logits, and of each generated token."""
    margins, model = Margins(), pipeline.model
    patched: list[tuple[Any, str]] = []

    def replace(holder: Any, name: str, function: Any) -> None:
        patched.append((holder, name))
        vars(holder)[name] = function

    if hasattr(model, "generate") and model.can_generate():
        generate = model.generate

        def generating(*arguments: Any, **keywords: Any) -> Any:
            def processor(tokens: Any, scores: Any) -> Any:
                margins.add(scores)
                return scores

            return generate(*arguments, **keywords, logits_processor=[*keywords.pop("logits_processor", []), processor])

        replace(model, "generate", generating)
    elif hasattr(pipeline, "_forward"):
        forward = pipeline._forward

        def forwarding(*arguments: Any, **keywords: Any) -> Any:
            outputs = forward(*arguments, **keywords)
            if isinstance(outputs, Mapping) and hasattr(outputs.get("logits"), "shape"):
                margins.add(outputs["logits"])
            return outputs

        replace(pipeline, "_forward", forwarding)
    try:
        yield margins
    finally:
        for holder, name in patched:
            vars(holder).pop(name, None)
