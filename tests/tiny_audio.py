"""Tiny audio models, as a table. Convolutions keep their real strides (one frame for 20 ms)."""

from __future__ import annotations

from functools import partial
from typing import Any

import transformers

from tests import tiny_tokenizers as tokenizers
from tests.tiny_base import Parts, Tiny, row

_CONVOLUTIONS = {
    "conv_dim": [16] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_WAV2VEC2 = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "classifier_proj_size": 24,
} | _CONVOLUTIONS
# The "large" variant: layer norm in the convolutions, norm before attention, and padding that must be masked.
_LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
_AST = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "patch_size": 8,
    "frequency_stride": 4,
    "time_stride": 4,
    "max_length": 48,
    "num_mel_bins": 32,
}


def _waveform(masked: bool = False, ctc: bool = False) -> Parts:
    extractor = transformers.Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=16000, padding_value=0.0, do_normalize=True, return_attention_mask=masked
    )
    if not ctc:
        return (extractor,)
    if not masked:  # saved one by one, as in the published checkpoints: preprocessor_config.json beside vocab.json
        return tokenizers.ctc(), extractor
    tokenizer = tokenizers.ctc()  # saved as one processor, the layout of transformers 5: processor_config.json
    return tokenizer, transformers.Wav2Vec2Processor(extractor, tokenizer)


def _spectrogram() -> Parts:
    return (transformers.ASTFeatureExtractor(num_mel_bins=_AST["num_mel_bins"], max_length=_AST["max_length"]),)


def _config(model_type: str, values: dict[str, Any], parts: Parts) -> dict[str, Any]:
    tokenized = isinstance(parts[0], transformers.PreTrainedTokenizerBase)
    return values | (tokenizers.vocabulary(model_type, parts[0]) if tokenized else {})


_ASR, _AC = "automatic-speech-recognition", "audio-classification"

TABLE: tuple[Tiny, ...] = tuple(
    row(f"{name}-{task}", task, model_type, partial(_config, model_type, values), parts)
    for name, task, model_type, values, parts in (
        ("wav2vec2", _ASR, "wav2vec2", _WAV2VEC2, partial(_waveform, ctc=True)),
        ("wav2vec2", _AC, "wav2vec2", _WAV2VEC2, _waveform),
        ("wav2vec2-layer", _ASR, "wav2vec2", _WAV2VEC2 | _LAYER_NORM, partial(_waveform, masked=True, ctc=True)),
        ("hubert", _ASR, "hubert", _WAV2VEC2, partial(_waveform, ctc=True)),
        ("hubert", _AC, "hubert", _WAV2VEC2, _waveform),
        ("audio-spectrogram-transformer", _AC, "audio-spectrogram-transformer", _AST, _spectrogram),
    )
)
