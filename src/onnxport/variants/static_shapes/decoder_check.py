"""Whether a decoder whose cache is a window is the decoder that takes any size.

Calls over windows that are empty, partly used and full, with numbers in their unused places, and whole generations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from onnxport.graph.inputs import random_inputs
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.embedded_decoder import EmbeddedDecoder
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.static_cache import Window
from onnxport.specs import CaseCheck
from onnxport.system.library_errors import first_line
from onnxport.tensor_names import is_past, present_name
from onnxport.variants.static_shapes.pair import GraphPair, Sessions, mask_with_ends
from onnxport.verification.cases import Case
from onnxport.verification.compare import TOLERANCES, check_case
from onnxport.verification.decoder_pair import Generation, compare_generation, left_padded

Arrays = dict[str, np.ndarray]
_STEPS = 32
_MOST_CALLS = 128  # of a prompt: a long window with one token a call would take thousands
_SCALE = 0.5  # of random states, about that of keys and values of trained models
_MASK = "attention_mask"


def fills_decoder(pair: GraphPair, sessions: Sessions, axes: Sequence[str]) -> bool:
    """Of a decoder: axes of what an encoder gives alone. Rows and tokens are the window's."""
    decoders = decoder_of(pair, sessions[0]), decoder_of(pair, sessions[1])
    others = [spec for spec in pair.plan.component.inputs if spec.name not in decoders[0].fixed]
    if any(axis in spec.axes for spec in others for axis in axes) or any(pair.plan.given[axis] < 2 for axis in axes):
        return False
    for share in (1 / 3, 1 / 2, 1):
        given = _given(pair, decoders[0], 1, axes, share)
        check = compare_generation(
            decoders, Generation(1, 1, 1, steps=2), pair.vocabulary, TOLERANCES["float32"], fixed=(given, given)
        )
        if not check.ok:
            return False
    return True


def decoder_calls(pair: GraphPair, sessions: Sessions) -> Iterator[CaseCheck]:
    decoders = decoder_of(pair, sessions[0]), decoder_of(pair, sessions[1])
    fixed, window = sessions[1].fixed, decoders[1].window
    assert fixed is not None and window is not None
    fills = dict.fromkeys((0, 1, window.past // 2, window.past - 1, window.past))
    for number, held in enumerate(fills):
        for count in dict.fromkeys((window.new, (window.new + 1) // 2, 1)):
            for padded in (False, True) if _MASK not in fixed.added else (False,):
                yield _window_call(pair, decoders, held, count, padded, 7 * number + count)
    for generation in _runs(window, whole=decoders[0].needs_full_prefill):
        given = _given(pair, decoders[0], generation.rows, fixed.padded)
        yield compare_generation(decoders, generation, pair.vocabulary, TOLERANCES["float32"], fixed=(given, given))


def _runs(window: Window, *, whole: bool) -> list[Generation]:
    """Prompts of one call, of several and of parts of one, and up to the last token in view.

    Args:
        whole: a prompt must come in one call.
    """
    steps = min(_STEPS, window.past)
    room = window.longest - steps + 1  # the last token is not given
    third = window.new + min(window.past // 3, _MOST_CALLS // 4 * window.new)
    several = dict.fromkeys(max(1, min(room, length)) for length in (2 * window.new + 1, third))
    lengths = (min(window.new, room), 1) if whole else (*several, 1)
    runs = [
        Generation(rows, length, length if rows == 1 or whole else max(1, length // 2), steps)
        for length in dict.fromkeys(lengths)
        for rows in dict.fromkeys((1, window.rows))
    ]
    last = window.new if whole else window.longest
    calls = window.longest // window.new + window.longest - last
    return [*runs, Generation(window.rows, last, last, window.longest - last + 1)] if calls <= _MOST_CALLS else runs


def decoder_of(pair: GraphPair, session: OnnxSession) -> Decoder:
    if pair.embeddings is None:
        return Decoder(session)
    return EmbeddedDecoder(session, OnnxSession(pair.embeddings), -1)


def _given(
    pair: GraphPair, decoder: Decoder, rows: int, smaller: Collection[str] = (), share: float = 1 / 3
) -> Arrays:  # fmt: skip
    """In the place of what an encoder gives: random states, and a mask whose rows end at different places.

    Args:
        smaller: axes along which they are not as large as the fixed sizes.
        share: by how much of it they are smaller.
    """
    fixed = {spec.name: spec for spec in pair.plan.component.inputs if spec.name in decoder.fixed}
    if not fixed:
        return {}
    less = {axis: max(1, size - int(size * share) - 1) for axis, size in pair.plan.sizes.items() if axis in smaller}
    sizes = pair.plan.sizes | less
    batch = next(iter(fixed.values())).axes[0]
    sizes[str(batch)] = rows
    made = random_inputs(list(fixed.values()), sizes, pair.vocabulary, rows)
    made = {name: value * np.float32(_SCALE) if value.dtype.kind == "f" else value for name, value in made.items()}
    return made | {name: mask_with_ends(value) for name, value in made.items() if _MASK in name and value.ndim == 2}


def _window_call(
    pair: GraphPair, decoders: tuple[Decoder, Decoder], held: int, count: int, padded: bool, seed: int
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
        if not is_past(spec.name) or spec.name in other.fixed or present not in axes:
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
        arrays = decoder.token_feeds(progress, ids)
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
        return CaseCheck(name, {}, (), error=f"{pair.refusal}: {first_line(error)}", ok=False)
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
