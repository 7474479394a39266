"""Whether a graph of fixed sizes is the graph that takes any size: calls at exactly these sizes and at smaller ones.

What is smaller is filled up as the run time does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from onnxport.errors import UsageError, VerificationError
from onnxport.graph.inputs import random_inputs
from onnxport.runtime.session import OnnxSession, check_restriction
from onnxport.specs import CaseCheck, Verification
from onnxport.system.library_errors import first_line
from onnxport.tensor_names import NUM_LOGITS_TO_KEEP
from onnxport.variants.static_shapes.decoder_check import decoder_calls, decoder_of, fills_decoder
from onnxport.variants.static_shapes.pair import GraphPair, Sessions, mask_with_ends
from onnxport.verification.cases import Case
from onnxport.verification.compare import TOLERANCES, check_case

Arrays = dict[str, np.ndarray]
_SEEDS = 3
_MASK = "attention_mask"
# Sizes that are tried below a fixed one. The nearest often pass by luck: a convolution fills up with zeros too.
_SHRUNK: tuple[Callable[[int], float], ...] = (
    lambda size: size - 1, lambda size: size / 2, lambda size: size / 3, lambda size: size - 2, lambda size: size - 3,
    lambda size: size - 5, lambda size: size - 8, lambda size: size - 13, lambda size: size * 3 / 4, lambda size: 1,
)  # fmt: skip


def paddable_axes(pair: GraphPair) -> frozenset[str]:
    """The axes along which inputs may be filled up, and no number changes by it; found by trying.

    An axis is tried at many smaller sizes, once filled up as the run time does it and once with any numbers in the
    filled places; and all that pass once more together.
    """
    sessions = pair.sessions()
    kept = [axis for axis in pair.plan.given if _fills(pair, sessions, [axis])]
    return frozenset(kept if len(kept) < 2 or _fills(pair, sessions, kept) else kept[:1])


def _fills(pair: GraphPair, sessions: Sessions, axes: Sequence[str]) -> bool:
    assert sessions[1].fixed is not None
    sessions[1].fixed = replace(sessions[1].fixed, padded=frozenset(axes))
    if sessions[1].fixed.window is not None:
        return fills_decoder(pair, sessions, axes)
    checks = []
    for case in _smaller(pair, axes, len(_SHRUNK)):
        checks += [
            check for any_number in (False, True) if (check := _call(pair, sessions, *case, any_number)) is not None
        ]
        if not all(check.ok for check in checks):
            return False
    return bool(checks)


def check_fixed(pair: GraphPair) -> Verification:
    """Everything that is compared; the file says in its metadata along which axes it may be filled up.

    Raises:
        VerificationError: the numbers differ by more than the tolerance of float32.
    """
    import onnxruntime

    absolute, relative = TOLERANCES["float32"]
    sessions = pair.sessions()
    assert sessions[1].fixed is not None
    if sessions[1].fixed.window is None:
        checks = tuple(_single_calls(pair, sessions))
    else:
        checks = tuple(decoder_calls(pair, sessions))
    verification = Verification(
        all(check.ok for check in checks), f"the graph {pair.reference.name}",
        f"onnxruntime {onnxruntime.__version__} (CPUExecutionProvider)", absolute, relative, checks,
    )  # fmt: skip
    bad = next((check for check in checks if not check.ok), None)
    if bad is not None:
        what = bad.error or "by " + ", ".join(f"{o.max_abs_error:.3g} in {o.name}" for o in bad.outputs if not o.ok)
        raise VerificationError(
            f"{pair.target.name} differs from {pair.reference.name} in the case {bad.name!r}: {what}.",
            hint=_hint(pair, sessions[1], checks)
            if not what.startswith(pair.refusal)
            else "The model may have no more positions: give smaller sizes.",
            verification=verification,
        )
    return verification


def _hint(pair: GraphPair, session: OnnxSession, checks: Sequence[CaseCheck]) -> str:
    """What the cases that differ have in common."""
    fixed = session.fixed
    window = decoder_of(pair, session).window if fixed is not None and fixed.window is not None else None
    if fixed is None or window is None:
        return "Use the graph that takes any size."
    calls = [check.sizes["tokens"] for check in checks if not check.ok and "used" in check.sizes]
    if calls and window.new not in calls and isinstance(window.tokens, str):
        return (
            "Calls of fewer tokens are filled up, and states other than keys and values do not allow that: try "
            f"`{fixed.command(**{window.tokens: 1})}`."
        )
    return "Its positions or states follow from the length of the past: use the graph that takes any size."


def _single_calls(pair: GraphPair, sessions: Sessions) -> Iterator[CaseCheck]:
    fixed = sessions[1].fixed
    assert fixed is not None
    cases = [(f"exactly these sizes, {seed + 1}", pair.plan.sizes, seed, False) for seed in range(_SEEDS)]
    if any(_MASK in spec.name for spec in pair.plan.component.inputs):
        cases.append(("exactly these sizes, padded rows", pair.plan.sizes, _SEEDS, True))
    if fixed.padded:
        cases += [(f"filled up from {_shown(case[1])}", *case[1:]) for case in _smaller(pair, sorted(fixed.padded))]
    for name, sizes, seed, masked in cases:
        check = _call(pair, sessions, name, sizes, seed, masked)
        if check is not None:
            yield check


def _shown(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items())


def _smaller(
    pair: GraphPair, axes: Sequence[str], most: int = _SEEDS
) -> Iterator[tuple[str, dict[str, int], int, bool]]:
    """(name, sizes, seed, padded) with smaller sizes of `axes`, `most` at most."""
    seen = {tuple(pair.plan.sizes.items())}
    for number, shrink in enumerate(_SHRUNK):
        changes = {axis: max(1, int(shrink(pair.plan.given[axis]))) for axis in axes}
        sizes = pair.plan.with_sizes(**changes)
        key = tuple(sizes.items())
        if key not in seen and len(seen) <= most and _is_allowed(pair, sizes):
            seen.add(key)
            yield _shown(changes), sizes, 10 + number, False


def _is_allowed(pair: GraphPair, sizes: Mapping[str, int]) -> bool:
    try:
        for limit in pair.plan.component.restrictions:
            check_restriction(limit, sizes)
    except UsageError:
        return False
    return True


def _call(
    pair: GraphPair, sessions: Sessions, name: str, sizes: dict[str, int], seed: int, masked: bool,
    any_number: bool = False,
) -> CaseCheck | None:  # fmt: skip
    """One call of both; None where the graph that takes any size does not take this one.

    Args:
        masked: rows end with padding.
        any_number: stands where inputs are filled up.
    """
    component = pair.plan.component
    inputs = random_inputs(component.inputs, sizes, pair.vocabulary, seed)
    inputs.pop(NUM_LOGITS_TO_KEEP, None)
    if masked:
        inputs |= {n: mask_with_ends(value) for n, value in inputs.items() if _MASK in n and value.ndim == 2}
    try:
        outputs = sessions[0].run(inputs)
    except Exception as error:  # whatever it says
        if sizes == pair.plan.sizes:
            return CaseCheck(name, sizes, (), error=f"{pair.refusal}: {first_line(error)}", ok=False)
        return None
    case = Case(name, sizes, inputs, outputs)
    run = partial(_run_with_noise, sessions[1]) if any_number else sessions[1].run
    return check_case(run, case, None, component.outputs, *TOLERANCES["float32"])


def _run_with_noise(session: OnnxSession, inputs: Arrays) -> Arrays:
    """As `session.run`, with random numbers where inputs of floats are filled up."""
    fixed = session.fixed
    assert fixed is not None
    whole = {}
    for name, array in inputs.items():
        whole[name] = fixed.filled(name, array)
        if array.dtype.kind == "f":
            whole[name] = np.random.default_rng(0).standard_normal(whole[name].shape).astype(array.dtype)
            whole[name][tuple(slice(size) for size in array.shape)] = array
    return fixed.cut(session.run(whole), fixed.sizes_of(inputs))
