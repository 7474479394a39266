"""TF classes of transformers as sources: one call, or a decoder with its cache as inputs and outputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.sources.base import Arrays
from onnxport.sources.tensorflow.source import TensorflowSource, tensorflow
from onnxport.sources.tensorflow.states import CacheLayout, Sizes, find_layout

if TYPE_CHECKING:
    from onnxport.sources.states import State

LIBRARIES = ("transformers", "tf_keras")
_CACHE, _POSITIONS = "past_key_values", "position_ids"
# Parameters of a call that are no tensors, or no inputs of a graph.
_SETTINGS = ("use_cache", "output_attentions", "output_hidden_states", "return_dict", "training", "labels")
# (rows, tokens) of two calls that fill a cache.
_FILLED = (Sizes(2, 3), Sizes(3, 5))


class TransformersSource(TensorflowSource):
    """A TF model of transformers.

    Args:
        model: live, with its weights.
        outputs: names to keep, in this order; at least one must be there.
        architecture: the class name to report.
    """

    def __init__(self, model: Any, outputs: tuple[str, ...] = (), architecture: str | None = None) -> None:
        self.model = model
        super().__init__(
            self.invoke, model.weights, architecture or type(model).__name__, outputs, libraries=LIBRARIES
        )  # fmt: skip

    def release(self) -> None:
        super().release()
        del self.model

    def accepts(self) -> frozenset[str] | None:
        """Names of what the model takes."""
        return frozenset(inspect.signature(self.model.call).parameters) - {*_SETTINGS, "args", "kwargs"}

    def invoke(self, tensors: Mapping[str, Any]) -> Any:
        """One call without a cache."""
        parameters = inspect.signature(self.model.call).parameters
        return self.called(tensors, use_cache=False) if "use_cache" in parameters else self.called(tensors)

    def called(self, tensors: Mapping[str, Any], **settings: Any) -> Any:
        """One call. Our graphs take int64; the TF classes count in int32, and mix the two up where they are given both.

        Keras insists on the first parameter, also where it is None.
        """
        tf = tensorflow()
        given = {
            name: tf.cast(value, tf.int32) if getattr(value, "dtype", None) == tf.int64 else value
            for name, value in tensors.items()
        }
        first = next(iter(inspect.signature(self.model.call).parameters))
        return self.model(given.pop(first, None), **given, **settings, return_dict=True, training=False)


class CachedSource(TransformersSource):
    """A decoder whose cache is inputs and outputs, so that one graph does prefill, chunks and steps.

    Its inputs are those of the model, with a tensor `past_key_values.N...` for each state in place of the cache;
    its outputs are the wanted ones and a `present.N...` for each state.

    Attributes:
        states: what its cache holds of its own tokens.
        first_token: what the answer of an encoder-decoder begins with; None for a decoder alone.
        image_token: None: no image is in the text.
    """

    first_token: int | None = None
    image_token: int | None = None

    def __init__(self, model: Any, outputs: tuple[str, ...] = (), architecture: str | None = None) -> None:
        super().__init__(model, outputs, architecture)
        self._numbered = True  # its positions are those that we count
        self.layout = self._find_layout()
        self.states: tuple[State, ...] = self.layout.states("")
        self.outputs = (*outputs, *(state.present for state in self.states))

    def invoke(self, tensors: Mapping[str, Any]) -> Any:
        """One call of the model over the states in `tensors`."""
        past = {state.past for state in self.states}
        given = {name: tensor for name, tensor in tensors.items() if name not in past}
        result = self.called(given, past_key_values=self.layout.build(tensors), use_cache=True)
        return self._kept(result)

    def accepts(self) -> frozenset[str] | None:
        """Without `position_ids` where the class counts its positions otherwise than from zero on (RoBERTa)."""
        accepted = super().accepts() or frozenset()
        return accepted if self._numbered else accepted - {_POSITIONS}

    def generate(self, prompt: Arrays, steps: int) -> tuple[Any, Any, float]:
        """Greedy tokens by transformers' `generate`, past any end of text.

        Args:
            prompt: `input_ids` and `attention_mask`, (rows, tokens), padded on the left; of an encoder-decoder the
                encoder's inputs and `decoder_input_ids`.

        Returns:
            tokens (rows, steps) int64; by how much the best logit leads the second (rows, steps);
            the largest |logit|.
        """
        from onnxport.sources.tensorflow.generation import greedy

        positions = _POSITIONS in (self.accepts() or ())
        tokens, logits = greedy(self.model, prompt, steps, first_token=self.first_token, positions=positions)
        best = np.sort(logits, -1)[..., -2:]
        return tokens, best[..., 1] - best[..., 0], float(np.abs(logits).max())

    def _kept(self, result: Any) -> dict[str, Any]:
        kept = {name: result[name] for name in self.outputs if name in result}
        return {**kept, **self.layout.read(result[_CACHE])}

    def _find_layout(self) -> CacheLayout:
        """Lets the model fill two caches."""
        tf = tensorflow()
        caches: list[Any] = []
        if "use_cache" not in inspect.signature(self.model.call).parameters:
            return find_layout((None, None), _FILLED, self.architecture)
        for size in _FILLED:
            ids = tf.ones((size.rows, size.tokens), tf.int32)
            caches.append(self.called({"input_ids": ids}, use_cache=True).get(_CACHE))
        if _POSITIONS in (self.accepts() or ()):
            self._numbered = self._counts_from_zero()
        return find_layout((caches[0], caches[1]), _FILLED, self.architecture)

    def _counts_from_zero(self) -> bool:
        """Whether positions from zero on are those that the class itself takes for a row without padding."""
        tf = tensorflow()
        positions = tf.range(_FILLED[0].tokens)[None]
        ids = positions + self.model.config.get_text_config().vocab_size // 2  # no tokens for padding there
        own, ours = (self.called({"input_ids": ids, **given}).logits for given in ({}, {_POSITIONS: positions}))
        return bool(np.allclose(own, ours, rtol=1e-3, atol=1e-5))
