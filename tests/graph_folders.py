"""Folders whose graphs are a few operators with fixed weights, for the tests of what is done before and after a graph.

    folder = text_folder(tmp_path, "token-classification", tiny_tokenizers.bert())

No model is converted: such a folder is made in milliseconds, and runs in ONNX Runtime and in transformers' pipelines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxport.artifact.folder import Folder, open_folder, write_manifest
from onnxport.artifact.manifest import Component, Manifest
from onnxport.specs import TensorSpec
from tests.tiny_base import LABELS

Axes = tuple[int | str, ...]
Spec = tuple[str, int, Axes]
TOKENS: Axes = ("batch_size", "sequence_length")
_TYPES = {TensorProto.INT64: "int64", TensorProto.FLOAT: "float32"}
_CLASSES = {
    "text-classification": "BertForSequenceClassification",
    "zero-shot-classification": "BertForSequenceClassification",
    "token-classification": "BertForTokenClassification",
    "fill-mask": "BertForMaskedLM",
    "question-answering": "BertForQuestionAnswering",
    "document-question-answering": "LayoutLMForQuestionAnswering",
    "feature-extraction": "BertModel",
    "image-classification": "ViTForImageClassification",
    "object-detection": "DetrForObjectDetection",
    "semantic-segmentation": "SegformerForSemanticSegmentation",
    "image-segmentation": "Mask2FormerForUniversalSegmentation",
    "depth-estimation": "DPTForDepthEstimation",
    "image-feature-extraction": "ViTModel",
    "audio-classification": "Wav2Vec2ForSequenceClassification",
    "automatic-speech-recognition": "Wav2Vec2ForCTC",
}


class _Graph:
    """Nodes and weights, added one by one."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._rng = np.random.default_rng(7)

    def add(self, operator: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        output = to or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def random(self, *shape: int, scale: float = 2.0) -> str:
        return self.constant((self._rng.standard_normal(shape) * scale).astype(np.float32))

    def constant(self, values: Any) -> str:
        array = np.asarray(values)
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return str(self.weights[-1].name)


_MODEL_TYPES = {
    "image-classification": "vit",
    "object-detection": "detr",
    "semantic-segmentation": "segformer",
    "image-segmentation": "mask2former",
    "depth-estimation": "dpt",
    "image-feature-extraction": "vit",
}


def write_folder(
    root: Path, task: str, graph: _Graph, inputs: Sequence[Spec], outputs: Sequence[Spec], config: Mapping[str, Any]
) -> Folder:
    """The folder `root` with one graph; what is in it already belongs to it."""
    made = helper.make_graph(
        graph.nodes,
        "graph",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        graph.weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (root / "onnx").mkdir(parents=True, exist_ok=True)
    onnx.save(model, root / "onnx" / "model.onnx")
    (root / "config.json").write_text(json.dumps(config), encoding="utf-8")
    specs = [tuple(TensorSpec(name, _TYPES[kind], axes) for name, kind, axes in some) for some in (inputs, outputs)]
    component = Component("model", "onnx/model.onnx", 18, "float32", 1, *specs)
    write_manifest(root, Manifest(task, "pt", "source", _CLASSES[task], {}, (component,)))
    return open_folder(root)


def text_folder(root: Path, task: str, tokenizer: Any, **config: Any) -> Folder:
    """A folder whose graph looks every token up in a table, and adds what depends on place and type, or on boxes.

    Args:
        config: of config.json; `sentences=True` adds the mean of the tokens as sentence_embedding.
    """
    tokenizer.save_pretrained(root)
    graph, size = _Graph(), len(tokenizer)
    labels = LABELS.get(task, ())
    answers, page = task.endswith("question-answering"), task == "document-question-answering"
    width = {"fill-mask": size, "feature-extraction": 8}.get(task, 2 if answers else len(labels))
    tokens = graph.add("Gather", graph.random(size, width), "input_ids")
    types = graph.add("Gather", graph.random(2, width), "token_type_ids")
    mask = _cast(graph, "attention_mask")
    place = graph.add("CumSum", mask, graph.constant(np.int64(1)))
    waves = graph.add("Sin", graph.add("Unsqueeze", place, graph.constant(np.array([2]))))
    scores = graph.add("Add", graph.add("Add", tokens, types), graph.add("Mul", waves, graph.random(1, 1, width)))
    if page:
        sides = graph.add("Gather", graph.random(1001, width), "bbox")
        scores = graph.add("Add", scores, graph.add("ReduceMean", sides, graph.constant(np.array([2])), keepdims=0))
    name = {"feature-extraction": "last_hidden_state"}.get(task, "logits")
    outputs: list[Spec] = [(name, TensorProto.FLOAT, (*TOKENS, width))]
    if task in ("text-classification", "zero-shot-classification"):
        kept = graph.add("Mul", scores, graph.add("Unsqueeze", mask, graph.constant(np.array([2]))))
        total = graph.add("ReduceSum", kept, graph.constant(np.array([1])), keepdims=0)
        graph.add("Mul", total, graph.constant(np.float32(0.1)), to="logits")
        outputs = [("logits", TensorProto.FLOAT, ("batch_size", width))]
    elif answers:
        for number, output in enumerate(("start_logits", "end_logits")):
            graph.add("Gather", scores, graph.constant(np.int64(number)), to=output, axis=2)
        outputs = [(output, TensorProto.FLOAT, TOKENS) for output in ("start_logits", "end_logits")]
    else:
        graph.add("Identity", scores, to=name)
    if config.pop("sentences", False):
        wide = graph.add("Unsqueeze", mask, graph.constant(np.array([2])))
        total, count = (
            graph.add("ReduceSum", one, graph.constant(np.array([1])), keepdims=0)
            for one in (graph.add("Mul", scores, wide), wide)
        )
        graph.add("Div", total, count, to="sentence_embedding")
        outputs.append(("sentence_embedding", TensorProto.FLOAT, ("batch_size", width)))
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs: list[Spec] = [(name, TensorProto.INT64, TOKENS) for name in names]
    if page:
        inputs.append(("bbox", TensorProto.INT64, (*TOKENS, 4)))
    return write_folder(root, task, graph, inputs, outputs, _config("layoutlm" if page else "bert", labels, **config))


def _cast(graph: _Graph, name: str) -> str:
    output = f"v{len(graph.nodes)}"
    graph.nodes.append(helper.make_node("Cast", [name], [output], to=TensorProto.FLOAT))
    return output


def image_folder(root: Path, task: str, processor: Any, classes: int | None = None, *, nothing: bool = True) -> Folder:
    """A folder whose graph makes logits, boxes, masks, depths or features of the colors of an image.

    Args:
        classes: their number, if not that of the task's usual labels.
        nothing: queries have a further class for "no object".
    """
    processor.save_pretrained(root)
    graph, pixels, model_type = _Graph(), "pixel_values", _MODEL_TYPES[task]
    labels = LABELS.get(task, ()) if classes is None else tuple(f"class {number}" for number in range(classes))
    count, queries = len(labels), 6
    mean = graph.add("ReduceMean", pixels, graph.constant(np.array([2, 3])), keepdims=0)
    outputs: list[Spec] = []

    def vectors(to: str, rows: int, width: int, last: str = "Identity") -> None:
        """(batch, rows, width) of the mean color."""
        made = graph.add("MatMul", mean, graph.random(3, rows * width))
        graph.add(last, graph.add("Reshape", made, graph.constant(np.array([-1, rows, width]))), to=to)
        outputs.append((to, TensorProto.FLOAT, ("batch_size", rows, width)))

    def maps(to: str, channels: int, stride: int, squeeze: bool = False) -> None:
        """(batch, channels, height / stride, width / stride)."""
        sizes: dict[str, Any] = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        made = graph.add("Conv", pixels, graph.random(channels, 3, stride, stride, scale=1.0), **sizes)
        graph.add(*(["Squeeze", made, graph.constant(np.array([1]))] if squeeze else ["Identity", made]), to=to)
        outputs.append((to, TensorProto.FLOAT, ("batch_size", *(() if squeeze else (channels,)), "rows", "columns")))

    if task == "image-classification":
        graph.add("MatMul", mean, graph.random(3, count), to="logits")
        outputs.append(("logits", TensorProto.FLOAT, ("batch_size", count)))
    elif task == "object-detection":
        vectors("logits", queries, count + nothing)
        vectors("pred_boxes", queries, 4, "Sigmoid")
    elif task == "semantic-segmentation":
        maps("logits", count, 4)
    elif task == "image-segmentation":
        vectors("class_queries_logits", queries, count + 1)
        maps("masks_queries_logits", queries, 4)
    elif task == "depth-estimation":
        maps("predicted_depth", 1, 2, squeeze=True)
    else:
        vectors("last_hidden_state", 4, 8)
    inputs: list[Spec] = [("pixel_values", TensorProto.FLOAT, ("batch_size", 3, "height", "width"))]
    return write_folder(root, task, graph, inputs, outputs, _config(model_type, labels))


def sound_folder(root: Path, task: str, *parts: Any, **config: Any) -> Folder:
    """A folder whose graph makes logits of frames of 320 samples."""
    for part in parts:
        part.save_pretrained(root)
    graph, labels = _Graph(), LABELS.get(task, ())
    width = len(labels) or len(parts[-1])
    wide = graph.add("Unsqueeze", "input_values", graph.constant(np.array([1])))
    made = graph.add("Conv", wide, graph.random(width, 1, 320, scale=0.2), kernel_shape=[320], strides=[320])
    frames = graph.add("Transpose", made, perm=[0, 2, 1])
    if labels:
        graph.add("ReduceMean", frames, graph.constant(np.array([1])), to="logits", keepdims=0)
        outputs: list[Spec] = [("logits", TensorProto.FLOAT, ("batch_size", width))]
    else:
        graph.add("Identity", frames, to="logits")
        outputs = [("logits", TensorProto.FLOAT, ("batch_size", "frames", width))]
    inputs: list[Spec] = [("input_values", TensorProto.FLOAT, ("batch_size", "samples"))]
    return write_folder(root, task, graph, inputs, outputs, _config("wav2vec2", labels, **config))


def _config(model_type: str, labels: Sequence[str], **more: Any) -> dict[str, Any]:
    named = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    return {"model_type": model_type, **(named if labels else {}), **more}
