"""What sentence-transformers' settings say of a checkpoint. It needs no PyTorch: managed environments have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.formats.json_file import read_object_if_present

CLASSIFIES = "sequence-classification"


def is_sentence_encoder(checkpoint: Checkpoint) -> bool:
    """Whether the modules of the checkpoint make embeddings; a CrossEncoder scores pairs of texts."""
    return (
        checkpoint.is_sentence_transformers and transformer_settings(checkpoint).get("transformer_task") != CLASSIFIES
    )


def transformer_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """sentence_bert_config.json: the longest input, lower case, what the transformer is loaded as; {} without it."""
    return settings_in(checkpoint.model_folder)


def settings_in(folder: Path) -> dict[str, Any]:
    """sentence_bert_config.json of a folder; {} without it.

    Raises:
        CheckpointError: it is no JSON object.
    """
    file = folder / "sentence_bert_config.json"
    return read_object_if_present(file)
