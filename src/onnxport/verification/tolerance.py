"""How far a graph may be from its source.

Where it is known how far rounding moves the source (`verification.rounding`), the graph may differ from the source in
float64 by

    FACTOR * noise + FLOOR * 2**-24 * scale + SMALLEST

where scale = max |source|, and noise is how far rounding moves the source (`Rounding.noise`).

- The first term allows for sums in another order. Source and graph both compute in float32, so their distances from
  float64 are of one size. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1: the error
  of a sum of n terms is bounded by n units, and grows like the square root of n as a rule, whatever the order.
- The second allows for outputs that the source happens to round less than the graph does: `exp`, `erf` and `tanh` are
  good to a few units in the last place in each library.
- The third allows for outputs that are zero because equal terms cancel.

A source that rounding moves further than the tolerance of float16 cannot be verified: no more than that is allowed.

Where it is not known how far rounding moves the source, the tolerance is a fixed part of the scale (`TOLERANCES`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# (absolute, relative): an output passes when max |onnx - source| <= absolute + relative * max |source|.
# float32: where the rounding of the source was not measured.
# int8, uint8, int8-static: quantization of weights and activations, 8 bits each.
# int8-weights, int4: against the source with rounded weights; what is left are activations of 8 bits.
# q4f16, bnb4: against a graph with other weights; with the same weights their rows are those of float16 and float32.
TOLERANCES: dict[str, tuple[float, float]] = {
    "float32": (1e-5, 1e-4),
    "float16": (1e-3, 1e-2),
    "int8": (1e-2, 5e-1),
    "uint8": (1e-2, 5e-1),
    "int8-static": (1e-2, 5e-1),
    "int8-weights": (1e-2, 2.5e-1),
    "int4": (1e-2, 2.5e-1),
    "q4f16": (1e-2, 2.5e-1),
    "bnb4": (1e-2, 2.5e-1),
}

QUANTIZED = ("int8", "uint8", "int8-static", "int8-weights", "int4", "q4f16", "bnb4")

FACTOR, FLOOR, SMALLEST = 4.0, 16.0, 1e-7
UNIT = 2.0**-24  # half a unit in the last place: the rounding error of one float32 operation
_PIECE = 2**20  # elements
# Numbers beyond it stand for "masked" (the lowest float of a type).
LARGEST = 1e30


def fixed_tolerance(precision: str, scale: float) -> float:
    """What is allowed for an output of that scale where nothing was measured."""
    absolute, relative = TOLERANCES[precision]
    return absolute + relative * scale


def measured_tolerance(noise: float, scale: float) -> float:
    """What is allowed for an output of that scale that rounding moves by `noise`.

    >>> f"{measured_tolerance(noise=5e-7, scale=3.0):.1e}"
    '5.0e-06'
    """
    return min(FACTOR * noise + FLOOR * UNIT * scale + SMALLEST, fixed_tolerance("float16", scale))


def scale_of(output: np.ndarray) -> float:
    """Max |output| of what is a number; masked scores, the lowest float, would make any error look small."""
    return max((_scale(piece) for piece in pieces(output)), default=0.0)


def _scale(output: np.ndarray) -> float:
    finite = np.abs(output[np.isfinite(output)].astype(np.float64))
    finite = finite[finite < LARGEST]
    return float(finite.max()) if finite.size else 0.0


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """In parts, because logits over a vocabulary are large, and float64 copies of them larger."""
    flat = array.reshape(-1)
    return (flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE))
