"""An encoder-decoder as two sources, so that each becomes a graph of its own.

The encoder's graph ends in the keys and values that the decoder's cross-attention reads: they depend on
the input alone, and are computed once. The decoder's graph takes them as inputs and holds no weights for
them, so that no branch and no second copy of a weight is needed.

Both sources call the whole model, which is cut by what is asked of it: the exporter drops what no output
depends on. So no architecture is named here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.errors import ExportError
from onnxport.sources.base import Arrays, first_token
from onnxport.sources.pytorch.decoder import DecoderSource
from onnxport.sources.pytorch.model_state import state_kept
from onnxport.sources.pytorch.source import TorchSource
from onnxport.sources.states import State, build_cache, find_states, read_cache

if TYPE_CHECKING:
    import torch

HIDDEN, MASK = "last_hidden_state", "encoder_attention_mask"
_CACHE = "past_key_values"


def encoder_inputs(model: torch.nn.Module) -> frozenset[str]:
    """The parameters of the model's forward without those of its decoder."""
    return frozenset(name for name in inspect.signature(model.forward).parameters if not name.startswith("decoder_"))


@dataclass(frozen=True)
class EncoderRead:
    """What an encoder gave to its decoder.

    Attributes:
        hidden: (rows, tokens, width).
        mask: (rows, tokens), where the encoder makes one of its own; else None.
        cache: what the decoder kept of it, and of its own tokens.
        made: class of what the encoder returns.
    """

    hidden: torch.Tensor
    mask: torch.Tensor | None
    cache: Any
    made: type[Any]


class EncoderSource(TorchSource):
    """The encoder, with the cross-attention's keys and values of every layer of the decoder.

    Its outputs are `last_hidden_state` and a `present.N.encoder.key` and `.value` for each layer,
    (batch, heads, tokens of the encoder, features); and `encoder_attention_mask`, where the encoder shortens the
    mask that it is given.

    Args:
        samples: inputs of the encoder, and the same at another size, which it may refuse.

    Attributes:
        states: of the cross-attention.
        own_states: of the decoder's attention to its own tokens.
        gives_mask: whether its outputs have a mask.
        width: of `last_hidden_state`.
        made: class of what the encoder returns.
    """

    def __init__(self, model: torch.nn.Module, samples: tuple[Arrays, Arrays], architecture: str | None = None) -> None:
        super().__init__(model, (), architecture)
        reads = [self._call(samples[0], 2)]
        try:
            reads.append(self._call(samples[1], 3))
        except Exception:  # it takes inputs of one size alone
            reads.append(self._call(samples[0], 3))
        caches = [read.cache for read in reads]
        if not all(hasattr(cache, "cross_attention_cache") for cache in caches):
            raise ExportError(f"{self.architecture} keeps no cross-attention cache ({type(caches[0]).__name__}).")
        halves = [(cache.self_attention_cache, cache.cross_attention_cache) for cache in caches]
        self.own_states = find_states(halves[0][0], halves[1][0], self.architecture, "decoder")
        self.states: tuple[State, ...] = find_states(halves[0][1], halves[1][1], self.architecture, "encoder")
        self.width = int(reads[0].hidden.shape[-1])
        self.made = reads[0].made
        self.gives_mask = reads[0].mask is not None
        self.outputs = (HIDDEN, *([MASK] if self.gives_mask else []), *(state.present for state in self.states))

    def accepts(self) -> frozenset[str] | None:
        return encoder_inputs(self.model)

    def invoke(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """One call of the model with one token for the decoder; which one makes no difference to the outputs."""
        read = self._read(forward, tensors, 1)
        cross = read_cache(self.states, read.cache.cross_attention_cache)
        mask = {MASK: read.mask} if self.gives_mask else {}
        return {HIDDEN: read.hidden, **mask, **cross}

    def _read(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor], tokens: int) -> EncoderRead:
        """One call of the model with so many tokens for the decoder."""
        with _encoder_outputs(self.model) as seen:
            result = forward(**tensors, decoder_input_ids=first_tokens(tensors, tokens), use_cache=True)
        mask = getattr(seen[-1], "attention_mask", None)
        return EncoderRead(result["encoder_last_hidden_state"], mask, result.get(_CACHE), type(seen[-1]))

    def _call(self, sample: Arrays, tokens: int) -> EncoderRead:
        """On fake tensors where it can: only shapes are looked at."""
        import torch

        with suppress(Exception):
            found: EncoderRead = self._fake_call(
                lambda given: self._read(self.model, given, tokens), self.tensors(sample)
            )
            return found
        with state_kept(self.model), torch.no_grad(), self.weights_kept():
            return self._read(self.model, self.tensors(sample), tokens)


class CrossDecoderSource(DecoderSource):
    """The decoder of an encoder-decoder.

    Its inputs are `input_ids` of the decoder, `encoder_attention_mask` where the model masks its encoder,
    `past_key_values.N.decoder.key` and `.value`, which grow with the tokens, and `past_key_values.N.encoder.key`
    and `.value`, which stay what the encoder gave. Its outputs are `logits` and `present.N.decoder...`.
    The prompt of `generate` has the encoder's inputs, and `decoder_input_ids` that begin with `first_token`.
    """

    def __init__(
        self, model: torch.nn.Module, encoder: EncoderSource, outputs: tuple[str, ...], architecture: str | None = None
    ) -> None:
        self.encoder = encoder
        super().__init__(model, outputs, architecture)
        self.cross = encoder.states
        self.first_token = first_token(model)

    def _find_states(self) -> tuple[State, ...]:
        return self.encoder.own_states

    def invoke(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """One call of the model over the states in `tensors`; the encoder does not run."""
        cache, hidden = self.cache_of(tensors)
        mask = {"attention_mask": tensors[MASK]} if MASK in tensors else {}
        made, given = (mask, {}) if self.encoder.gives_mask else ({}, mask)
        result = forward(
            encoder_outputs=self.encoder.made(last_hidden_state=hidden, **made), **given,
            decoder_input_ids=tensors["input_ids"], **{_CACHE: cache}, use_cache=True,
        )  # fmt: skip
        return self.kept(result)

    def cache_of(self, tensors: Mapping[str, torch.Tensor]) -> tuple[Any, torch.Tensor]:
        """A cache with the states in `tensors`, and hidden states (rows, tokens, width) of zeros.

        Of what an encoder gave only the shape matters, once its keys and values are known.
        """
        from transformers import EncoderDecoderCache

        cache = EncoderDecoderCache(build_cache(self.states, tensors), build_cache(self.cross, tensors))
        cache.is_updated = dict.fromkeys(range(len(cache.cross_attention_cache.layers)), True)
        first = self.cross[0]
        key = tensors[first.past]
        length = key.shape[2 if first.growing is None else first.growing]
        return cache, key.new_zeros((key.shape[0], length, self.encoder.width))

    def kept(self, result: Any) -> dict[str, torch.Tensor]:
        """Of what the model returned that which is wanted, and its states."""
        wanted = {name: result[name] for name in self.outputs if name in result}
        return {**wanted, **read_cache(self.states, result[_CACHE].self_attention_cache)}


@contextmanager
def _encoder_outputs(model: Any) -> Iterator[list[Any]]:
    """What the encoder returns to the model, call by call."""
    seen: list[Any] = []
    hook = model.get_encoder().register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        yield seen
    finally:
        hook.remove()


def first_tokens(tensors: Mapping[str, torch.Tensor], tokens: int) -> torch.Tensor:
    """Tokens for a decoder, (rows, tokens), as many rows as the encoder's inputs have."""
    import torch

    rows = next(iter(tensors.values())).shape[0]
    # Past zero: some models take it for padding and look where the rows end.
    return torch.ones((rows, tokens), dtype=torch.int64)
