"""Greedy tokens by the `generate` of transformers' TF classes, in the ways in which it is right.

Upstream (transformers 4.52): not every class takes a prompt of several tokens for its decoder right (Whisper counts
its positions from the last token), and not every class that has positions moves them by the padding on the left. So
an encoder-decoder is made to write its prompt itself, token by token, and rows of a decoder with positions are written
one by one, without padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from onnxport.sources.base import Arrays
from onnxport.sources.tensorflow.source import tensorflow

Tokens = np.ndarray[Any, Any]


def greedy(
    model: Any, prompt: Arrays, steps: int, *, first_token: int | None, positions: bool
) -> tuple[Tokens, Tokens]:
    """Tokens past any end of text, and the logits that they were chosen from.

    Args:
        prompt: of a decoder `input_ids` and `attention_mask` (rows, tokens), padded on the left; of an encoder-decoder
            the encoder's inputs and `decoder_input_ids`, which begin with `first_token`.
        steps: tokens to write.
        first_token: None for a decoder alone.
        positions: the class takes `position_ids`.

    Returns:
        (rows, steps) int64 and (rows, steps, vocabulary) float32.
    """
    if first_token is not None:
        return _after_forced(model, prompt, steps, first_token)
    if not positions or prompt["attention_mask"].all():
        return _generated(model, prompt, steps, first_token)
    rows = [
        _generated(
            model, {name: value[row : row + 1, value.shape[1] - length :] for name, value in prompt.items()}, steps
        )
        for row, length in enumerate(prompt["attention_mask"].sum(1))
    ]
    return np.concatenate([tokens for tokens, _ in rows]), np.concatenate([logits for _, logits in rows])


def _after_forced(model: Any, prompt: Arrays, steps: int, first_token: int) -> tuple[Tokens, Tokens]:
    """Tokens after `decoder_input_ids`, all but the first of which `generate` is made to choose."""
    from transformers import TFLogitsProcessorList

    forced = prompt["decoder_input_ids"]
    length = forced.shape[1]
    tf = tensorflow()

    def force(input_ids: Any, scores: Any, cur_len: int) -> Any:
        if cur_len >= length:
            return scores
        return tf.one_hot(forced[:, cur_len], scores.shape[-1], 0.0, scores.dtype.min, dtype=scores.dtype)

    given = {name: value for name, value in prompt.items() if name != "decoder_input_ids"}
    processors = TFLogitsProcessorList([force])
    tokens, logits = _generated(model, given, length - 1 + steps, first_token, logits_processor=processors)
    return tokens[:, -steps:], logits[:, -steps:]


def _generated(
    model: Any, prompt: Arrays, steps: int, first_token: int | None = None, **options: Any
) -> tuple[Tokens, Tokens]:
    from transformers import GenerationConfig
    from transformers.generation.tf_utils import TFGenerationMixin

    # Only what is named here: a checkpoint's penalties and end tokens are no business of the graph.
    settings = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=steps, eos_token_id=None, pad_token_id=0, bos_token_id=0,
        decoder_start_token_id=first_token, output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    tf = tensorflow()
    given = {
        name: tf.constant(value.astype(np.int32) if value.dtype == np.int64 else value)
        for name, value in prompt.items()
    }
    with _settings_of(model, settings):
        # Not the model's own method: Whisper's has rules of its own about languages and time stamps.
        result = TFGenerationMixin.generate(model, **given, generation_config=settings, **options)
    logits = np.stack([step.numpy().astype(np.float32) for step in result.scores], 1)
    return result.sequences.numpy()[:, -steps:].astype(np.int64), logits


@contextmanager
def _settings_of(model: Any, settings: Any) -> Iterator[None]:
    own, model.generation_config = model.generation_config, settings
    try:
        yield
    finally:
        model.generation_config = own
