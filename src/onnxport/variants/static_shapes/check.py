"""Does a graph with static shapes compute what the graph with dynamic shapes does?

Both are called with inputs of exactly the static sizes, and with smaller ones, which are padded as the run time pads
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnxport.errors import VerificationError
from onnxport.graph.inputs import random_inputs
from onnxport.runtime.session import OnnxSession
from onnxport.specs import CaseCheck, Verification
from onnxport.tensor_names import NUM_LOGITS_TO_KEEP
from onnxport.variants.static_shapes.decoder_check import decoder_calls, decoder_of, fills_decoder
from onnxport.variants.static_shapes.pair import GraphPair, Sessions, mask_with_ends
from onnxport.verification.compare import TOLERANCES, verification_of
from onnxport.verification.graph_cases import compare_call

Arrays = dict[str, np.ndarray]
_SEEDS = 3
_MASK = "attention_mask"
# Sizes that are tried below a static one. The nearest often pass by luck: a convolution pads with zeros too.
_SHRUNK: tuple[Callable[[int], float], ...] = (
    lambda size: size - 1, lambda size: size / 2, lambda size: size / 3, lambda size: size - 2, lambda size: size - 3,
    lambda size: size - 5, lambda size: size - 8, lambda size: size - 13, lambda size: size * 3 / 4, lambda size: 1,
)  # fmt: skip


def paddable_axes(pair: GraphPair) -> frozenset[str]:
    """The axes along which inputs may be padded without a change of the outputs; found by trying.

    An axis is tried at many smaller sizes, once padded as the run time does it and once with random numbers in the
    padding. All axes that pass are tried once more together.
    """
    sessions = pair.sessions()
    kept = [axis for axis in pair.plan.given if _fills(pair, sessions, [axis])]
    return frozenset(kept if len(kept) < 2 or _fills(pair, sessions, kept) else kept[:1])


def _fills(pair: GraphPair, sessions: Sessions, axes: Sequence[str]) -> bool:
    assert sessions[1].static_axes is not None
    sessions[1].static_axes = replace(sessions[1].static_axes, padded=frozenset(axes))
    if sessions[1].static_axes.past_axis is not None:
        return fills_decoder(pair, sessions, axes)
    checks = []
    for case in _smaller(pair, axes, len(_SHRUNK)):
        checks += [
            check for noise in (False, True) if (check := _call(pair, sessions, replace(case, noise=noise))) is not None
        ]
        if not all(check.ok for check in checks):
            return False
    return bool(checks)


def compare_static(pair: GraphPair) -> Verification:
    """Both graphs on the same inputs; the file says in its metadata along which axes its inputs may be padded."""
    sessions = pair.sessions()
    assert sessions[1].static_axes is not None
    calls = _single_calls if sessions[1].static_axes.past_axis is None else decoder_calls
    return verification_of(
        list(calls(pair, sessions)), f"the graph {pair.reference.name}", TOLERANCES["float32"]
    )  # fmt: skip


def require_equal(pair: GraphPair, verification: Verification) -> None:
    """Go on only with a graph whose outputs are those of the graph with dynamic shapes.

    Args:
        verification: what `compare_static` found.

    Raises:
        VerificationError: they differ by more than the tolerance of float32.
    """
    bad = next((check for check in verification.cases if not check.ok), None)
    if bad is None:
        return
    what = bad.error or "by " + ", ".join(f"{o.max_abs_error:.3g} in {o.name}" for o in bad.outputs if not o.ok)
    raise VerificationError(
        f"{pair.target.name} differs from {pair.reference.name} in the case {bad.name!r}: {what}.",
        hint=_hint(pair, pair.sessions()[1], verification.cases)
        if not what.startswith(pair.refusal)
        else "The model may have no more positions: give smaller sizes.",
        verification=verification,
    )


def _hint(pair: GraphPair, session: OnnxSession, checks: Sequence[CaseCheck]) -> str:
    """What the cases that differ have in common."""
    fixed = session.static_axes
    cache = decoder_of(pair, session).static_cache if fixed is not None and fixed.past_axis is not None else None
    if fixed is None or cache is None:
        return "Use the graph with dynamic shapes."
    calls = [check.sizes["tokens"] for check in checks if not check.ok and "used" in check.sizes]
    if calls and cache.new not in calls and isinstance(cache.new_axis, str):
        return (
            "Calls of fewer tokens are padded, which states other than keys and values do not allow: try "
            f"`{fixed.command(**{cache.new_axis: 1})}`."
        )
    return "Its positions or states follow from the length of the past: use the graph with dynamic shapes."


@dataclass(frozen=True)
class _Call:
    """One call of both graphs.

    Attributes:
        name: for the record.
        sizes: axis name -> size.
        seed: of the random inputs.
        padded: rows end with padding.
        noise: the padding of inputs that are smaller is random numbers.
    """

    name: str
    sizes: dict[str, int]
    seed: int
    padded: bool = False
    noise: bool = False


def _single_calls(pair: GraphPair, sessions: Sessions) -> Iterator[CaseCheck]:
    fixed, sizes = sessions[1].static_axes, pair.plan.sizes
    assert fixed is not None
    calls = [_Call(f"exactly these sizes, {seed + 1}", sizes, seed) for seed in range(_SEEDS)]
    if any(_MASK in spec.name for spec in pair.plan.component.inputs):
        calls.append(_Call("exactly these sizes, padded rows", sizes, _SEEDS, padded=True))
    if fixed.padded:
        calls += [replace(call, name=f"padded from {call.name}") for call in _smaller(pair, sorted(fixed.padded))]
    for call in calls:
        check = _call(pair, sessions, call)
        if check is not None:
            yield check


def _smaller(pair: GraphPair, axes: Sequence[str], most: int = _SEEDS) -> Iterator[_Call]:
    """Calls with smaller sizes of `axes`, `most` at most."""
    seen = {tuple(pair.plan.sizes.items())}
    for number, shrink in enumerate(_SHRUNK):
        changes = {axis: max(1, int(shrink(pair.plan.given[axis]))) for axis in axes}
        sizes = pair.plan.with_sizes(**changes)
        key = tuple(sizes.items())
        allowed = all(limit.holds(sizes) for limit in pair.plan.component.restrictions)
        if key not in seen and len(seen) <= most and allowed:
            seen.add(key)
            yield _Call(", ".join(f"{axis} {size}" for axis, size in changes.items()), sizes, 10 + number)


def _call(pair: GraphPair, sessions: Sessions, call: _Call) -> CaseCheck | None:
    """One call of both; None where the graph with dynamic shapes does not take this one."""
    component = pair.plan.component
    inputs = random_inputs(component.inputs, call.sizes, pair.vocabulary, call.seed)
    inputs.pop(NUM_LOGITS_TO_KEEP, None)
    if call.padded:
        inputs |= {n: mask_with_ends(value) for n, value in inputs.items() if _MASK in n and value.ndim == 2}
    run = partial(_run_with_noise, sessions[1]) if call.noise else sessions[1].run
    found = compare_call(
        (call.name, call.sizes), (sessions[0].run, inputs), (run, inputs), decision=None, outputs=component.outputs,
        tolerance=TOLERANCES["float32"],
    )  # fmt: skip
    if not isinstance(found, str):
        return found
    if call.sizes == pair.plan.sizes:
        return CaseCheck(call.name, call.sizes, (), error=f"{pair.refusal}: {found}", ok=False)
    return None


def _run_with_noise(session: OnnxSession, inputs: Arrays) -> Arrays:
    """As `session.run`, with random numbers as the padding of floating-point inputs."""
    fixed = session.static_axes
    assert fixed is not None
    whole = {}
    for name, array in inputs.items():
        whole[name] = fixed.pad(name, array)
        if array.dtype.kind == "f":
            whole[name] = np.random.default_rng(0).standard_normal(whole[name].shape).astype(array.dtype)
            whole[name][tuple(slice(size) for size in array.shape)] = array
    return fixed.unpad(session.run(whole), fixed.sizes_of(inputs))
