"""The tiny models whose graphs are recorded, and what is done to each after its conversion.

A row's name says which builder of `tests/tiny*.py` makes it. Frameworks are imported by what makes a model, so that
the table can be read without them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnxport
from tests.graphs.weights import redraw_folder, redraw_module, redraw_variables


@dataclass(frozen=True)
class Model:
    """A row.

    Attributes:
        name: key of the record.
        make: writes what is to be converted into a folder, or makes it; arguments of `onnxport.convert`.
        settings: more arguments of `onnxport.convert`.
        steps: what follows the conversion: words -> called with the converted folder.
        output: the folder or file that the conversion writes.
        names_vary: in each conversion TensorFlow chooses another of several equal nodes, or counts on in its names.
    """

    name: str
    make: Callable[[Path], dict[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, Callable[[Path], Any]] = field(default_factory=dict)
    output: str = "out"
    names_vary: bool = False


def _tiny(name: str, folder: Path) -> dict[str, Any]:
    from tests.tiny import save

    return {"model": redraw_folder(save(name, folder))}


def _decoder(kind: str, changes: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from tests.tiny_decoders import save_decoder
    from tests.tiny_tokenizers import modernbert

    return {"model": redraw_folder(save_decoder(kind, folder, **{"tokenizer": modernbert(), **changes}))}


def _encoder_decoder(kind: str, folder: Path) -> dict[str, Any]:
    from tests.tiny_encoder_decoders import save_encoder_decoder

    # A table of 2000 x 32 numbers is stored once for both graphs.
    return {"model": redraw_folder(save_encoder_decoder(kind, folder, vocabulary=2000))}


def _images_in_text(kind: str, folder: Path) -> dict[str, Any]:
    from tests.tiny_images_in_text import OWN_PROCESSOR, processor_of, save_image_text

    source = redraw_folder(save_image_text(kind, folder, vocabulary=2000))
    return {"model": source} | ({"processor": processor_of(kind, source)} if kind in OWN_PROCESSOR else {})


def _gguf(kind: str, quantization: str, folder: Path) -> dict[str, Any]:
    from tests.tiny_gguf import Types, build, write_gguf

    folder.mkdir()
    write_gguf(kind, folder / "m.gguf", redraw_module(build(kind)), Types[quantization], tokenizer=True)
    return {"model": folder / "m.gguf", "pipeline_name": "feature-extraction"}


def _mixer(folder: Path) -> dict[str, Any]:
    """Two inputs that share axes."""
    import torch

    class Mixer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.left, self.right = torch.nn.Linear(64, 50), torch.nn.Linear(40, 50)

        def forward(self, x: Any, y: Any) -> dict[str, Any]:
            joint = torch.tanh(self.left(x) + self.right(y))
            return {"joint": joint, "mean": joint.mean(1)}

    return {"model": redraw_module(Mixer()), "sample_inputs": (torch.ones(2, 7, 64), torch.ones(2, 7, 40))}


def _convolutions(folder: Path) -> dict[str, Any]:
    """Strides, groups, a transposed one, normalization, resizing; axes that are expressions of others."""
    import torch
    from torch import nn

    class Resized(nn.Module):
        def forward(self, x: Any) -> Any:
            return nn.functional.interpolate(x, scale_factor=2, mode="bilinear")

    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4),
        nn.GroupNorm(4, 16), nn.GELU(), Resized(), nn.ConvTranspose2d(16, 8, 2, stride=2),
    )  # fmt: skip
    return {
        "model": redraw_module(layers).eval(),
        "sample_inputs": torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32),
    }


def _keras(name: str, kind: str, folder: Path) -> dict[str, Any]:
    """A live model, a `.keras` file or a SavedModel folder."""
    from tests import tiny_keras

    tiny_keras.keras.utils.clear_session()
    model = getattr(tiny_keras, name)()
    redraw_variables(model.weights)
    if kind == "live":
        return {"model": model}
    folder.mkdir()
    place = folder / ("model" if kind == "saved" else "model.keras")
    model.export(place, verbose=False) if kind == "saved" else model.save(place)
    return {"model": place}


def _signatures(folder: Path) -> dict[str, Any]:
    from tests import tiny_keras

    module = tiny_keras.WithSignatures()
    redraw_variables([module.weight])
    tiny_keras.saved_model(folder, module)
    return {"model": folder}


def _quantize(precision: str) -> dict[str, Callable[[Path], Any]]:
    return {f"quantize {precision}": partial(_later, "quantize", precision=precision)}


def _later(function: str, folder: Path, **settings: Any) -> None:
    getattr(onnxport, function)(folder, **settings)


def _fix(**sizes: int) -> dict[str, Callable[[Path], Any]]:
    return {"optimize --sizes": partial(_later, "optimize", sizes=sizes)}


def _target(folder: Path, *arguments: str) -> None:
    """Targets have no function in `onnxport`: their command line."""
    command = [sys.executable, "-m", "onnxport", "target", arguments[0], str(folder), *arguments[1:], "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent)
    if done.returncode:
        raise onnxport.OnnxPortError(done.stderr.strip())


_OPTIMIZE = {"optimize": partial(_later, "optimize")}
_FUSE = {"optimize --for cpu": partial(_later, "optimize", for_="cpu")}
_JS = {"target transformers.js": lambda folder: _target(folder, "transformers.js", "js")}
_GENAI = {"target genai": lambda folder: _target(folder, "genai")}
_GENAI_FUSED = {"target genai, fused": lambda folder: _target(folder, "genai", "--component", "model_fused")}
_ALL_PRECISIONS = _quantize("int8") | _quantize("int4") | _quantize("int8-weights")
# Written whatever its numbers are: random weights bear rounding worse than trained ones.
_INT8 = {"quantize": True, "allow_mismatch": True}
_STEP = {"batch_size": 1, "sequence_length": 1, "past_sequence_length": 32}
_WIDE = {"hidden_size": 64}

# name -> (settings, steps)
_TEXTS_IMAGES_SOUNDS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "bert-text-classification": (_INT8, _OPTIMIZE | _ALL_PRECISIONS | _fix(batch_size=1, sequence_length=16)),
    "resnet-image-classification": (_INT8, _OPTIMIZE | _fix(batch_size=1, height=64, width=96)),
    "wav2vec2-automatic-speech-recognition": (_INT8, _fix(batch_size=1, num_samples=4000)),
    "sentence-bert": ({}, _quantize("int4")),
    **dict.fromkeys(
        """bert-fill-mask bert-question-answering bert-multiple-choice bert-next-sentence-prediction
        distilbert-question-answering roberta-fill-mask deberta-v2-text-classification
        mpnet-feature-extraction
        xlm-roberta-token-classification modernbert-fill-mask layoutlm-token-classification
        layoutlmv3-token-classification sentence-bert-cls-dense vit-image-classification swin-image-classification
        convnext-image-classification dinov2-image-feature-extraction detr-object-detection
        segformer-semantic-segmentation dpt-depth-estimation
        mask2former-image-segmentation clip-zero-shot-image-classification
        siglip-zero-shot-image-classification wav2vec2-layer-automatic-speech-recognition hubert-audio-classification
        audio-spectrogram-transformer-audio-classification""".split(),
        ({}, {}),
    ),
}
# model type -> (other arguments of save_decoder, steps)
_DECODERS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "llama": ({}, _ALL_PRECISIONS | _OPTIMIZE | _fix(**_STEP) | _GENAI),
    "qwen2": (_WIDE, _FUSE | _quantize("int4") | _GENAI_FUSED),
    "gemma2": (_WIDE | {"head_dim": 16}, _FUSE | _fix(**_STEP)),
    "cohere2": (_WIDE, _FUSE),
    "qwen3_moe": ({}, _fix(**_STEP)),
    "bloom": ({}, _GENAI),
    "mamba": ({"tokenizer": None}, {}),
    **dict.fromkeys("gpt2 mistral gemma3_text opt lfm2 deepseek_v3".split(), ({}, {})),
}
# name -> (task, steps)
_ENCODER_DECODERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "t5": ("translation", _JS | _quantize("int4") | _fix(**_STEP, encoder_sequence_length=32)),
    "bart": ("summarization", {}),
    "m2m_100": ("text2text-generation", {}),
    "whisper": ("automatic-speech-recognition", _JS | _fix(**_STEP)),
    "speech_to_text": ("automatic-speech-recognition", {}),
    "vision-encoder-decoder": ("image-to-text", _JS),
    "trocr": ("image-to-text", _quantize("int8")),
    "blip": ("image-to-text", {}),
}
_IMAGES_IN_TEXTS: dict[str, Mapping[str, Any]] = {
    "llava": _quantize("int4") | _fix(batch_size=1, sequence_length=4, past_sequence_length=60),
    **{kind: {} for kind in ("gemma3", "idefics3", "qwen2_5_vl")},
}
# (name in tiny_keras, kind, settings, steps)
_KERAS: tuple[tuple[str, str, Mapping[str, Any], Mapping[str, Any]], ...] = (
    ("text_classifier", "file", _INT8, {}),
    ("text_classifier", "saved", {}, {}),
    ("image_network", "file", {}, _OPTIMIZE),
    ("image_network", "live", {"opset": 17}, {}),
    ("recurrent", "live", {}, {}),
    ("masked_recurrent", "live", {}, {}),
    ("two_sequences", "live", {}, {}),
)


def _rows() -> Iterator[Model]:
    for name, (settings, steps) in _TEXTS_IMAGES_SOUNDS.items():
        yield Model(name, partial(_tiny, name), settings, steps)
    for kind, (changes, steps) in _DECODERS.items():
        yield Model(f"decoder {kind}", partial(_decoder, kind, changes), {}, steps)
    for kind, (task, steps) in _ENCODER_DECODERS.items():
        yield Model(f"encoder-decoder {kind}", partial(_encoder_decoder, kind), {"pipeline_name": task}, steps)
    for kind, steps in _IMAGES_IN_TEXTS.items():
        yield Model(f"images in text {kind}", partial(_images_in_text, kind), {}, steps)
    yield Model("module mixer, a file", _mixer, {}, _quantize("int4"), output="mixer.onnx")
    yield Model("module convolutions", _convolutions, _INT8)
    for kind, quantization in (("llama", "F32"), ("qwen2", "Q8_0")):
        yield Model(f"gguf {kind} {quantization}", partial(_gguf, kind, quantization))
    fill_mask = partial(_tiny, "bert-fill-mask")
    yield Model("bert-fill-mask, a file", fill_mask, output="bert.onnx")
    yield Model("bert-fill-mask, shards", fill_mask, {"use_external_format": True, "shard_size": 20000})
    yield Model("bert-fill-mask, linked", fill_mask, {"link_weights": True})
    for opset in (17, 18, 21):
        yield Model(f"bert-fill-mask, opset {opset}", fill_mask, {"opset": opset})
    yield Model("layoutlmv3, opset 17", partial(_tiny, "layoutlmv3-token-classification"), {"opset": 17})
    yield Model("resnet, opset 17", partial(_tiny, "resnet-image-classification"), {"opset": 17})
    yield Model("decoder llama, opset 17", partial(_decoder, "llama", {}), {"opset": 17})
    yield Model("encoder-decoder t5, opset 18", partial(_encoder_decoder, "t5"),
                {"opset": 18, "pipeline_name": "translation"})  # fmt: skip
    yield Model("encoder-decoder whisper, opset 21", partial(_encoder_decoder, "whisper"),
                {"opset": 21, "pipeline_name": "automatic-speech-recognition"})  # fmt: skip
    for name, kind, settings, steps in _KERAS:
        varies = "recurrent" in name or kind == "saved"
        yield Model(f"keras {name}, {kind}", partial(_keras, name, kind), settings, steps, names_vary=varies)
    yield Model("SavedModel signatures", _signatures, {"use_external_format": True}, names_vary=True)


MODELS: dict[str, Model] = {model.name: model for model in _rows()}
