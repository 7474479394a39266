"""A graph with dynamic shapes and one with static shapes, made from it, to be compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxport.runtime.session import OnnxSession
from onnxport.variants.static_shapes.plan import FixedPlan

Sessions = tuple[OnnxSession, OnnxSession]


@dataclass(frozen=True)
class GraphPair:
    """Two graphs of one model.

    Attributes:
        plan: the graph with dynamic shapes, and the sizes of the other.
        reference: its file.
        target: the file of the other, with static shapes.
        vocabulary: number of tokens.
        embeddings: of a decoder over embeddings, the file of the graph that makes them.
    """

    plan: FixedPlan
    reference: Path
    target: Path
    vocabulary: int
    embeddings: Path | None = None

    def sessions(self) -> Sessions:
        """Both graphs."""
        return OnnxSession(self.reference), OnnxSession(self.target)

    @property
    def refusal(self) -> str:
        """How an error begins where the graph with dynamic shapes does not run."""
        return f"{self.reference.name} does not run"


def mask_with_ends(mask: np.ndarray) -> np.ndarray:
    """A mask whose rows end earlier, each at another place."""
    rows, length = mask.shape
    ends = [max(1, length - 1 - row * length // (rows + 1)) for row in range(rows)]
    return (np.arange(length)[None] < np.array(ends)[:, None]).astype(mask.dtype)
