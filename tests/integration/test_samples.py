"""Samples have exactly the sizes that were asked for, are reproducible, and padded where they say so."""

from __future__ import annotations

import numpy as np
import pytest

from onnxport.dummy_inputs.base import base_sizes
from onnxport.loading.model_to_export import load_model_to_export
from onnxport.loading.resolve import resolve_model
from onnxport.system.output_capture import capture_process
from tests.tiny import TINY, save

pytestmark = pytest.mark.integration

# One of every tokenizer family, processor and kind of sample.
NAMES = (
    "bert-text-classification",
    "bert-question-answering",
    "bert-multiple-choice",
    "roberta-fill-mask",
    "deberta-v2-token-classification",
    "xlm-roberta-token-classification",
    "layoutlmv3-token-classification",
    "layoutlm-token-classification",
    "detr-object-detection",
    "clip-zero-shot-image-classification",
    "siglip-zero-shot-image-classification",
    "wav2vec2-layer-automatic-speech-recognition",
)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_padding_and_seeds(name, tmp_path):
    with capture_process():
        to_export = load_model_to_export(resolve_model(save(name, tmp_path / "m")), TINY[name].task)
    generator = to_export.generator
    base = base_sizes(generator)
    inputs = generator.make(base)
    assert set(inputs) <= (to_export.source.accepts() or set(inputs))
    lengths = {size for array in inputs.values() for size in array.shape}
    for dim in generator.dims:
        other = generator.make({**base, dim.name: dim.probe_sizes[0]})
        moved = {
            (tensor, axis): (inputs[tensor].shape[axis], size)
            for tensor, array in other.items()
            for axis, size in enumerate(array.shape)
            if inputs[tensor].shape[axis] != size
        }
        assert set(moved.values()) == {(base[dim.name], dim.probe_sizes[0])}, dim.name
    assert set(base.values()) <= lengths

    again = generator.make(base)
    assert all(np.array_equal(again[tensor], array) for tensor, array in inputs.items())
    different = generator.make(base, seed=1)
    main = "input_ids" if "input_ids" in inputs else to_export.source.model.main_input_name
    assert not np.array_equal(different[main], inputs[main])

    masks = [tensor for tensor in inputs if tensor.endswith("mask")]
    assert generator.can_pad == bool(masks)
    rows = {**base, **{dim: 4 for dim in base if dim.endswith("batch_size")}}
    if masks:
        padded = generator.make(rows, padded=True)
        for mask in masks:
            lines = padded[mask].reshape(-1, base["sequence_length"]) if "num_choices" in base else padded[mask]
            assert (lines[0] == 1).all()  # the first row is full
            assert all((line == 0).any() for line in lines[1:]), mask  # every other is not
            assert padded[mask].shape == generator.make(rows)[mask].shape
    if "input_ids" in inputs and to_export.pipeline.tokenizer is not None:
        # The vocabulary is reached beyond the words of the sample sentences.
        assert len(np.unique(generator.make(rows)["input_ids"])) > 8
