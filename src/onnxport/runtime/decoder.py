"""A decoder's graph, call by call: its cache stays in ONNX Runtime's buffers between the calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.cache.choose import choose_cache
from onnxport.runtime.cache.cross_attention import computed_states, keep_computed_states
from onnxport.runtime.cache.decoder_graph import DecoderGraph
from onnxport.runtime.cache.growing import GrowingCache
from onnxport.runtime.cache.ort_values import select_rows
from onnxport.runtime.cache.progress import Progress
from onnxport.runtime.cache.static_cache import StaticCache
from onnxport.runtime.session import OnnxSession

__all__ = ["Decoder", "Progress"]


class Decoder:
    """Feeds tokens to a graph and returns the logits of the next token.

    Example:
        decoder = Decoder(OnnxSession("out/writer"))
        progress = decoder.start(rows=1)
        logits = decoder.step(progress, prompt)  # (1, tokens) int64
        logits = decoder.step(progress, logits.argmax(-1)[:, None])

    Args:
        session: a graph with `input_ids`, a cache `past_...`, and outputs `logits` and `present...`. The decoder of
            an encoder-decoder also has inputs that an encoder gives.

    Attributes:
        encoder_inputs: names of the inputs that an encoder gives; empty for a decoder alone.
        cache: how the cache goes from one call to the next.
        static_cache: the cache, if it is one of a static length (a graph with static shapes); None for any other.

    Raises:
        FolderError: the graph has no cache.
    """

    token_inputs: ClassVar[tuple[str, ...]] = ("input_ids", "decoder_input_ids")
    more_inputs: ClassVar[tuple[str, ...]] = ()  # further arrays of `token_feeds`
    needs_full_prefill = False  # a prompt must come in one call

    def __init__(self, session: OnnxSession) -> None:
        self.session = session
        self.graph = DecoderGraph(session, self.token_inputs, self.more_inputs)
        self.encoder_inputs = self.graph.encoder_inputs
        self.cache: GrowingCache = choose_cache(self.graph)
        self.static_cache = self.cache if isinstance(self.cache, StaticCache) else None

    def start(self, rows: int, encoder_inputs: Mapping[str, Any] | None = None) -> Progress:
        """The state before the first token.

        Args:
            encoder_inputs: arrays or OrtValues (rows, ...) for the names in `self.encoder_inputs`; others are ignored.

        Raises:
            UsageError: one is missing, or a graph with static shapes cannot run this number of rows.
        """
        self.cache.check_rows(rows)
        given = {name: self.cache.empty_state(name, rows) for name in computed_states(self.graph)}
        given |= encoder_inputs or {}
        for name in self.encoder_inputs:
            if name not in given:
                raise UsageError(
                    f"{self.session.file.name} needs {name!r} from the encoder.",
                    hint="Give what Encoder.encode returns.",
                )
        states = {name: self.cache.empty_state(name, rows) for name in self.graph.states}
        fitted = {name: self.cache.pad_encoder_input(name, given[name]) for name in self.encoder_inputs}
        values = {name: self.graph.value(name, array) for name, array in fitted.items()}
        return Progress(np.zeros((rows, 0), np.int64), states, values)

    def step(
        self, progress: Progress, input_ids: NDArray[np.int64], mask: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Take tokens in, and move `progress` on.

        Args:
            input_ids: (rows, tokens), one token or many.
            mask: the same shape, 0 where a token is padding; padding is on the left.

        Returns:
            The logits after the last token, (rows, vocabulary); writable.

        Raises:
            UsageError: no tokens, too many for the cache, or ONNX Runtime cannot run the graph on them.
        """
        length = input_ids.shape[1]
        if not length:
            raise UsageError("There are no tokens.", hint="Give at least one token a row.")
        new = np.ones_like(input_ids) if mask is None else mask.astype(np.int64)
        self.cache.check_length(progress.mask.shape[1] + length)
        if self.needs_full_prefill and self.static_cache is not None:
            self.static_cache.check_full_prefill(length)
        for part in self.cache.calls(progress, length):
            logits = self._call(progress, input_ids[:, part], new[:, part])
        return logits

    def select(self, progress: Progress, rows: NDArray[np.int64], *, encoder_inputs: bool = True) -> None:
        """Continue with these rows, in this order; the cache is copied only if they are not the same as before.

        Args:
            rows: indices of the present rows; one may come several times, or not at all.
            encoder_inputs: also select rows of what the encoder gave. False is faster where rows only change places
                with rows that have the same encoder inputs.

        Raises:
            UsageError: a graph with static shapes cannot run this number of rows.
        """
        if np.array_equal(rows, np.arange(len(progress.mask))):
            return
        self.cache.check_rows(len(rows))
        progress.mask = progress.mask[rows]
        progress.pending_tokens = {name: value[rows] for name, value in progress.pending_tokens.items()}
        padded = self.cache.pad_rows(rows)
        progress.states = {name: select_rows(value, padded) for name, value in progress.states.items()}
        if encoder_inputs:
            kept = {name: select_rows(value, padded) for name, value in progress.encoder_inputs.items()}
            progress.encoder_inputs = kept

    def token_feeds(self, progress: Progress, input_ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The graph's inputs that are computed from tokens, by name: here the tokens themselves."""
        return {self.graph.tokens: input_ids}

    def positions(self, progress: Progress, mask: NDArray[np.int64], past: int) -> NDArray[np.int64]:
        """`position_ids` of the tokens after the first `past`, (rows, tokens).

        Args:
            mask: (rows, tokens) of all tokens.
        """
        positions: NDArray[np.int64] = np.maximum(mask.cumsum(1) - 1, 0)[:, past:]
        return positions

    def _call(self, progress: Progress, input_ids: NDArray[np.int64], new: NDArray[np.int64]) -> NDArray[np.float32]:
        """One call of the graph."""
        graph, cache = self.graph, self.cache
        first, before = not progress.mask.size, progress.states
        mask = np.concatenate([progress.mask, new], 1)
        feeds = cache.with_pending(progress, self.token_feeds(progress, input_ids))
        past = mask.shape[1] - feeds[graph.tokens].shape[1]
        shown = mask[:, past:] if graph.masks_call_alone else mask
        arrays = {**feeds, "attention_mask": shown, "position_ids": self.positions(progress, mask, past)}
        inputs = {name: array for name, array in arrays.items() if name in graph.specs}
        values = {name: graph.value(name, array) for name, array in cache.pad_inputs(inputs, past).items()}
        buffers = cache.output_buffers(progress, mask)
        size = f"{len(input_ids)} rows of {input_ids.shape[1]} tokens after {past}"
        outputs = graph.run({**values, **progress.states, **progress.encoder_inputs}, buffers, size)
        progress.mask = mask
        if first:
            keep_computed_states(graph, progress, outputs)
        last = cache.update(progress, feeds[graph.tokens], outputs, past)
        if graph.one_token and not new.all():
            self._restore_padded_rows(progress, before, new[:, 0] == 1)
        logits: NDArray[np.float32] = outputs["logits"].numpy()[: len(input_ids), last].astype(np.float32)
        return logits

    def _restore_padded_rows(self, progress: Progress, before: Mapping[str, Any], real: NDArray[np.bool_]) -> None:
        """Padding must not change recurrent states, which have no mask: rows of padding get theirs back."""
        real = self.cache.pad_rows(real)
        for name, value in progress.states.items():
            if self.graph.is_recurrent(name):
                kept = before[name].numpy().copy()
                kept[real] = value.numpy()[real]
                progress.states[name] = self.graph.value(name, kept)
