"""The model card: what it says, and that its examples run."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import yaml

from onnxport.artifact.card import render_card
from onnxport.artifact.card_calls import call_of, javascript_dtype
from onnxport.artifact.manifest import Component, Manifest
from onnxport.errors import FolderError, MissingDependencyError
from onnxport.serialization.onnxfile import write_model
from onnxport.specs import CaseCheck, OutputCheck, TensorSpec
from onnxport.tasks import TASKS
from tests.unit.sample_manifest import make_manifest


def with_component(**changes: object) -> Manifest:
    manifest = make_manifest()
    component: Component = dataclasses.replace(manifest.components[0], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(manifest, components=(component,))


def block(card: str, language: str, index: int = 0) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)[index]


def front_matter(card: str) -> dict[str, object]:
    header: dict[str, object] = yaml.safe_load(card.split("---\n")[1])
    return header


def test_the_whole_card() -> None:
    card = render_card(make_manifest(), "bert-onnx")
    assert front_matter(card) == {
        "library_name": "onnx",
        "pipeline_tag": "fill-mask",
        "tags": ["onnx", "onnxport", "transformers.js"],
    }
    for line in (
        "# bert-onnx",
        "- no tokenizer in the checkpoint",
        'onnxport run bert-onnx "Paris is the [MASK] of France."',
        'pipe = pipeline("fill-mask", model="bert-onnx")',
        'session = ort.InferenceSession("bert-onnx/onnx/model.onnx", providers=["CPUExecutionProvider"])',
        '    "input_ids": np.ones((2, 7), dtype="int64"),  # batch_size, sequence_length',
        'const pipe = await pipeline("fill-mask", "bert-onnx", { dtype: "fp32" });',
        "| input | `input_ids` | int64 | `batch_size`, `sequence_length` |",
        "| output | `logits` | float32 | `batch_size`, `sequence_length`, `30522` |",
        "| `sequence_length` | at most 512 | the model has 512 positions |",
        "| `model` | `onnx/model.onnx` | 438.0 MB | 109,514,298 | float32 | 18 |",
        "- torch 2.13.0",
    ):
        assert line in card.splitlines(), line
    # The output nearest to its tolerance stands for its case.
    row = "| traced | `batch_size` 2, `sequence_length` 7 | `hidden` |  | 1.50e-04 | 2.00e-04 "
    assert row + "| token: 100.0% | passed |" in card.splitlines()
    assert "\n\n\n" not in card and card.endswith("\n")


def test_deterministic_and_without_absolute_paths() -> None:
    manifest = dataclasses.replace(make_manifest(), source="/home/somebody/models/bert")
    card = render_card(manifest, "/srv/out/bert-onnx")
    assert card == render_card(manifest, "bert-onnx")
    assert "/home" not in card and "/srv" not in card
    turned = dataclasses.replace(manifest, versions=dict(reversed(manifest.versions.items())))
    assert render_card(turned, "bert-onnx") == card


def test_the_onnxruntime_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ir.Value(name="input_ids", shape=ir.Shape(["batch_size", "n"]), type=ir.TensorType(ir.DataType.INT64))
    half = ir.Value(name="pixel_values", shape=ir.Shape(["batch_size", 3]), type=ir.TensorType(ir.DataType.FLOAT16))
    flag = ir.Value(name="flag", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
    nodes = [ir.node("Identity", [value]) for value in (ids, half, flag)]
    for node, name, source in zip(nodes, ("a", "b", "c"), (ids, half, flag), strict=True):
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, source.type, source.shape
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([ids, half, flag], outputs, nodes=nodes, name="g", opset_imports={"": 20})
    (tmp_path / 'my "model"' / "onnx").mkdir(parents=True)
    write_model(ir.Model(graph, ir_version=10), tmp_path / 'my "model"' / "onnx" / "model.onnx", external=False)
    manifest = with_component(
        inputs=(
            TensorSpec("input_ids", "int64", ("batch_size", "n")),
            TensorSpec("pixel_values", "float16", ("batch_size", 3)),
            TensorSpec("flag", "bool", ()),
        ),
        outputs=(TensorSpec("a", "int64", ("batch_size", "n")), TensorSpec("b", "float16", ("batch_size", 3))),
    )
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(block(render_card(manifest, 'my "model"'), "python", 1), scope)
    assert scope["names"] == ["a", "b"]
    value = scope["value"]
    assert isinstance(value, np.ndarray) and value.dtype == np.float16 and value.shape == (2, 3)


@pytest.mark.parametrize("task", [task.name for task in TASKS])
def test_every_task_has_examples(task: str) -> None:
    card = render_card(dataclasses.replace(make_manifest(), task=task), "folder")
    python = block(card, "python")
    ast.parse(python)
    assert "pipe(...)" not in python
    assert "INPUT" not in block(card, "sh")
    header = front_matter(card)
    if call_of(task).javascript is None:
        several_graphs = ("text2text-generation", "summarization", "translation", "image-to-text", "image-text-to-text")
        not_there = ("audio-frame-classification", "audio-xvector", "video-classification", "mask-generation")
        not_there = (*not_there, "time-series-forecasting", "document-question-answering")
        assert task in ("multiple-choice", "next-sentence-prediction", *several_graphs, *not_there)
        assert "```js" not in card and "transformers.js" not in str(header)
    else:
        js_task = "image-segmentation" if task == "semantic-segmentation" else task
        assert f'await pipeline("{js_task}", "folder"' in block(card, "js")
    assert header.get("pipeline_tag", task) == ("image-segmentation" if task == "semantic-segmentation" else task)


@pytest.mark.parametrize(
    ("task", "writer"),
    [("text-generation", "TextGenerator"), ("translation", "TextToTextGenerator"), ("fill-mask", None)],
)
def test_what_writes_without_a_framework(task: str, writer: str | None) -> None:
    manifest = dataclasses.replace(make_manifest(), task=task)
    card, bare = render_card(manifest, "out", tokenizer=True), render_card(manifest, "out")
    assert "pip install onnxport\nonnxport run" in bare and "pip install onnxport\nonnxport run" in card
    for name in [writer] if writer else []:
        module = re.search(rf"from (\S+) import {name}", card)
        assert module and hasattr(importlib.import_module(module[1]), name)


@pytest.mark.parametrize(
    ("task", "processor", "extra"),
    [
        ("object-detection", None, "images"),
        ("zero-shot-image-classification", None, "images"),
        ("image-text-to-text", "LlavaNextProcessor", "pytorch"),
        ("image-text-to-text", "LlavaProcessor", "images"),
    ],
)
def test_the_extra_that_prepares_the_inputs(task: str, processor: str | None, extra: str) -> None:
    card = render_card(dataclasses.replace(make_manifest(), task=task), "out", processor=processor)
    assert f'pip install "onnxport[{extra}]"\nonnxport run' in card


def test_unknown_tasks_have_a_card_too() -> None:
    card = render_card(dataclasses.replace(make_manifest(), task="future-task"), "folder")
    assert "pipeline_tag" not in front_matter(card)
    assert "```js" not in card


def test_weights_beside_the_graph_are_told_to_transformers_js() -> None:
    manifest = make_manifest()
    manifest = dataclasses.replace(manifest, files={**manifest.files, "onnx/model.onnx_data": "b" * 64})
    assert '{ dtype: "fp32", use_external_data_format: true }' in render_card(manifest, "folder")
    more = {f"onnx/model.onnx_data_{number}": "b" * 64 for number in (1, 2)}
    manifest = dataclasses.replace(manifest, files={**manifest.files, **more})
    assert '{ dtype: "fp32", use_external_data_format: 3 }' in render_card(manifest, "folder")
    assert "use_external_data_format" not in render_card(make_manifest(), "folder")


@pytest.mark.parametrize(
    ("file", "dtype"),
    [
        ("onnx/model.onnx", "fp32"),
        ("onnx/model_quantized.onnx", "q8"),
        ("onnx/model_q4.onnx", "q4"),
        ("onnx/model_fp16.onnx", "fp16"),
        ("model.onnx", None),
        ("onnx/vision_encoder.onnx", None),
        ("onnx/model_mine.onnx", None),
    ],
)
def test_names_that_transformers_js_looks_for(file: str, dtype: str | None) -> None:
    assert javascript_dtype(file) == dtype
    assert ("```js" in render_card(with_component(file=file), "folder")) == (dtype is not None)


def test_encoders_for_transformers_js_have_decoders_that_take_their_hidden_states() -> None:
    assert javascript_dtype("onnx/encoder_model.onnx") == javascript_dtype("onnx/decoder_model_merged.onnx") == "fp32"
    assert javascript_dtype("onnx/decoder_model_merged_q4.onnx") == "q4"
    manifest = with_component(file="onnx/encoder_model.onnx")
    assert "```js" not in render_card(manifest, "folder")
    decoder = dataclasses.replace(
        manifest.components[0], name="decoder_model_merged", file="onnx/decoder_model_merged.onnx",
        inputs=(TensorSpec("encoder_hidden_states", "float32", ("batch_size", "encoder_sequence_length", 8)),),
    )  # fmt: skip
    manifest = dataclasses.replace(
        manifest, components=(*manifest.components, decoder), files={"onnx/encoder_model.onnx_data": "b" * 64}
    )
    assert '{ dtype: "fp32" }' in render_card(manifest, "folder")


def test_what_failed_is_said() -> None:
    bad = OutputCheck("logits", (1,), math.nan, math.nan, 1.0, 1e-4, False)
    good = OutputCheck("other", (1,), 5e-5, 5e-5, 1.0, 1e-4, True)
    verification = make_manifest().components[0].verification
    assert verification is not None
    cases = (
        CaseCheck("nan", {"n": 1}, (good, bad), ok=False),
        CaseCheck("broken", {"n": 2}, (), error="Gather: index out of range | 7\nsecond line", ok=False),
    )
    failed = dataclasses.replace(verification, passed=False, cases=cases)
    card = render_card(with_component(verification=failed), "folder")
    assert "**They do not agree**" in card
    assert "| nan | `n` 1 | `logits` |  | nan | 1.00e-04 |  | failed |" in card
    assert "failed: Gather: index out of range \\| 7 second line |" in card
    assert "not verified" in render_card(with_component(verification=None), "folder")


def test_names_from_a_checkpoint_cannot_break_the_card() -> None:
    evil = '</script><script>alert(1)</script>`|[x](y)\n---\n"'
    manifest = with_component(inputs=(TensorSpec(evil, "int64", (evil, 3)),))
    manifest = dataclasses.replace(manifest, architecture=evil, source=evil, notes=(evil,), versions={"x": evil})
    card = render_card(manifest, "fol`der\n```\n# x")
    outside_code = re.sub(r"^```.*?^```$|`[^`\n]*`", "", card, flags=re.DOTALL | re.MULTILINE)
    assert "<script>" not in outside_code
    assert front_matter(card)["library_name"] == "onnx"
    for index in range(2):
        ast.parse(block(card, "python", index))
    assert json.dumps(evil) in block(card, "python", 1)


def test_without_components() -> None:
    with pytest.raises(FolderError):
        render_card(dataclasses.replace(make_manifest(), components=()), "folder")


def test_without_jinja2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match="jinja2") as caught:
        render_card(make_manifest(), "folder")
    assert "pip install 'onnxport[pytorch]'" in str(caught.value)
