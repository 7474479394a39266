"""One decoder graph, step by step: its states stay in ONNX Runtime's buffers from call to call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxport.axes import evaluate
from onnxport.errors import FolderError, UsageError
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.shared_cache import packed_rows, with_room
from onnxport.runtime.static_cache import Window, joined
from onnxport.specs import TensorSpec
from onnxport.tensor_names import NUM_LOGITS_TO_KEEP, is_past, present_name

# What an encoder-decoder's decoder is given once: the keys and values of its cross-attention.
_CROSS = ".encoder."
# Of a decoder that makes these itself, of what the encoder read.
_HIDDEN = "encoder_hidden_states"
# Of a graph that can leave out logits: how many tokens of the call are wanted, from the end.


@dataclass
class Progress:
    """Where a generation stands.

    Attributes:
        mask: (rows, tokens so far) int64; 0 is padding.
        states: the graph's buffers by input name. A fused graph writes into them: of a copy only one can go on.
        fixed: buffers of inputs that stay as they are.
        again: of a graph of fixed sizes whose window is full, inputs of the tokens that are given once more.
    """

    mask: NDArray[np.int64]
    states: dict[str, Any]
    fixed: dict[str, Any] = field(default_factory=dict)
    again: dict[str, NDArray[Any]] = field(default_factory=dict)


class Decoder:
    """Feeds tokens to a graph and gives the logits of the next.

    Args:
        session: a graph with `input_ids`, states `past_...` and outputs `logits` and `present...`; that of an
            encoder-decoder also has inputs that an encoder gives.

    Attributes:
        fixed: names of the inputs that an encoder gives; empty for a decoder alone.
        window: the cache of a graph of fixed sizes; None for one that takes any.

    Raises:
        FolderError: the graph has no states.
    """

    token_inputs: ClassVar[tuple[str, ...]] = ("input_ids", "decoder_input_ids")
    more_inputs: ClassVar[tuple[str, ...]] = ()  # what `token_feeds` gives beside them
    needs_full_prefill = False  # a prompt must come in one call

    def __init__(self, session: OnnxSession) -> None:
        self.session = session
        self._specs = {spec.name: _portable(session, spec) for spec in (*session.inputs, *session.optional)}
        self._states = [name for name in self._specs if is_past(name) and _CROSS not in name]
        self._packed = packed_rows(session)
        self._ids = next((name for name in self.token_inputs if name in self._specs), "")
        if not self._states or not self._ids:
            raise FolderError(
                f"{session.file.name} does not generate: it has no states between two calls.",
                hint="Convert the model with `--task text-generation`.",
            )
        self.window = None
        if session.fixed is not None and session.fixed.window is not None:
            self.window = Window(session.fixed, self._ids)
        axes = self._specs[self._ids].axes
        self._one_by_one = len(axes) > 1 and axes[1] == 1
        self._rows = str(axes[0])
        own = {self._ids, *self.more_inputs, "attention_mask", "position_ids", NUM_LOGITS_TO_KEEP, *self._states}
        self.fixed = tuple(spec.name for spec in session.inputs if spec.name not in own)

    def start(self, rows: int, fixed: Mapping[str, Any] | None = None) -> Progress:
        """Before the first token: no past, and recurrent states of zeros.

        Args:
            fixed: arrays or OrtValues for the names in `self.fixed`, (rows, ...); others are ignored.

        Raises:
            UsageError: one is missing, or a graph of fixed sizes has fewer rows.
        """
        if self.window is not None:
            self.window.check_rows(rows)
        given = dict(fixed or {})
        for name in self.fixed:
            if _CROSS in name and name not in given and _HIDDEN in self.fixed:
                given[name] = self._empty(name, rows)
            if name not in given:
                raise UsageError(f"{self.session.file.name} needs {name!r}, which an encoder gives.")
        sized = self.session.fixed
        if sized is not None and self.window is None and rows != sized.sizes.get(self._rows, rows):
            raise sized.refused(self._rows, rows)
        if sized is not None:
            given = {name: _array(given[name]) for name in self.fixed}
            if self.window is not None:
                given = {name: self.window.with_rows(array) for name, array in given.items()}
            given = {name: sized.filled(name, array) for name, array in given.items()}
        held = {name: _value(given[name], self._specs[name].dtype) for name in self.fixed}
        return Progress(np.zeros((rows, 0), np.int64), {name: self._empty(name, rows) for name in self._states}, held)

    def step(
        self, progress: Progress, input_ids: NDArray[np.int64], mask: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Take tokens in; `progress` is moved on.

        Args:
            input_ids: (rows, tokens), one token or many.
            mask: the same shape, 0 where a token is padding; padding is on the left.

        Returns:
            The logits after the last token, (rows, vocabulary); writable.

        Raises:
            UsageError: ONNX Runtime cannot run the graph on these tokens, or a fused graph or one of fixed sizes is
                not made for them.
        """
        new = np.ones_like(input_ids) if mask is None else mask.astype(np.int64)
        if self.window is not None:
            self.window.check_length(progress.mask.shape[1] + input_ids.shape[1])
        if self._one_by_one:
            for token in range(input_ids.shape[1]):
                logits = self._step_of_one(progress, input_ids[:, token : token + 1], new[:, token : token + 1])
            return logits
        return self._step(progress, input_ids, new)

    def _step_of_one(
        self, progress: Progress, input_ids: NDArray[np.int64], mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """As `step`, of a graph with recurrent states: those of a row that gets padding stay as they are."""
        before = progress.states
        logits = self._step(progress, input_ids, mask)
        if not mask.all():
            real = mask[:, 0] == 1
            if self.window is not None:
                real = self.window.with_rows(real)
            for name, value in progress.states.items():
                if not any(isinstance(size, str) for size in self._specs[name].axes[1:]):
                    kept = before[name].numpy().copy()
                    kept[real] = value.numpy()[real]
                    progress.states[name] = _value(kept, self._specs[name].dtype)
        return logits

    def _step(self, progress: Progress, input_ids: NDArray[np.int64], new: NDArray[np.int64]) -> NDArray[np.float32]:
        if self.window is not None:
            return self._step_in_window(self.window, progress, input_ids, new)
        past = progress.mask.shape[1]
        whole = np.concatenate([progress.mask, new], 1)
        positions = self.positions(progress, whole, past)
        given = {**self.token_feeds(progress, input_ids), "attention_mask": whole, "position_ids": positions}
        feed = {name: _value(array, self._specs[name].dtype) for name, array in given.items() if name in self._specs}
        if NUM_LOGITS_TO_KEEP in self._specs:
            shape = [1] * len(self._specs[NUM_LOGITS_TO_KEEP].axes)
            feed[NUM_LOGITS_TO_KEEP] = _value(np.ones(shape), self._specs[NUM_LOGITS_TO_KEEP].dtype)
        shared: dict[str, Any] = {}
        if self._packed is not None:
            self._packed.check(whole)
            progress.states = with_room(progress.states, whole.shape[1], self._packed.longest)
            shared = {present_name(name): value for name, value in progress.states.items()}
        feed |= {**progress.states, **progress.fixed}
        found = self._run(feed, shared, input_ids, past)
        progress.mask = whole
        if past == 0 and _HIDDEN in self.fixed:
            # What the first call made of the hidden states is the past from now on.
            cross = [name for name in self.fixed if _CROSS in name and present_name(name) in found]
            progress.fixed |= {name: found[present_name(name)] for name in cross}
        if not shared:
            progress.states = {name: found[present_name(name)] for name in self._states}
        logits: NDArray[np.float32] = found["logits"].numpy()[:, -1].astype(np.float32)
        return logits

    def _step_in_window(
        self, window: Window, progress: Progress, input_ids: NDArray[np.int64], new: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """As `_step`, of a graph of fixed sizes; in as many calls as the tokens need."""
        again = next((value.shape[1] for value in progress.again.values()), 0)
        if self.needs_full_prefill and input_ids.shape[1] > window.new:
            raise UsageError(
                f"This model takes a prompt in one call, and {self.session.file.name} is fixed at {window.new} "
                f"tokens a call; there are {input_ids.shape[1]}.",
                hint=f"Use the component {window.fixed.graph!r}.",
            )
        for part in window.parts(input_ids.shape[1], again):
            logits = self._part_in_window(window, progress, input_ids[:, part], new[:, part])
        return logits

    def _part_in_window(
        self, window: Window, progress: Progress, input_ids: NDArray[np.int64], new: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        whole = np.concatenate([progress.mask, new], 1)
        taken = self.token_feeds(progress, input_ids)
        taken[self._ids] = joined(progress.again, taken[self._ids], self._ids)
        count = taken[self._ids].shape[1]
        held = whole.shape[1] - count
        positions = self.positions(progress, whole, held)
        given = {**taken, "attention_mask": window.seen(whole), "position_ids": positions}
        feed = {
            name: _value(window.arranged(name, array, held), self._specs[name].dtype)
            for name, array in given.items()
            if name in self._specs
        }
        found = self._run(feed | progress.states | progress.fixed, {}, input_ids, held)
        progress.mask = whole
        kept = min(count, window.past - held)
        states = dict(progress.states)
        for name in self._states:
            place, made = window.place(name), found[present_name(name)]
            if place is None or kept == window.new:
                states[name] = made
            elif kept:
                moved = window.moved(states[name].numpy(), made.numpy(), place, kept)
                states[name] = _value(moved, self._specs[name].dtype)
        progress.states = states
        progress.again = {self._ids: taken[self._ids][:, kept:]} if kept < count else {}
        logits: NDArray[np.float32] = found["logits"].numpy()[: len(input_ids), count - 1].astype(np.float32)
        return logits

    def _run(
        self, feed: dict[str, Any], shared: dict[str, Any], input_ids: NDArray[np.int64], past: int
    ) -> dict[str, Any]:
        """One call; outputs that have a buffer in `shared` are written there.

        Raises:
            UsageError: ONNX Runtime cannot.
        """
        try:
            return self._bound(feed, shared)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UsageError(
                f"ONNX Runtime cannot run {self.session.file.name} on {input_ids.shape[0]} rows of "
                f"{input_ids.shape[1]} tokens after {past}: {lines[-1][:300]}",
                hint="The model may have no more positions: give a shorter prompt, or a smaller max_new_tokens.",
            ) from error

    def _bound(self, feed: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
        outputs = [spec.name for spec in self.session.outputs]
        if not shared:  # one crossing into ONNX Runtime instead of one for every tensor
            return dict(zip(outputs, self.session.raw.run_with_ort_values(outputs, feed), strict=True))
        binding = self.session.raw.io_binding()
        for name, value in feed.items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            if name in shared:
                binding.bind_ortvalue_output(name, shared[name])
            else:
                binding.bind_output(name)
        self.session.raw.run_with_iobinding(binding)
        return dict(zip(outputs, binding.get_outputs(), strict=True))

    def select(self, progress: Progress, rows: NDArray[np.int64], *, fixed: bool = True) -> None:
        """Go on with these rows, in this order; states are copied only if it is another one.

        Args:
            rows: numbers of rows as they are now; one may come several times, or not at all.
            fixed: also of what the encoder gave; False where rows change places only among equals.
        """
        if np.array_equal(rows, np.arange(len(progress.mask))):
            return
        if self.window is not None:
            self.window.check_rows(len(rows))
        progress.mask = progress.mask[rows]
        progress.again = {name: value[rows] for name, value in progress.again.items()}
        if self.window is not None:
            rows = self.window.with_rows(rows)
        progress.states = {name: _rows(value, rows) for name, value in progress.states.items()}
        if fixed:
            progress.fixed = {name: _rows(value, rows) for name, value in progress.fixed.items()}

    def token_feeds(self, progress: Progress, input_ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """What the graph gets of tokens, by the names of its inputs: here the tokens."""
        return {self._ids: input_ids}

    def positions(self, progress: Progress, mask: NDArray[np.int64], past: int) -> NDArray[np.int64]:
        """What the graph gets as `position_ids` of the tokens after `past`, (rows, tokens).

        Args:
            mask: of all tokens up to the last of these.
        """
        return np.maximum(mask.cumsum(1) - 1, 0)[:, past:]

    def _empty(self, name: str, rows: int) -> Any:
        spec = self._specs[name]
        shape = [rows, *(0 if isinstance(size, str) else size for size in spec.axes[1:])]
        if self.window is not None:
            shape = [evaluate(axis, self.window.fixed.sizes) for axis in spec.axes]
        return _value(np.zeros(shape, spec.dtype), spec.dtype)


def _portable(session: OnnxSession, spec: TensorSpec) -> TensorSpec:
    """An input with the names of its axes, also of a graph of fixed sizes."""
    fixed = session.fixed
    return spec if fixed is None else replace(spec, axes=fixed.axes.get(spec.name, spec.axes))


def _value(array: Any, dtype: str) -> Any:
    """An OrtValue over an array; one that is an OrtValue is given back."""
    import onnxruntime

    if isinstance(array, onnxruntime.OrtValue):
        return array
    shaped = np.ascontiguousarray(array, dtype).reshape(np.shape(array))  # a scalar stays one
    return onnxruntime.OrtValue.ortvalue_from_numpy(shaped)


def _array(value: Any) -> NDArray[Any]:
    """What an OrtValue holds; an array as it is."""
    return value.numpy() if hasattr(value, "has_value") else np.asarray(value)  # type: ignore[no-any-return]


def _rows(value: Any, rows: NDArray[np.int64]) -> Any:
    array = value.numpy()[rows]
    return _value(array, str(array.dtype))
