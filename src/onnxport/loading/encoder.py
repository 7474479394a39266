"""Loading a sentence-transformers checkpoint into one module."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.loading.options import LoadOptions
from onnxport.loading.sentence_settings import settings_in
from onnxport.loading.weights import LoadedModel, load_model

# Arguments of the pipeline of a sentence encoder.
TRUNCATED: dict[str, Any] = {"tokenize_kwargs": {"truncation": True}}


@dataclass(frozen=True)
class TokenizerSettings:
    """What sentence-transformers sets on a tokenizer.

    Attributes:
        max_length: the longest input (tokens), or None.
        positions: of the model; without `max_length`, no input is longer.
        lower_case: texts are lower-cased.
    """

    max_length: int | None
    positions: int | None
    lower_case: bool

    def apply(self, tokenizer: Any) -> None:
        """Change `tokenizer` in place, so that it cuts and spells as the model was trained."""
        if self.max_length is not None:
            tokenizer.model_max_length = self.max_length
        elif self.positions is not None:
            tokenizer.model_max_length = min(tokenizer.model_max_length, self.positions)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if self.lower_case and backend is not None:
            from tokenizers.normalizers import Lowercase, Sequence

            own = backend.normalizer
            backend.normalizer = Lowercase() if own is None else Sequence([Lowercase(), own])


def load_encoder(checkpoint: Checkpoint, options: LoadOptions) -> tuple[LoadedModel, TokenizerSettings]:
    """The transformer and the modules after it as a SentenceEncoder, and what its tokenizer needs.

    Raises:
        CheckpointError: a module that is unknown or incomplete; weights that cannot be read.
    """
    from onnxport.loading.sentence_layers import Dense
    from onnxport.loading.sentence_transformers import SentenceEncoder, read_sentence_settings

    settings = read_sentence_settings(checkpoint, allow_pickle=options.allow_pickle)
    # Of an encoder-decoder (T5) only the encoder reads sentences.
    is_pair = bool(checkpoint.config.get("is_encoder_decoder"))
    auto = ("AutoModelForTextEncoding", settings.auto) if is_pair else (settings.auto,)
    loaded = load_model(checkpoint.model_folder, checkpoint, auto, options)
    encoder = SentenceEncoder(loaded.model, settings.layers, settings.output).to(
        loaded.model.device, loaded.model.dtype
    )
    encoder.eval()
    missing = tuple(f"transformer.{name}" for name in loaded.missing)
    shapes = {f"transformer.{name}": text for name, text in (loaded.shapes or {}).items()}
    notes = (*loaded.notes, *settings.notes)
    beside = tuple((layer, *layer.stored) for layer in settings.layers if isinstance(layer, Dense))
    origins = replace(loaded.origins, beside=beside)
    encoder_loaded = LoadedModel(encoder, missing, shapes, notes, origins=origins)
    return encoder_loaded, tokenizer_settings(checkpoint.model_folder, loaded.model.config)


def tokenizer_settings(folder: Path, config: Any) -> TokenizerSettings:
    """What sentence_bert_config.json in `folder` sets on a tokenizer of a model with this config.

    Raises:
        CheckpointError: the file is no JSON object.
    """
    said = settings_in(folder)
    lengths = (said.get("max_seq_length"), getattr(config, "max_position_embeddings", None))
    longest, positions = (length if isinstance(length, int) and length > 0 else None for length in lengths)
    return TokenizerSettings(longest, positions, bool(said.get("do_lower_case")))
