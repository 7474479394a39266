"""Which generative architectures convert: tiny random checkpoints, and three encoder-decoders of their usual size.

    .venv/bin/python benchmarks/generative.py                  # all
    .venv/bin/python benchmarks/generative.py whisper t5       # those whose name contains a word

Prints the largest error of whole prompts, of parts over a past and of single steps, relative to the largest logit;
the share of 32 greedy tokens that are those of transformers' `generate`, over two prompts of which one is a padded
batch in parts; bytes on disk by bytes of weights (of tiny models that is the graphs' size); CPU seconds and the peak
of memory of the conversion alone, each in a process of its own. Writes benchmarks/results/generative.json.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import transformers

from onnxport import OnnxPortError, convert
from onnxport.system.output_capture import capture_process
from tests import tiny_tokenizers
from tests.tiny_decoders import DECODERS, save_decoder
from tests.tiny_encoder_decoders import TABLE, save_encoder_decoder
from tests.tiny_images_in_text import OWN_PROCESSOR, processor_of, save_image_text
from tests.tiny_images_in_text import TABLE as IN_TEXT

RESULTS = Path(__file__).parent / "results" / "generative.json"
_SPEECH = {"whisper", "speech_to_text", "moonshine", "whisper, 38M"}
_IMAGES = {"blip", "trocr", "vision-encoder-decoder"}
_COLUMNS = ("prompt", "part", "step", "greedy", "disk", "cpu_s", "peak_mib")


def main() -> None:
    words = sys.argv[1:]
    models: dict[str, Callable[[Path], Path]] = {
        **{name: partial(save_decoder, name) for name in DECODERS},
        **{name: partial(save_encoder_decoder, name) for name in TABLE},
        **{name: partial(save_image_text, name) for name in IN_TEXT},
        **{name: partial(_save_large, *large) for name, large in _LARGE.items()},
    }
    rows = []
    print(f"| model | {' | '.join(_COLUMNS)} |\n|---|{'---|' * len(_COLUMNS)}")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name, save in models.items():
            if words and not any(word in name for word in words):
                continue
            row = pool.apply(_row, (name, save))
            rows.append(row)
            cells = [f"FAILED: {row['failure']}"] if "failure" in row else [_shown(row[c]) for c in _COLUMNS]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    failed = sum("failure" in row for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} converted and verified")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")


def _row(name: str, save: Callable[[Path], Path]) -> dict[str, Any]:
    torch.set_num_threads(1)
    task = "image-to-text" if name in _IMAGES else "automatic-speech-recognition" if name in _SPEECH else "auto"
    task = "image-text-to-text" if name in IN_TEXT else task
    with tempfile.TemporaryDirectory() as folder:
        with capture_process():
            source = save(Path(folder) / "source")
            own = {"processor": processor_of(name, source)} if name in OWN_PROCESSOR else {}
        try:
            conversion = convert(None, source, Path(folder) / "out", pipeline_name=task, **own)
        except OnnxPortError as error:
            return {"model": name, "failure": error.message}
        weights = sum(file.stat().st_size for file in source.glob("*.safetensors"))
        disk = sum(file.stat().st_size for file in (Path(folder) / "out" / "onnx").iterdir() if file.suffix != ".json")
    cases = [case for component in conversion.manifest.components for case in component.verification.cases]
    errors: dict[str, float] = {"prompt": 0.0, "part": 0.0, "step": 0.0}
    for case in cases:
        logits = [output for output in case.outputs if output.name == "logits"]
        if logits:
            past, length = case.sizes.get("past_sequence_length"), case.sizes.get("sequence_length", 1)
            kind = "prompt" if past == 0 and length > 1 else "step" if length == 1 else "part"
            errors[kind] = max(errors[kind], *(output.max_rel_error for output in logits))
    greedy = [case.decision_agreement for case in cases if "greedy" in case.name]
    return {
        "model": name, **errors, "greedy": min(greedy), "disk": disk / weights,
        "cpu_s": sum(conversion.cpu.values()), "peak_mib": conversion.peak_memory_bytes / 2**20,
    }  # fmt: skip


def _shown(value: float) -> str:
    return f"{value:.1e}" if 0 < value < 1e-2 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _save_large(class_name: str, sizes: dict[str, Any], parts: tuple[str, ...], folder: Path) -> Path:
    """Random weights in a model of its usual size."""
    model_class = getattr(transformers, class_name)
    torch.manual_seed(0)
    model_class(model_class.config_class(**sizes)).save_pretrained(folder)
    tiny_tokenizers.roberta().save_pretrained(folder)
    for part in parts:
        getattr(transformers, part)().save_pretrained(folder)
    return folder


_BART = {
    "d_model": 768, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12,
    "decoder_attention_heads": 12, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072,
}  # fmt: skip
_LARGE: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "t5, 61M": ("T5ForConditionalGeneration", {"decoder_start_token_id": 0}, ()),
    "bart, 139M": ("BartForConditionalGeneration", _BART, ()),
    "whisper, 38M": ("WhisperForConditionalGeneration", {}, ("WhisperFeatureExtractor",)),
}


if __name__ == "__main__":
    main()
