"""Rows of the task table whose models have several inputs, several graphs, or a pipeline of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onnxport
from onnxport.cli.main import main
from onnxport.dummy_inputs.base import base_sizes
from onnxport.errors import ExportError, UsageError
from onnxport.loading.model_to_export import load_model_to_export
from onnxport.loading.resolve import resolve_model
from onnxport.runtime.pipeline import open_pipeline
from onnxport.runtime.prompts.points import DECODER, VISION, as_objects
from onnxport.runtime.session import OnnxSession
from onnxport.serve.jobs import Job, ServeSettings
from onnxport.serve.worker import Worker
from onnxport.user_runs.inputs import sample_image
from tests import tiny_tokenizers
from tests.integration.test_kinds import saved

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.integration

_LAYERS: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip
_SQUARE = {"height": 32, "width": 32}


def _owl(folder: Path, name: str, processor: Any) -> Any:
    tokenizer = tiny_tokenizers.clip()
    text = _LAYERS | tiny_tokenizers.vocabulary("clip_text_model", tokenizer) | {"max_position_embeddings": 32}
    vision = _LAYERS | {"image_size": 32, "patch_size": 8}
    settings = {"text_config": text, "vision_config": vision, "projection_dim": 16}
    tokenizer.save_pretrained(folder)
    return saved(folder, f"{name}ForObjectDetection", f"{name}Config", settings, processor)


def _same_boxes(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert all(abs(one["box"][side] - other["box"][side]) <= 1 for side in other["box"])


def test_boxes_of_what_texts_name(tmp_path: Path) -> None:
    processor = transformers.OwlViTImageProcessor(size=_SQUARE, crop_size=_SQUARE)
    _owl(tmp_path / "m", "OwlViT", processor)
    conversion = onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick")
    assert conversion.manifest.task == "zero-shot-object-detection"
    source = transformers.pipeline("zero-shot-object-detection", str(tmp_path / "m"))
    labels = ["a cat", "two dogs in the garden", "paper"]
    image = sample_image(83, 57)
    found = open_pipeline(tmp_path / "o")(image, candidate_labels=labels, threshold=0.02)
    wanted = source(image, candidate_labels=labels, threshold=0.02)
    assert {row["label"] for row in wanted} == set(labels)
    _same_boxes(found, wanted)
    again = open_pipeline(tmp_path / "o")([{"image": image, "candidate_labels": labels}] * 2, threshold=0.02, top_k=4)
    assert [len(rows) for rows in again] == [4, 4]


@pytest.mark.sweep
def test_boxes_of_owlv2(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    _owl(tmp_path / "m", "Owlv2", transformers.Owlv2ImageProcessor(size=_SQUARE))
    assert onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick").passed
    image, labels = sample_image(83, 57), ["a cat", "paper"]
    source = transformers.pipeline("zero-shot-object-detection", str(tmp_path / "m"))
    wanted = source(image, candidate_labels=labels, threshold=0.02)
    _same_boxes(onnxport.pipeline(model=tmp_path / "o")(image, candidate_labels=labels, threshold=0.02), wanted)


def _sam(folder: Path) -> Any:
    vision = {
        **_LAYERS, "output_channels": 16, "image_size": 32, "patch_size": 8, "window_size": 3, "mlp_dim": 24,
        "global_attn_indexes": [], "num_pos_feats": 8,
    }  # fmt: skip
    prompts = {"hidden_size": 16, "image_size": 32, "patch_size": 8, "mask_input_channels": 4}
    decoder = {
        "hidden_size": 16, "mlp_dim": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 16,
        "iou_head_depth": 2,
    }  # fmt: skip
    settings = {"vision_config": vision, "prompt_encoder_config": prompts, "mask_decoder_config": decoder}
    processor = transformers.SamImageProcessor(size={"longest_edge": 32}, pad_size=_SQUARE)
    return saved(folder, "SamModel", "SamConfig", settings, processor)


@pytest.mark.sweep
def test_masks_of_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = _sam(tmp_path / "m")
    conversion = onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick")
    assert conversion.manifest.task == "mask-generation"
    # The names and axes that transformers.js expects.
    graphs = {name: OnnxSession(tmp_path / f"o/onnx/{name}.onnx") for name in (VISION, DECODER)}
    names = [[spec.name for spec in (*graph.inputs, *graph.outputs)] for graph in graphs.values()]
    maps = ["image_embeddings", "image_positional_embeddings"]
    assert sorted(names[0]) == [*maps, "pixel_values"]
    assert sorted(names[1]) == [*maps, "input_labels", "input_points", "iou_scores", "pred_masks"]

    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    points = torch.rand(3, 4, 5, 2, generator=torch.Generator().manual_seed(2)) * 32
    labels = torch.tensor([1, 0, -1, -10, 1]).repeat(3, 4, 1)
    with torch.no_grad():
        want = made(pixel_values=pixels, input_points=points, input_labels=labels)
    read = graphs[VISION].run({"pixel_values": pixels.numpy()})
    found = graphs[DECODER].run({**read, "input_points": points.numpy(), "input_labels": labels.numpy()})
    np.testing.assert_allclose(found["iou_scores"], want.iou_scores.numpy(), atol=1e-5)
    np.testing.assert_allclose(found["pred_masks"], want.pred_masks.numpy(), atol=1e-4)

    image, marked = sample_image(83, 57), [[[30, 20], [70, 50]], [[60, 11]]]
    source = onnxport.pipeline("mask-generation", tmp_path / "m")
    given = {"input_points": marked, "input_labels": [[1, 0], [1]]}
    with open_pipeline(tmp_path / "o") as pipeline:
        rows, wanted = pipeline(image, **given), source(image, **given)
        assert pipeline([{"image": image, **given}])[0][1]["score"] == rows[1]["score"]
        with pytest.raises(UsageError):
            pipeline(image)
    for one, other in zip(rows, wanted, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert one["mask"].size == other["mask"].size == (83, 57)
        assert (np.asarray(one["mask"]) != np.asarray(other["mask"])).mean() < 0.005
    assert 0 < np.asarray(rows[0]["mask"]).mean() < 255
    image.save(tmp_path / "photo.png")
    assert main(["run", str(tmp_path / "o"), str(tmp_path / "photo.png"), "30,20", "70,50"]) == 0
    assert main(["run", str(tmp_path / "o"), str(tmp_path / "photo.png"), "30"]) == 2
    capsys.readouterr()


def test_masks_in_two_parts(tmp_path: Path) -> None:
    made = _sam(tmp_path / "m")
    vision, decoder = load_model_to_export(resolve_model(tmp_path / "m", None)).parts
    assert (vision.name, decoder.name) == (VISION, DECODER)
    sizes = {"batch_size": 3, "point_batch_size": 4, "nb_points_per_image": 7}
    given = decoder.generator.make(sizes, seed=5)
    pixels = vision.generator.make({**base_sizes(vision.generator), "batch_size": 3}, seed=4)["pixel_values"]
    prompts = {name: given[name] for name in ("input_points", "input_labels")}
    with torch.no_grad():
        want = made(torch.from_numpy(pixels), **{name: torch.from_numpy(value) for name, value in prompts.items()})
    found = decoder.source.run({**vision.source.run({"pixel_values": pixels}), **prompts})
    assert found["pred_masks"].shape[:3] == (3, 4, 3)
    np.testing.assert_allclose(found["pred_masks"], want.pred_masks.numpy(), atol=1e-5)
    np.testing.assert_allclose(found["iou_scores"], want.iou_scores.numpy(), atol=1e-6)


def test_masks_of_what_is_not_in_parts(tmp_path: Path) -> None:
    """SAM-HQ reads more of an image than its embeddings."""
    vision = {**_LAYERS, "output_channels": 16, "image_size": 32, "patch_size": 8, "window_size": 3, "mlp_dim": 24,
              "global_attn_indexes": [0], "num_pos_feats": 8}  # fmt: skip
    settings = {
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": 16, "image_size": 32, "patch_size": 8, "mask_input_channels": 4},
        "mask_decoder_config": {"hidden_size": 16, "mlp_dim": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
                                "iou_head_hidden_dim": 16, "iou_head_depth": 2, "vit_dim": 16},
    }  # fmt: skip
    saved(tmp_path / "m", "SamHQModel", "SamHQConfig", settings)
    with pytest.raises(ExportError) as caught:
        onnxport.convert(None, tmp_path / "m", tmp_path / "o")
    assert caught.value.hint and not (tmp_path / "o").exists()


def test_points_of_objects() -> None:
    places, labels = as_objects([[[1, 2]], [[3, 4], [5, 6]]], [[1], [1, 0]])
    assert labels.tolist() == [[1, -10], [1, 0]] and places.shape == (2, 2, 2)
    assert as_objects([(1, 2), (3, 4)])[1].tolist() == [[1, 1]]
    for points, given in (((), None), ([[1, 2, 3, 4]], None), ([["a", 2]], None), ([[1, 2]], [1, 0]), ([[]], None)):
        with pytest.raises(UsageError):
            as_objects(points, given)


_SERIES: dict[str, Any] = {
    "context_length": 24, "prediction_length": 6, "num_input_channels": 2, "patch_length": 4, "patch_stride": 4,
    "stride": 4, "d_model": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "ffn_dim": 24, "num_layers": 2,
    "scaling": "std", "loss": "mse",
}  # fmt: skip


@pytest.mark.parametrize("name", ["PatchTST", pytest.param("PatchTSMixer", marks=pytest.mark.sweep)])
def test_forecasts(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = saved(tmp_path / "m", f"{name}ForPrediction", f"{name}Config", _SERIES)
    conversion = onnxport.convert(None, tmp_path / "m", tmp_path / "o")
    assert conversion.manifest.task == "time-series-forecasting"
    assert max(case.sizes["batch_size"] for case in conversion.manifest.components[0].verification.cases) > 5
    values = np.random.default_rng(3).standard_normal((31, 2)).cumsum(0).astype(np.float32) * 20
    with torch.no_grad():
        want = made(past_values=torch.from_numpy(values[None, -24:])).prediction_outputs[0].numpy()
    with open_pipeline(tmp_path / "o") as pipeline:
        np.testing.assert_allclose(pipeline(values), want, rtol=1e-4, atol=1e-3)
        assert [rows.shape for rows in pipeline([values, values[3:], values[5:]], batch_size=3)] == [(6, 2)] * 3
        for wrong in (values[:20], values[:, :1], values * np.nan):
            with pytest.raises(UsageError):
                pipeline(wrong)
    np.savetxt(tmp_path / "series.csv", values, delimiter=",", header="left,right", comments="")
    assert main(["run", str(tmp_path / "o"), str(tmp_path / "series.csv")]) == 0
    assert main(["run", str(tmp_path / "o"), str(tmp_path / "none.csv")]) == 2
    worker = Worker(ServeSettings(tmp_path / "o", threads=1))
    jobs = [Job("call", values.tolist()), Job("call", str(tmp_path / "series.csv"))]
    served, refused = (worker.run([job])[0] for job in jobs)
    np.testing.assert_allclose(served.value, want, rtol=1e-4, atol=1e-3)
    assert refused.problem and refused.value is None  # no path of a request is opened
    capsys.readouterr()


@pytest.mark.sweep
def test_answers_in_pages(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizers.bert()
    tokenizer.save_pretrained(tmp_path / "m")
    settings = {
        **_LAYERS,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "max_2d_position_embeddings": 1024,
    }
    saved(tmp_path / "m", "LayoutLMForQuestionAnswering", "LayoutLMConfig", settings)
    conversion = onnxport.convert(None, tmp_path / "m", tmp_path / "o", verify_level="quick")
    assert conversion.manifest.task == "document-question-answering"
    page = [
        ("The", [10, 10, 60, 40]),
        ("total", [70, 10, 150, 40]),
        ("is", [160, 10, 190, 40]),
        ("seven", [200, 10, 290, 40]),
    ]
    given = {"question": "What is the total?", "word_boxes": page, "image": None, "top_k": 2}
    source = transformers.pipeline("document-question-answering", str(tmp_path / "m"))
    wanted, found = source(**given), open_pipeline(tmp_path / "o")(**given)
    assert [row["answer"] for row in found] == [row["answer"] for row in wanted]
    assert found[0]["score"] == pytest.approx(wanted[0]["score"], rel=1e-3)
