"""Whether a source is a function: the same inputs give the same outputs, and nearly the same give nearly the same."""

from __future__ import annotations

import re

import numpy as np

from onnxport.dummy_inputs.base import Arrays
from onnxport.errors import ExportError
from onnxport.sources.base import Source
from onnxport.verification.case import Case
from onnxport.verification.tolerance import fixed_tolerance, measured_tolerance, scale_of

_TINY = 1e-6  # a change of an input, relative to its scale
# The state of a random generator of Keras, and of TensorFlow.
_GENERATOR = re.compile(r"seed_generator_state|StateVar")
_AMPLIFIED = 1e3  # outputs that move by more than this many times the input's change jumped


def require_repeatable(source: Source, case: Case) -> None:
    """Run the source twice in a row.

    Raises:
        ExportError: the second outputs are others: it draws random numbers, or keeps something between calls.
    """
    runs = source.run_twice(case.inputs)
    name = _other(runs.first, runs.second, case)
    if name is None:
        return
    far = float(np.abs(runs.second[name].astype(np.float64) - runs.first[name]).max())
    what = f"{source.architecture} gives other numbers when it is called again with the same inputs: {name} moves by "
    drawn = bool(runs.changed) and all(_GENERATOR.search(name) for name in runs.changed)
    again = _other(case.outputs, runs.first, case) or _other(source.run(case.inputs), runs.first, case)
    if again is None and not drawn:
        kept = f" ({', '.join(runs.changed[:3])})" if runs.changed else ""
        raise ExportError(
            f"{what}{far:.3g}. It keeps something between calls{kept}, and a graph keeps nothing.",
            hint="Make what it keeps an input and an output of the model's forward."
            if source.framework != "tf"
            else "Make what it keeps an input and an output: use stateful=False, return_state=True and initial_state "
            "in recurrent layers.",
        )
    raise ExportError(
        f"{what}{far:.3g}. It draws random numbers, and cannot be compared.",
        hint="Switch off dropout, noise and sampling in the model's code.",
    )


def is_stable(source: Source, inputs: Arrays) -> bool:
    """Whether outputs stay about where they are when the inputs move by a millionth.

    They do not where a decision is a tie: which of several equal numbers is the largest is up to each library.
    """
    rng = np.random.default_rng(0)
    moved = {
        name: (value + rng.standard_normal(value.shape) * _TINY * scale_of(value)).astype(value.dtype)
        if value.dtype.kind == "f"
        else value
        for name, value in inputs.items()
    }
    try:
        one, other = source.run(inputs), source.run(moved)
    except Exception:  # models refuse inputs with any exception
        return False
    for name, value in one.items():
        if value.shape != other[name].shape:
            return False
        scale = scale_of(value)
        limit = _TINY * _AMPLIFIED * scale if value.dtype.kind == "f" else 0
        with np.errstate(invalid="ignore"):
            far = np.abs(other[name].astype(np.float64) - value)
        if not np.all(far[np.isfinite(far)] <= limit):
            return False
    return True


def _other(first: Arrays, second: Arrays, case: Case) -> str | None:
    """The name of an output that differs by more than rounding."""
    for name, value in first.items():
        other = second[name]
        if value.shape != other.shape:
            return name
        scale = scale_of(value)
        moved = case.rounding.moved.get(name) if case.rounding is not None else None
        noise = None if moved is None else float(np.abs(moved).max(initial=0))
        allowed = fixed_tolerance("float32", scale) if noise is None else measured_tolerance(noise, scale)
        with np.errstate(invalid="ignore"):
            far = np.abs(other.astype(np.float64) - value)
        same = (value == other) | (np.isnan(value) & np.isnan(other)) if value.dtype.kind == "f" else value == other
        if not np.all(same | (far <= (allowed if value.dtype.kind == "f" else 0))):
            return name
    return None
