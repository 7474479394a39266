"""The state of a generation between two calls of the decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Progress:
    """The state of a generation.

    Attributes:
        mask: (rows, tokens so far) int64; 0 is padding.
        states: the cache, OrtValues by the graph's input names (`past_...`). A fused graph writes into them: if you
            copy a Progress of one, only one of the two can be continued.
        encoder_inputs: OrtValues of the inputs that an encoder gives; they stay the same.
        pending_tokens: with a full static cache, inputs of the last tokens, by name. They are not in the cache, and are
            passed again with the next tokens.
    """

    mask: NDArray[np.int64]
    states: dict[str, Any]
    encoder_inputs: dict[str, Any] = field(default_factory=dict)
    pending_tokens: dict[str, NDArray[Any]] = field(default_factory=dict)
