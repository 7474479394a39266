"""Every tiny checkpoint is converted; the graph is then compared with the source by this file's own code.

Nothing of `onnxport.verification.compare` or of the samplers is used to judge: the inputs are made here, at
sizes that no step of the conversion uses, and the source is loaded anew by transformers.

`make test` has one checkpoint of every task, of as many architectures as that allows. The sweep has the others; some,
such as Depth Anything, take a minute.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from onnxport import convert
from onnxport.axes import evaluate
from onnxport.specs import Limit
from tests.sample import sampled
from tests.tiny import TINY, save

pytestmark = pytest.mark.integration

ROWS, TOKENS = 4, 23  # used nowhere in onnxport
TEXT = {"batch_size", "sequence_length"}
FREE_IMAGE = {"batch_size", "height", "width"}
# The axes that must be dynamic. What is missing here is fixed by the model itself (position tables).
DYNAMIC = {
    "multiple-choice": {"batch_size", "num_choices", "sequence_length"},
    "vit": {"batch_size"},
    "swin": {"batch_size"},
    "dpt": {"batch_size"},
    "mask2former": {"batch_size"},
    "maskformer": {"batch_size"},
    "resnet": FREE_IMAGE,
    "convnext": FREE_IMAGE,
    "dinov2": FREE_IMAGE,
    "detr": FREE_IMAGE,
    "segformer": FREE_IMAGE,
    "depth-anything": FREE_IMAGE,
    "clip": {"text_batch_size", "image_batch_size", "sequence_length"},
    "siglip": {"text_batch_size", "image_batch_size", "sequence_length"},
    "wav2vec2": {"batch_size", "num_samples"},
    "hubert": {"batch_size", "num_samples"},
    "audio-spectrogram-transformer": {"batch_size"},
}


def expected_axes(name: str) -> set[str]:
    for key, axes in DYNAMIC.items():
        if name.startswith(key) or name.endswith(key):
            return axes
    return TEXT


def unseen_inputs(component, vocabulary: int) -> dict[str, np.ndarray]:
    """Inputs of our own, at sizes that the conversion never used."""
    rng = np.random.default_rng(1234)
    fixed = {"batch_size": ROWS, "text_batch_size": 6, "image_batch_size": ROWS, "num_choices": 6, "num_samples": 6123}
    sizes = {"sequence_length": TOKENS, "height": 131, "width": 178, **fixed}
    for rule in component.restrictions:
        if rule.limit is Limit.AT_MOST:
            sizes[rule.axis] = min(sizes[rule.axis], int(rule.operand))
    arrays = {}
    for spec in component.inputs:
        shape = [evaluate(axis, sizes) for axis in spec.axes]
        if spec.name == "input_ids":
            value = rng.integers(5, vocabulary, shape)
        elif spec.name == "bbox":
            low = rng.integers(0, 400, (*shape[:-1], 2))
            value = np.concatenate([low, low + 99], -1)
        elif spec.name.endswith("mask"):
            value = np.ones(shape)
            value[-1, ..., shape[-1] * 2 // 3 :] = 0  # the last row is padded
        elif spec.name == "token_type_ids":
            value = np.zeros(shape)
            value[..., shape[-1] // 2 :] = 1
        else:
            value = rng.standard_normal(shape)
        arrays[spec.name] = value.astype(spec.dtype)
    return arrays


def reference_model(name: str, folder):
    import transformers

    from onnxport.tasks import find_task

    for auto in find_task(TINY[name].task).auto:
        try:
            return getattr(transformers, auto).from_pretrained(folder).eval()
        except ValueError:
            continue
    raise AssertionError(f"no auto class for {name}")


# One of every task. What other tests convert too costs nothing here.
ONE_OF_EACH = (
    "mpnet-feature-extraction", "modernbert-fill-mask", "bert-text-classification", "bert-zero-shot-classification",
    "layoutlm-token-classification", "bert-question-answering", "bert-multiple-choice",
    "bert-next-sentence-prediction", "vit-image-feature-extraction", "resnet-image-classification",
    "detr-object-detection", "segformer-semantic-segmentation", "maskformer-image-segmentation",
    "dpt-depth-estimation", "clip-zero-shot-image-classification", "wav2vec2-automatic-speech-recognition",
    "audio-spectrogram-transformer-audio-classification",
)  # fmt: skip


def test_every_task_is_in_the_sample():
    assert {TINY[name].task for name in ONE_OF_EACH} == {row.task for row in TINY.values()}


# Free heights and widths cost torch most of a minute of algebra; `make graphs` holds these too.
_SLOW = (
    "detr-object-detection", "segformer-semantic-segmentation", "maskformer-image-segmentation", "dpt-depth-estimation",
)  # fmt: skip


@pytest.mark.parametrize(
    "name",
    sampled([name for name in TINY if not name.startswith("sentence")], *(n for n in ONE_OF_EACH if n not in _SLOW)),
)
def test_converts_verifies_and_agrees_at_unseen_sizes(name, converted):
    for package in TINY[name].needs:
        pytest.importorskip(package)
    tiny = converted(name)
    source, conversion = tiny.source, tiny.conversion

    assert conversion.passed
    component = conversion.manifest.components[0]
    axes = {axis for spec in component.inputs for axis in spec.axes if isinstance(axis, str)}
    assert axes == expected_axes(name)
    fixed = {r.axis for r in component.restrictions if r.limit is Limit.FIXED}
    assert all(r.reason for r in component.restrictions)
    if expected_axes(name) == {"batch_size"}:  # and said so
        assert fixed == ({"num_frames"} if "audio" in name else {"height", "width"})

    model = reference_model(name, source)
    vocabulary = getattr(getattr(model.config, "text_config", None) or model.config, "vocab_size", 100)
    inputs = unseen_inputs(component, vocabulary)
    with torch.no_grad():
        wanted = model(**{key: torch.from_numpy(value) for key, value in inputs.items()})
    session = onnxruntime.InferenceSession(tiny.folder / component.file)
    assert [value.name for value in session.get_inputs()] == [spec.name for spec in component.inputs]
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))
    assert list(found) == [spec.name for spec in component.outputs]
    sizes = {a: n for s in component.inputs for a, n in zip(s.axes, inputs[s.name].shape, strict=True)}
    for spec in component.outputs:
        reference = wanted[spec.name].numpy()
        assert found[spec.name].shape == reference.shape
        for axis, length in zip(spec.axes, reference.shape, strict=True):
            assert evaluate(axis, sizes) == length, f"{spec.name}: {axis} at {sizes}"
        scale = np.abs(reference).max()
        assert np.abs(found[spec.name] - reference).max() <= 1e-5 + 1e-4 * scale
    # The case that was traced is one of several, and padded rows are among them where there are masks.
    cases = {case.name for case in component.verification.cases}
    assert len(cases) >= 4 and "traced" in cases
    if "attention_mask" in inputs or "pixel_mask" in inputs:
        assert "padded rows" in cases


@pytest.mark.parametrize("name", ["sentence-bert", "sentence-bert-cls-dense"])
def test_sentence_transformers_keep_their_pooling(name, converted):
    tiny = converted(name)
    source, component = tiny.source, tiny.conversion.manifest.components[0]
    assert [spec.name for spec in component.outputs] == ["last_hidden_state", "sentence_embedding"]
    inputs = unseen_inputs(component, 100)
    session = onnxruntime.InferenceSession(tiny.folder / component.file)
    tokens, sentence = session.run(None, inputs)
    if name == "sentence-bert":
        mask = inputs["attention_mask"][..., None].astype(np.float32)
        mean = (tokens * mask).sum(1) / mask.sum(1)
        wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    else:
        from safetensors.numpy import load_file

        dense = load_file(source / "2_Dense" / "model.safetensors")
        wanted = np.tanh(tokens[:, 0] @ dense["linear.weight"].T + dense["linear.bias"])
    np.testing.assert_allclose(sentence, wanted, atol=2e-5)


def test_a_checkpoint_is_looked_at_once(tmp_path, monkeypatch):
    """And what it becomes: weights beside the graph, and an int8 graph."""
    from onnxport import verify
    from onnxport.loading import resolve

    source = save("bert-text-classification", tmp_path / "source")
    looked, right = [], resolve.inspect_checkpoint
    monkeypatch.setattr(
        resolve, "inspect_checkpoint", lambda *given, **named: looked.append(given) or right(*given, **named)
    )
    conversion = convert("pt", source, tmp_path / "out", use_external_format=True, quantize=True, opset=18)
    assert len(looked) == 1
    assert verify(tmp_path / "out", source).ok
    assert len(looked) == 2
    assert verify(tmp_path / "out" / "onnx" / "model.onnx", source).ok
    assert len(looked) == 3

    assert (tmp_path / "out" / "onnx" / "model.onnx_data").stat().st_size > 10_000
    names = {component.name: component for component in conversion.manifest.components}
    assert set(names) == {"model", "model_quantized"} and {component.opset for component in names.values()} == {18}
    quantized = names["model_quantized"]
    assert quantized.precision == "int8"
    assert quantized.verification.relative_tolerance > names["model"].verification.relative_tolerance
    assert quantized.verification.max_abs_error > 0
    assert any("Integer" in operator or "Quant" in operator for operator in quantized.operators)
    assert str(tmp_path) not in (tmp_path / "out" / "onnxport.json").read_text()
    assert str(tmp_path).encode() not in (tmp_path / "out" / "onnx" / "model.onnx").read_bytes()


@pytest.mark.sweep  # test_cli_convert.py has opset 17, the test above 18
@pytest.mark.parametrize("opset", [17, 20, 23])
def test_opsets(opset, tmp_path):
    import onnx

    source = save("bert-text-classification", tmp_path / "source")
    convert(None, source, tmp_path / "out" / "model.onnx", opset=opset)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(model, full_check=False)
    assert next(o.version for o in model.opset_import if o.domain == "") == opset
