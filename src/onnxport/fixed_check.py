"""Whether a graph of fixed sizes is the graph that takes any size.

Single calls at exactly these sizes and at smaller ones, filled up as the run time does it. Of a decoder calls over
caches that are empty, partly used and full, with numbers in their unused places, and whole generations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.artifact.manifest import CaseCheck, Verification
from onnxport.comparison import TOLERANCES, Case, check_case
from onnxport.errors import UsageError, VerificationError
from onnxport.fixed_plan import FixedPlan
from onnxport.graph.inputs import random_inputs
from onnxport.graph.last_logits import KEEP
from onnxport.runtime.decoder import Decoder, present_name
from onnxport.runtime.embedded_decoder import EmbeddedDecoder
from onnxport.runtime.fixed_cache import Window
from onnxport.runtime.session import OnnxSession, check_restriction
from onnxport.side_by_side import compare_generation, left_padded

Arrays = dict[str, np.ndarray]
_SEEDS = 3
_STEPS = 32
_SCALE = 0.5  # of random states, about that of keys and values of trained models
_MASK = "attention_mask"
# Sizes that are tried below a fixed one. The nearest often pass by luck: a convolution fills up with zeros too.
_SHRUNK: tuple[Callable[[int], float], ...] = (
    lambda size: size - 1, lambda size: size / 2, lambda size: size / 3, lambda size: size - 2, lambda size: size - 3,
    lambda size: size - 5, lambda size: size - 8, lambda size: size - 13, lambda size: size * 3 / 4, lambda size: 1,
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Two graphs of one model.

    Attributes:
        plan: the graph that takes any size, and the sizes of the other.
        reference: its file.
        target: the file of the other, of fixed sizes.
        vocabulary: number of tokens.
        embeddings: of a decoder over embeddings, the file of the graph that makes them.
    """

    plan: FixedPlan
    reference: Path
    target: Path
    vocabulary: int
    embeddings: Path | None = None


def paddable_axes(pair: Pair) -> frozenset[str]:
    """The axes along which inputs may be filled up, and no number changes by it; found by trying.

    An axis is tried at many smaller sizes, once filled up as the run time does it and once with any numbers in the
    filled places; and all that pass once more together.
    """
    sessions = OnnxSession(pair.reference), OnnxSession(pair.target)
    kept = [axis for axis in pair.plan.given if _fills(pair, sessions, [axis])]
    return frozenset(kept if len(kept) < 2 or _fills(pair, sessions, kept) else kept[:1])


def _fills(pair: Pair, sessions: tuple[OnnxSession, OnnxSession], axes: Sequence[str]) -> bool:
    assert sessions[1].fixed is not None
    sessions[1].fixed = replace(sessions[1].fixed, padded=frozenset(axes))
    if sessions[1].fixed.window is not None:
        return _fills_decoder(pair, sessions, axes)
    checks = []
    for case in _smaller(pair, axes, len(_SHRUNK)):
        checks += [
            check for any_number in (False, True) if (check := _call(pair, sessions, *case, any_number)) is not None
        ]
        if not all(check.ok for check in checks):
            return False
    return bool(checks)


def _fills_decoder(pair: Pair, sessions: tuple[OnnxSession, OnnxSession], axes: Sequence[str]) -> bool:
    """Of a decoder: axes of what an encoder gives alone. Rows and tokens are the window's."""
    decoders = _decoder(pair, sessions[0]), _decoder(pair, sessions[1])
    others = [spec for spec in pair.plan.component.inputs if spec.name not in decoders[0].fixed]
    if any(axis in spec.axes for spec in others for axis in axes) or any(pair.plan.given[axis] < 2 for axis in axes):
        return False
    given = _given(pair, decoders[0], 1, axes)
    check = compare_generation(
        decoders, 1, 1, 1, pair.vocabulary, TOLERANCES["float32"], steps=2, fixed=(given, given)
    )  # fmt: skip
    return check.ok


def check_fixed(pair: Pair) -> Verification:
    """Everything that is compared; the file says in its metadata along which axes it may be filled up.

    Raises:
        VerificationError: the numbers differ by more than the tolerance of float32.
    """
    import onnxruntime

    absolute, relative = TOLERANCES["float32"]
    sessions = OnnxSession(pair.reference), OnnxSession(pair.target)
    assert sessions[1].fixed is not None
    if sessions[1].fixed.window is None:
        checks = tuple(_single_calls(pair, sessions))
    else:
        checks = tuple(_decoder_calls(pair, sessions))
    verification = Verification(
        all(check.ok for check in checks), f"the graph {pair.reference.name}",
        f"onnxruntime {onnxruntime.__version__} (CPUExecutionProvider)", absolute, relative, checks,
    )  # fmt: skip
    bad = next((check for check in checks if not check.ok), None)
    if bad is not None:
        what = bad.error or "by " + ", ".join(f"{o.max_abs_error:.3g} in {o.name}" for o in bad.outputs if not o.ok)
        raise VerificationError(
            f"{pair.target.name} differs from {pair.reference.name} in the case {bad.name!r}: {what}. "
            "Nothing was written.",
            hint=_hint(pair, sessions[1], checks)
            if not what.startswith(_refusal(pair))
            else "The model may have no more positions: give smaller sizes.",
            verification=verification,
        )
    return verification


def _refusal(pair: Pair) -> str:
    return f"{pair.reference.name} does not run"


def _hint(pair: Pair, session: OnnxSession, checks: Sequence[CaseCheck]) -> str:
    """What the cases that differ have in common."""
    fixed = session.fixed
    window = _decoder(pair, session).window if fixed is not None and fixed.window is not None else None
    if fixed is None or window is None:
        return "Use the graph that takes any size."
    calls = [check.sizes["tokens"] for check in checks if not check.ok and "used" in check.sizes]
    if calls and window.new not in calls and isinstance(window.tokens, str):
        return (
            "Calls of fewer tokens are filled up, and states other than keys and values do not allow that: try "
            f"`{fixed.command(**{window.tokens: 1})}`."
        )
    return "Its positions or states follow from the length of the past: use the graph that takes any size."


def _single_calls(pair: Pair, sessions: tuple[OnnxSession, OnnxSession]) -> Iterator[CaseCheck]:
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


def _smaller(pair: Pair, axes: Sequence[str], most: int = _SEEDS) -> Iterator[tuple[str, dict[str, int], int, bool]]:
    """(name, sizes, seed, padded) with smaller sizes of `axes`, `most` at most."""
    seen = {tuple(pair.plan.sizes.items())}
    for number, shrink in enumerate(_SHRUNK):
        changes = {axis: max(1, int(shrink(pair.plan.given[axis]))) for axis in axes}
        sizes = pair.plan.with_sizes(**changes)
        key = tuple(sizes.items())
        if key not in seen and len(seen) <= most and _is_allowed(pair, sizes):
            seen.add(key)
            yield _shown(changes), sizes, 10 + number, False


def _is_allowed(pair: Pair, sizes: Mapping[str, int]) -> bool:
    try:
        for limit in pair.plan.component.restrictions:
            check_restriction(limit, sizes)
    except UsageError:
        return False
    return True


def _call(
    pair: Pair, sessions: tuple[OnnxSession, OnnxSession], name: str, sizes: dict[str, int], seed: int, masked: bool,
    any_number: bool = False,
) -> CaseCheck | None:  # fmt: skip
    """One call of both; None where the graph that takes any size does not take this one.

    Args:
        masked: rows end with padding.
        any_number: stands where inputs are filled up.
    """
    component = pair.plan.component
    inputs = random_inputs(component.inputs, sizes, pair.vocabulary, seed)
    inputs.pop(KEEP, None)
    if masked:
        inputs |= {n: _ends(value) for n, value in inputs.items() if _MASK in n and value.ndim == 2}
    try:
        outputs = sessions[0].run(inputs)
    except Exception as error:  # whatever it says
        if sizes == pair.plan.sizes:
            line = str(error).strip().splitlines()[0][:200]
            return CaseCheck(name, sizes, (), error=f"{_refusal(pair)}: {line}", ok=False)
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


def _ends(mask: np.ndarray) -> np.ndarray:
    """A mask whose rows end earlier, each at another place."""
    rows, length = mask.shape
    ends = [max(1, length - 1 - row * length // (rows + 1)) for row in range(rows)]
    return (np.arange(length)[None] < np.array(ends)[:, None]).astype(mask.dtype)


def _decoder_calls(pair: Pair, sessions: tuple[OnnxSession, OnnxSession]) -> Iterator[CaseCheck]:
    decoders = _decoder(pair, sessions[0]), _decoder(pair, sessions[1])
    fixed, window = sessions[1].fixed, decoders[1].window
    assert fixed is not None and window is not None
    fills = dict.fromkeys((0, 1, window.past // 2, window.past - 1, window.past))
    for number, held in enumerate(fills):
        for count in dict.fromkeys((window.new, (window.new + 1) // 2, 1)):
            for padded in (False, True) if _MASK not in fixed.added else (False,):
                yield _window_call(pair, decoders, held, count, padded, 7 * number + count)
    for rows, length, chunk, steps in _runs(window, whole=decoders[0].whole_prompts):
        given = _given(pair, decoders[0], rows, fixed.padded)
        yield compare_generation(
            decoders, rows, length, chunk, pair.vocabulary, TOLERANCES["float32"], steps=steps, fixed=(given, given)
        )


def _runs(window: Window, *, whole: bool) -> list[tuple[int, int, int, int]]:
    """(rows, tokens of the prompt, of them in a call, tokens written): prompts of one call, of several and of parts
    of one, and up to the last token in view.

    Args:
        whole: a prompt must come in one call.
    """
    steps = min(_STEPS, window.past)
    room = window.longest - steps + 1  # the last token is not given
    several = dict.fromkeys(max(1, min(room, length)) for length in (2 * window.new + 1, window.new + window.past // 3))
    lengths = (min(window.new, room), 1) if whole else (*several, 1)
    runs = [
        (rows, length, length if rows == 1 or whole else max(1, length // 2), steps)
        for length in dict.fromkeys(lengths)
        for rows in dict.fromkeys((1, window.rows))
    ]
    last = window.new if whole else window.longest
    return [*runs, (window.rows, last, last, window.longest - last + 1)]


def _decoder(pair: Pair, session: OnnxSession) -> Decoder:
    if pair.embeddings is None:
        return Decoder(session)
    return EmbeddedDecoder(session, OnnxSession(pair.embeddings), -1)


def _given(pair: Pair, decoder: Decoder, rows: int, smaller: Collection[str] = ()) -> Arrays:
    """In the place of what an encoder gives: random states, and a mask whose rows end at different places.

    Args:
        smaller: axes along which they are not as large as the fixed sizes.
    """
    fixed = {spec.name: spec for spec in pair.plan.component.inputs if spec.name in decoder.fixed}
    if not fixed:
        return {}
    sizes = {axis: max(1, size - size // 3 - 1) if axis in smaller else size for axis, size in pair.plan.sizes.items()}
    batch = next(iter(fixed.values())).axes[0]
    sizes[str(batch)] = rows
    made = random_inputs(list(fixed.values()), sizes, pair.vocabulary, rows)
    made = {name: value * np.float32(_SCALE) if value.dtype.kind == "f" else value for name, value in made.items()}
    return made | {name: _ends(value) for name, value in made.items() if _MASK in name and value.ndim == 2}


def _window_call(
    pair: Pair, decoders: tuple[Decoder, Decoder], held: int, count: int, padded: bool, seed: int
) -> CaseCheck:
    """One call over random states: the graph that takes any size gets the used places alone."""
    portable, other = decoders
    window = other.window
    assert window is not None and other.session.fixed is not None
    rng = np.random.default_rng(seed)
    rows, total = window.rows, held + count
    mask = left_padded(rows + 1, total)[1:] if padded else np.ones((rows, total), np.int64)
    axes, sizes = other.session.fixed.axes, other.session.fixed.sizes
    name = f"{count} tokens over {held} of {window.past} places{', padded rows' if padded else ''}"
    known = {spec.name for spec in portable.session.inputs}
    states: Arrays = {}
    used: Arrays = {}
    for spec in pair.plan.component.inputs:
        present = present_name(spec.name)
        if not spec.name.startswith("past_") or spec.name in other.fixed or present not in axes:
            continue
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in axes[spec.name]]
        states[spec.name] = (rng.standard_normal(shape) * _SCALE).astype(spec.dtype)
        place = window.place(spec.name)
        used[spec.name] = states[spec.name]
        if place is not None:
            used[spec.name] = np.ascontiguousarray(
                np.take(states[spec.name], range(window.past - held, window.past), place)
            )
    ids = rng.integers(0, pair.vocabulary, (rows, count))
    fixed = _given(pair, portable, rows)
    # What kind of token each is, for decoders that take it with a prompt.
    fixed |= {name: rng.integers(0, 2, (rows, total)) for name in portable.more_inputs if name in known}
    begun = portable.start(rows, fixed), other.start(rows, fixed)
    for progress in begun:
        progress.mask = mask[:, :held]
    feeds = []
    for decoder, progress, given in zip(decoders, begun, (used, states), strict=True):
        arrays = decoder.taken_in(progress, ids)
        arrays |= {_MASK: mask, "position_ids": decoder.positions(progress, mask, held)}
        taken = {spec.name for spec in decoder.session.inputs}
        arrays = {n: value for n, value in arrays.items() if n in taken}
        if decoder is other:
            arrays = {n: window.arranged(n, value, held) for n, value in arrays.items()}
        held_now = {n: value.numpy() for n, value in progress.fixed.items()}
        feeds.append(arrays | given | held_now)
    last = min(total, window.past - window.new + count)  # of the states that both give back
    names = axes, window.fixed.window, mask, count
    wanted_of = partial(_comparable, names=names, last=last, end=total)
    found_of = partial(_comparable, names=names, last=last, end=window.past - window.new + count)
    specs = tuple(
        replace(spec, axes=tuple(f"own_{n}" for n in range(len(spec.axes)))) for spec in other.session.outputs
    )
    try:
        wanted = wanted_of(portable.session.run(feeds[0]))
    except Exception as error:
        line = str(error).strip().splitlines()[0][:200]
        return CaseCheck(name, {}, (), error=f"{_refusal(pair)}: {line}", ok=False)
    case = Case(name, {"rows": rows, "tokens": count, "used": held}, feeds[1], wanted)
    return check_case(lambda arrays: found_of(other.session.run(arrays)), case, "token", specs, *TOLERANCES["float32"])


def _comparable(
    outputs: Mapping[str, np.ndarray], *, names: tuple[Any, str | None, np.ndarray, int], last: int, end: int
) -> Arrays:
    """What both graphs give: logits of real tokens, and states of real tokens.

    Args:
        names: axes of outputs, that of the past, the mask of all tokens, and how many of them are new.
        last: so many places of a state are compared,
        end: up to this one.
    """
    axes, window, mask, count = names
    found = {}
    for name, value in outputs.items():
        if name == "logits":
            found[name] = np.where(mask[:, -count:, None] == 1, value[:, :count], np.float32(0))
        elif window in axes[name]:
            place = axes[name].index(window)
            shape = [1] * value.ndim
            shape[0], shape[place] = len(mask), last
            real = mask[:, mask.shape[1] - last :].reshape(shape) == 1
            found[name] = np.where(real, np.take(value, range(end - last, end), place), np.zeros((), value.dtype))
        else:
            found[name] = value
    return found
