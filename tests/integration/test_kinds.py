"""Kinds of models that no auto class loads as they are saved, and rows of the table with pipelines of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import onnxport
from onnxport.errors import CheckpointError, ExportError, TaskError, UsageError
from onnxport.loading.partition import parts_of
from onnxport.runtime.pipeline import open_pipeline
from onnxport.runtime.session import OnnxSession
from tests.conversions import save
from tests.tiny_base import randomize

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.integration

_TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99,
    "max_position_embeddings": 40,
}  # fmt: skip
_T5: dict[str, Any] = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
_SOUND: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20,
    "conv_dim": (8, 8, 8), "conv_stride": (5, 4, 4), "conv_kernel": (10, 3, 3), "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "tdnn_dim": (12, 12, 12),
    "tdnn_kernel": (5, 3, 1), "tdnn_dilation": (1, 2, 1), "xvector_output_dim": 12, "classifier_proj_size": 8,
    "num_labels": 3,
}  # fmt: skip


def saved(folder: Path, model: str, config: str, settings: dict[str, Any], processor: Any = None) -> Any:
    """A model with random weights, written to `folder`."""
    torch.manual_seed(0)
    made = getattr(transformers, model)(getattr(transformers, config)(**settings)).eval()
    randomize(made, torch.Generator().manual_seed(0))
    made.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return made


@pytest.mark.parametrize(
    ("model", "config", "settings", "output"),
    [
        ("CLIPTextModelWithProjection", "CLIPTextConfig", {**_TEXT, "projection_dim": 24}, "text_embeds"),
        pytest.param("T5EncoderModel", "T5Config", _T5, "last_hidden_state", marks=pytest.mark.sweep),
        pytest.param("UMT5EncoderModel", "UMT5Config", _T5, "last_hidden_state", marks=pytest.mark.sweep),
        pytest.param("SiglipTextModel", "SiglipTextConfig", _TEXT, "pooler_output", marks=pytest.mark.sweep),
    ],
)
def test_towers_of_texts(tmp_path: Path, model: str, config: str, settings: dict[str, Any], output: str) -> None:
    made = saved(tmp_path / "m", model, config, settings)
    conversion = onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick")
    assert (conversion.manifest.task, conversion.manifest.architecture) == ("feature-extraction", model)
    session = OnnxSession(tmp_path / "o/onnx/model.onnx")
    ids = np.arange(3 * 13).reshape(3, 13) + 5
    given = {spec.name: ids if spec.name == "input_ids" else np.ones_like(ids) for spec in session.inputs}
    with torch.no_grad():
        want = made(**{name: torch.from_numpy(value) for name, value in given.items()})[output]
    np.testing.assert_allclose(session.run(given)[output], want.numpy(), atol=1e-5)


@pytest.mark.sweep
def test_tower_of_images(tmp_path: Path) -> None:
    settings = {name: value for name, value in _TEXT.items() if name not in ("vocab_size", "max_position_embeddings")}
    made = saved(
        tmp_path / "m", "CLIPVisionModelWithProjection", "CLIPVisionConfig",
        {**settings, "image_size": 30, "patch_size": 6, "projection_dim": 24},
    )  # fmt: skip
    onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick")
    pixels = torch.randn(4, 3, 30, 30)
    with torch.no_grad():
        want = made(pixels).image_embeds.numpy()
    found = OnnxSession(tmp_path / "o/onnx/model.onnx").run({"pixel_values": pixels.numpy()})
    np.testing.assert_allclose(found["image_embeds"], want, atol=1e-5)


class Nested(torch.nn.Module):
    """Takes a list, a dict with None in it, and Python values; returns nested outputs too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, levels, extra, scale=1.0, flags=()):
        total = sum(self.linear(level).mean(1) for level in levels) * scale
        if extra.get("right") is not None or not flags[1]:
            total = total + 1000
        return {"sum": total, "parts": [level * 2 for level in levels], "left": (extra["left"] + 1, None, 3)}


def test_nested_inputs(tmp_path: Path) -> None:
    model = Nested().eval()
    levels = [torch.randn(2, 5, 4), torch.randn(2, 9, 4)]
    sample = {"levels": levels, "extra": {"left": torch.randn(2, 3), "right": None}, "scale": 2.0, "flags": (1, True)}
    conversion = onnxport.convert(None, model, tmp_path / "o", sample_inputs=sample)
    names = [spec.name for spec in conversion.manifest.components[0].inputs]
    assert names == ["levels.0", "levels.1", "extra.left"]
    levels, left = [torch.randn(3, 7, 4), torch.randn(3, 2, 4)], torch.randn(3, 6)
    given = {"levels.0": levels[0].numpy(), "levels.1": levels[1].numpy(), "extra.left": left.numpy()}
    found = OnnxSession(tmp_path / "o/onnx/model.onnx").run(given)
    want = model(levels, {"left": left, "right": None}, 2.0, (1, True))
    np.testing.assert_allclose(found["sum"], want["sum"].detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(found["parts.1"], levels[1].numpy() * 2)
    np.testing.assert_allclose(found["left.0"], left.numpy() + 1)
    with pytest.raises(ExportError):
        onnxport.convert(None, model, tmp_path / "none", sample_inputs={"scale": 2.0})


def test_names_inside_of_a_wrapper(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save("bert-text-classification", tmp_path / "m")
    kept = Path(shutil.copytree(folder, tmp_path / "kept"))
    state = load_file(folder / "model.safetensors")
    renamed = {f"module._orig_mod.{name}": value for name, value in state.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as caught:
        onnxport.convert(None, folder, tmp_path / "o")
    assert "--strip-prefix module._orig_mod." in str(caught.value.hint)
    nlp = onnxport.load_graph_from_args("auto", None, folder, strip_prefix="module._orig_mod.")
    own = nlp.model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    with pytest.raises(UsageError):
        onnxport.convert(None, kept, tmp_path / "o", strip_prefix="module.")


def test_decoder_without_a_padding_token(tmp_path: Path) -> None:
    """A reranker whose config names no padding token, as its tokenizer does; rows are padded on the left."""
    from tests import tiny_decoders, tiny_tokenizers

    base = tiny_decoders.save_decoder("qwen3", tmp_path / "base", tokenizer=tiny_tokenizers.bert())
    config = transformers.AutoConfig.from_pretrained(base, num_labels=1, pad_token_id=None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base, padding_side="left")
    torch.manual_seed(0)
    made = transformers.Qwen3ForSequenceClassification(config).eval()
    made.config.pad_token_id = None
    made.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    assert onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick").passed
    texts = ["Ada wrote it.", "It was raining in Berlin, and the street was wet."]
    encoded = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    session = OnnxSession(tmp_path / "o/onnx/model.onnx")
    found = session.run({spec.name: encoded[spec.name].numpy() for spec in session.inputs})["logits"]
    with torch.no_grad():
        want = [made(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in texts]
    np.testing.assert_allclose(found, np.stack(want), atol=1e-5)


def test_a_decoder_in_a_row_of_encoder_decoders() -> None:
    """Audio language models have a class for texts from texts, but a text alone is not what they were trained on."""
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=8, n_embd=4, n_layer=1, n_head=1))
    with pytest.raises(TaskError) as found:
        parts_of(SimpleNamespace(model=model, task="summarization"), "pt")
    assert "GPT2LMHeadModel" in str(found.value) and found.value.hint


def _extractor() -> Any:
    return transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)


def _sound(samples: int) -> np.ndarray:
    time = np.arange(samples) / 16000
    return np.sin(2 * np.pi * (200 + 300 * time) * time).astype(np.float32)


@pytest.mark.sweep
def test_labels_of_every_frame(tmp_path: Path) -> None:
    made = saved(tmp_path / "m", "Wav2Vec2ForAudioFrameClassification", "Wav2Vec2Config", _SOUND, _extractor())
    assert onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick").passed
    found = open_pipeline(tmp_path / "o")(_sound(9999))
    inputs = _extractor()(_sound(9999), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        want = made(**inputs).logits[0].sigmoid().numpy()
    assert found.shape == want.shape and found.shape[1] == 3
    np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.sweep
def test_vector_of_a_voice(tmp_path: Path) -> None:
    made = saved(tmp_path / "m", "Wav2Vec2ForXVector", "Wav2Vec2Config", _SOUND, _extractor())
    assert onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick").passed
    found = open_pipeline(tmp_path / "o")(_sound(23456))
    inputs = _extractor()(_sound(23456), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        want = made(**inputs).embeddings[0].numpy()
    np.testing.assert_allclose(found, want, atol=1e-4)


@pytest.mark.sweep
def test_labels_of_clips(tmp_path: Path) -> None:
    from onnxport.user_runs.inputs import sample_image

    size = {"height": 32, "width": 32}
    processor = transformers.VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    settings = {
        "image_size": 32, "patch_size": 8, "num_frames": 4, "tubelet_size": 2, "hidden_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20, "num_labels": 3,
    }  # fmt: skip
    made = saved(tmp_path / "m", "VideoMAEForVideoClassification", "VideoMAEConfig", settings, processor)
    assert onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick").passed
    clip = [sample_image(60 + number, 50) for number in range(4)]
    nlp = open_pipeline(tmp_path / "o")
    found = {row["label"]: row["score"] for row in nlp(clip)}
    with torch.no_grad():
        want = made(**processor(clip, return_tensors="pt")).logits[0].softmax(-1)
    for number, label in made.config.id2label.items():
        assert found[label] == pytest.approx(float(want[number]), abs=1e-5)
    with pytest.raises(UsageError):
        nlp(clip[:3])


@pytest.mark.sweep
def test_larger_images(tmp_path: Path) -> None:
    from onnxport.user_runs.inputs import sample_image

    processor = transformers.Swin2SRImageProcessor()
    settings = {
        "image_size": 16, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "upscale": 2,
        "num_channels_out": 3,
    }  # fmt: skip
    made = saved(tmp_path / "m", "Swin2SRForImageSuperResolution", "Swin2SRConfig", settings, processor)
    assert onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick").passed
    picture = open_pipeline(tmp_path / "o")(sample_image(37, 29))
    assert picture.size == (74, 58)
    with torch.no_grad():
        want = made(**processor(sample_image(37, 29), return_tensors="pt")).reconstruction[0, :, :58, :74]
    want = (want.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(picture).astype(int) - want).max() <= 1
