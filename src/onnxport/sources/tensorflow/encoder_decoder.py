"""A TF encoder-decoder as two sources, cut as `sources.encoder_decoder` cuts those of PyTorch.

The encoder's graph ends in the keys and values of the decoder's cross-attention; the decoder's takes them as
inputs. Both call the whole model and are cut by what is asked of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport.errors import ExportError
from onnxport.sources.base import Arrays, first_token
from onnxport.sources.tensorflow.source import tensorflow
from onnxport.sources.tensorflow.states import CacheLayout, Sizes, find_layout
from onnxport.sources.tensorflow.transformers import CachedSource, TransformersSource

HIDDEN, MASK = "last_hidden_state", "encoder_attention_mask"
_CACHE, _ENCODER_OUTPUT = "past_key_values", "encoder_last_hidden_state"
_TOKENS = (2, 3)


class TensorflowEncoder(TransformersSource):
    """The encoder, with the cross-attention's keys and values of every layer of the decoder.

    Its outputs are `last_hidden_state` and a `present.N.encoder.key` and `.value` for each layer.

    Args:
        samples: inputs of the encoder, and others of another number of rows and size, which it may refuse.

    Attributes:
        layout: of the whole cache.
        states: of the cross-attention.
        gives_mask: False: TF encoders hand no mask on.
        width: of `last_hidden_state`.
    """

    gives_mask = False

    def __init__(self, model: Any, samples: tuple[Arrays, Arrays], architecture: str | None = None) -> None:
        super().__init__(model, (), architecture)
        sizes, results = [], []
        for tokens, sample in zip(_TOKENS, samples, strict=True):
            sizes.append(Sizes(next(iter(sample.values())).shape[0], tokens))
            results.append(self._with_tokens(self.tensors(sample), tokens))
        caches = [result.get(_CACHE) for result in results]
        self.layout: CacheLayout = find_layout(
            (caches[0], caches[1]), (sizes[0], sizes[1]), self.architecture, encoder=True
        )
        hidden = results[0].get(_ENCODER_OUTPUT)
        if hidden is None:
            raise ExportError(f"{self.architecture} does not give what its encoder made.")
        self.width = int(hidden.shape[-1])
        self.states = self.layout.states("encoder")
        self.outputs = (HIDDEN, *(state.present for state in self.states))

    def accepts(self) -> frozenset[str] | None:
        return frozenset(name for name in super().accepts() or () if not name.startswith("decoder_"))

    def invoke(self, tensors: Mapping[str, Any]) -> Any:
        """One call of the model with one token for the decoder; which one makes no difference to the outputs."""
        result = self._with_tokens(tensors, 1)
        return {HIDDEN: result[_ENCODER_OUTPUT], **self.layout.read(result[_CACHE])}

    def _with_tokens(self, tensors: Mapping[str, Any], tokens: int) -> Any:
        tf = tensorflow()
        rows = tf.shape(next(iter(tensors.values())))[0]
        # Past zero: some models take it for padding.
        ids = tf.ones(tf.stack([rows, tokens]), tf.int32)
        return self.called({**tensors, "decoder_input_ids": ids}, use_cache=True)


class TensorflowCrossDecoder(CachedSource):
    """The decoder of an encoder-decoder; its inputs and outputs are those of `sources.encoder_decoder`'s."""

    def __init__(
        self, model: Any, encoder: TensorflowEncoder, outputs: tuple[str, ...], architecture: str | None = None
    ) -> None:
        self.encoder = encoder
        super().__init__(model, outputs, architecture)
        self.states = self.layout.states("decoder")
        self.outputs = (*outputs, *(state.present for state in self.states))
        self.first_token = first_token(model)

    def _find_layout(self) -> CacheLayout:
        return self.encoder.layout

    def invoke(self, tensors: Mapping[str, Any]) -> Any:
        """One call of the model over the states in `tensors`; the encoder does not run."""
        from transformers.modeling_tf_outputs import TFBaseModelOutput

        tf = tensorflow()
        first = self.encoder.states[0]
        shape = tf.shape(tensors[first.past])
        # Of the encoder's output only the shape matters, once its keys and values are known.
        length = shape[2 if first.growing is None else first.growing]
        hidden = tf.zeros(tf.stack([shape[0], length, self.encoder.width]))
        hidden.set_shape([None, None, self.encoder.width])
        mask = {"attention_mask": tensors[MASK]} if MASK in tensors else {}
        result = self.called(
            {"decoder_input_ids": tensors["input_ids"], **mask},
            encoder_outputs=TFBaseModelOutput(last_hidden_state=hidden),
            past_key_values=self.layout.build(tensors), use_cache=True,
        )  # fmt: skip
        return self._kept(result)
