"""Does a decoder whose cache is a window compute what the decoder with dynamic shapes does?

Single calls over windows that are empty, partly used and full, with random numbers in the unused places, and whole
generations.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnxport.graph.inputs import random_inputs
from onnxport.runtime.cache.static_cache import StaticCache
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.embedded_decoder import EmbeddedDecoder
from onnxport.runtime.session import OnnxSession
from onnxport.specs import CaseCheck
from onnxport.tensor_names import is_past, present_name
from onnxport.variants.static_shapes.pair import GraphPair, Sessions, mask_with_ends
from onnxport.verification.compare import TOLERANCES
from onnxport.verification.decoder_pair import Generation, compare_generation, left_padded
from onnxport.verification.graph_cases import compare_call

Arrays = dict[str, np.ndarray]
_STEPS = 32
_MOST_CALLS = 128  # of a prompt: a long window with one token a call would take thousands
_SCALE = 0.5  # of random states, about that of keys and values of trained models
_MASK = "attention_mask"


def fills_decoder(pair: GraphPair, sessions: Sessions, axes: Sequence[str]) -> bool:
    """Whether a decoder's inputs may be padded along `axes`: those of an encoder's outputs alone.

    Rows and tokens are the window's.
    """
    decoders = decoder_of(pair, sessions[0]), decoder_of(pair, sessions[1])
    others = [spec for spec in pair.plan.component.inputs if spec.name not in decoders[0].encoder_inputs]
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
    fixed, cache = sessions[1].static_axes, decoders[1].static_cache
    assert fixed is not None and cache is not None
    fills = dict.fromkeys((0, 1, cache.past // 2, cache.past - 1, cache.past))
    for number, held in enumerate(fills):
        for count in dict.fromkeys((cache.new, (cache.new + 1) // 2, 1)):
            for padded in (False, True) if _MASK not in fixed.added_inputs else (False,):
                yield _window_call(pair, decoders, _Call(held, count, padded, 7 * number + count))
    for generation in _runs(cache, whole=decoders[0].needs_full_prefill):
        given = _given(pair, decoders[0], generation.rows, fixed.padded)
        yield compare_generation(decoders, generation, pair.vocabulary, TOLERANCES["float32"], fixed=(given, given))


def _runs(cache: StaticCache, *, whole: bool) -> list[Generation]:
    """Prompts of one call, of several and of parts of one, and up to the last token in view.

    Args:
        whole: a prompt must come in one call.
    """
    steps = min(_STEPS, cache.past)
    room = cache.longest - steps + 1  # the last token is not given
    third = cache.new + min(cache.past // 3, _MOST_CALLS // 4 * cache.new)
    several = dict.fromkeys(max(1, min(room, length)) for length in (2 * cache.new + 1, third))
    lengths = (min(cache.new, room), 1) if whole else (*several, 1)
    runs = [
        Generation(rows, length, length if rows == 1 or whole else max(1, length // 2), steps)
        for length in dict.fromkeys(lengths)
        for rows in dict.fromkeys((1, cache.rows))
    ]
    last = cache.new if whole else cache.longest
    calls = cache.longest // cache.new + cache.longest - last
    return [*runs, Generation(cache.rows, last, last, cache.longest - last + 1)] if calls <= _MOST_CALLS else runs


def decoder_of(pair: GraphPair, session: OnnxSession) -> Decoder:
    if pair.embeddings is None:
        return Decoder(session)
    return EmbeddedDecoder(session, OnnxSession(pair.embeddings), -1)


def _given(
    pair: GraphPair, decoder: Decoder, rows: int, smaller: Collection[str] = (), share: float = 1 / 3
) -> Arrays:  # fmt: skip
    """In the place of what an encoder gives: random states, and a mask whose rows end at different places.

    Args:
        smaller: axes along which they are smaller than the static sizes.
        share: by how much of it they are smaller.
    """
    fixed = {spec.name: spec for spec in pair.plan.component.inputs if spec.name in decoder.encoder_inputs}
    if not fixed:
        return {}
    less = {axis: max(1, size - int(size * share) - 1) for axis, size in pair.plan.sizes.items() if axis in smaller}
    sizes = pair.plan.sizes | less
    batch = next(iter(fixed.values())).axes[0]
    sizes[str(batch)] = rows
    made = random_inputs(list(fixed.values()), sizes, pair.vocabulary, rows)
    made = {name: value * np.float32(_SCALE) if value.dtype.kind == "f" else value for name, value in made.items()}
    return made | {name: mask_with_ends(value) for name, value in made.items() if _MASK in name and value.ndim == 2}


@dataclass(frozen=True)
class _Call:
    """A call over a window: `count` new tokens over `held` places in use, with padded rows or without."""

    held: int
    count: int
    padded: bool
    seed: int


def _window_call(pair: GraphPair, decoders: tuple[Decoder, Decoder], call: _Call) -> CaseCheck:
    """One call over random states: the graph with dynamic shapes gets the used places alone."""
    other = decoders[1]
    cache, fixed = other.static_cache, other.session.static_axes
    assert cache is not None and fixed is not None
    rows, total = cache.rows, call.held + call.count
    mask = left_padded(rows + 1, total)[1:] if call.padded else np.ones((rows, total), np.int64)
    feeds = _feeds(pair, decoders, call, mask)
    end = cache.past - cache.new + call.count  # of the window; the last of its states both give back
    comparable = partial(_comparable, names=(fixed.axes, fixed.past_axis, mask, call.count), last=min(total, end))

    def run(decoder: Decoder, end: int, arrays: Arrays) -> Arrays:
        return comparable(decoder.session.run(arrays), end=end)

    name = f"{call.count} tokens over {call.held} of {cache.past} places{', padded rows' if call.padded else ''}"
    found = compare_call(
        (name, {"rows": rows, "tokens": call.count, "used": call.held}), (partial(run, decoders[0], total), feeds[0]),
        (partial(run, other, end), feeds[1]), decision="token", outputs=None, tolerance=TOLERANCES["float32"],
    )  # fmt: skip
    return CaseCheck(name, {}, (), error=f"{pair.refusal}: {found}", ok=False) if isinstance(found, str) else found


def _feeds(pair: GraphPair, decoders: tuple[Decoder, Decoder], call: _Call, mask: np.ndarray) -> list[Arrays]:
    """The inputs of both graphs: the same random tokens and encoder outputs, and the states of each."""
    portable, other = decoders
    cache = other.static_cache
    assert cache is not None
    rng = np.random.default_rng(call.seed)
    states = _states(pair, other, rng)
    used = {name: _used(value, cache.cache_axis(name), cache.past, call.held) for name, value in states.items()}
    ids = rng.integers(0, pair.vocabulary, (cache.rows, call.count))
    fixed = _given(pair, portable, cache.rows)
    # What kind of token each is, for decoders that take it with a prompt.
    known = {spec.name for spec in portable.session.inputs}
    fixed |= {name: rng.integers(0, 2, mask.shape) for name in portable.more_inputs if name in known}
    feeds = []
    for decoder, given in ((portable, used), (other, states)):
        progress = decoder.start(cache.rows, fixed)
        progress.mask = mask[:, : call.held]
        arrays = decoder.token_feeds(progress, ids)
        arrays |= {_MASK: mask, "position_ids": decoder.positions(progress, mask, call.held)}
        taken = {spec.name for spec in decoder.session.inputs}
        arrays = {n: value for n, value in arrays.items() if n in taken}
        if decoder is other:
            arrays = {n: cache.pad_input(n, value, call.held) for n, value in arrays.items()}
        feeds.append(arrays | given | {n: value.numpy() for n, value in progress.encoder_inputs.items()})
    return feeds


def _states(pair: GraphPair, other: Decoder, rng: np.random.Generator) -> Arrays:
    """A random number in every place of the window of every state."""
    fixed = other.session.static_axes
    assert fixed is not None
    states: Arrays = {}
    for spec in pair.plan.component.inputs:
        if is_past(spec.name) and spec.name not in other.encoder_inputs and present_name(spec.name) in fixed.axes:
            shape = [axis if isinstance(axis, int) else fixed.sizes[axis] for axis in fixed.axes[spec.name]]
            states[spec.name] = (rng.standard_normal(shape) * _SCALE).astype(spec.dtype)
    return states


def _used(state: np.ndarray, place: int | None, past: int, held: int) -> np.ndarray:
    """The last `held` of the `past` places of a state, along its axis `place`; all of a state without such an axis."""
    return state if place is None else np.ascontiguousarray(np.take(state, range(past - held, past), place))


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
