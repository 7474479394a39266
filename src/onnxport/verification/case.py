"""One set of inputs, and what the source made of them."""

from __future__ import annotations

from dataclasses import dataclass

from onnxport.dummy_inputs.base import Arrays, Sizes
from onnxport.specs import Restriction
from onnxport.tensor_names import is_past
from onnxport.verification.rounding import Rounding


@dataclass(frozen=True)
class Case:
    """One set of inputs and what the source made of them.

    Attributes:
        sizes: of input axes, by name.
        outputs: of the source in float32.
        rounding: what rounding does to them; None where that is not known.
        limit: what the graph is restricted to where it is wrong here: a size below all that were probed, or one from
            which on the source's code does something else. None: then the graph is wrong.
        far: hardly any user gives such inputs (`dummy_inputs.content.far_contents`).
    """

    name: str
    sizes: Sizes
    inputs: Arrays
    outputs: Arrays
    rounding: Rounding | None = None
    limit: Restriction | None = None
    far: bool = False


def elements(inputs: Arrays) -> int:
    """Of the largest input that passes through the weights: a past does not."""
    return max((value.size for name, value in inputs.items() if not is_past(name)), default=0)


def past_bytes(inputs: Arrays) -> int:
    """Of a cache."""
    return sum(value.nbytes for name, value in inputs.items() if is_past(name))
