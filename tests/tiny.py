"""Tiny realistic checkpoints made from configs with a fixed seed, in the layout of a Hugging Face repository.

    folder = save("bert-fill-mask", tmp_path / "bert")

The tables are in tiny_text.py, tiny_vision.py and tiny_audio.py.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests import tiny_audio, tiny_text, tiny_vision
from tests.tiny_base import Tiny, randomize

__all__ = ["TINY", "Tiny", "save"]

TINY: dict[str, Tiny] = {row.name: row for row in (*tiny_text.TABLE, *tiny_vision.TABLE, *tiny_audio.TABLE)}


def save(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint `name` to `folder` and return the folder.

    The same seed gives the same bytes. The global random state is left as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # buffers that a model draws by itself
        parts = TINY[name].build()
    for part in parts:
        if isinstance(part, nn.Module):
            randomize(part, generator)
        part.save_pretrained(folder)
    return folder
