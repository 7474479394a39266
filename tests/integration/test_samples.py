"""Samples have exactly the sizes that were asked for, are reproducible, and padded where they say so."""

from __future__ import annotations

import numpy as np
import pytest

from onnxport.dummy_inputs.base import base_sizes
from onnxport.loading.subject import load_subject
from onnxport.system.output_capture import quiet
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
    with quiet():
        subject = load_subject(None, save(name, tmp_path / "m"), None, TINY[name].task, None, {})
    sampler = subject.sampler
    base = base_sizes(sampler)
    inputs = sampler.make(base)
    assert set(inputs) <= (subject.source.accepts() or set(inputs))
    lengths = {size for array in inputs.values() for size in array.shape}
    for knob in sampler.knobs:
        other = sampler.make({**base, knob.name: knob.others[0]})
        moved = {
            (tensor, axis): (inputs[tensor].shape[axis], size)
            for tensor, array in other.items()
            for axis, size in enumerate(array.shape)
            if inputs[tensor].shape[axis] != size
        }
        assert set(moved.values()) == {(base[knob.name], knob.others[0])}, knob.name
    assert set(base.values()) <= lengths

    again = sampler.make(base)
    assert all(np.array_equal(again[tensor], array) for tensor, array in inputs.items())
    different = sampler.make(base, seed=1)
    main = "input_ids" if "input_ids" in inputs else subject.source.model.main_input_name
    assert not np.array_equal(different[main], inputs[main])

    masks = [tensor for tensor in inputs if tensor.endswith("mask")]
    assert sampler.can_pad == bool(masks)
    rows = {**base, **{knob: 4 for knob in base if knob.endswith("batch_size")}}
    if masks:
        padded = sampler.make(rows, padded=True)
        for mask in masks:
            lines = padded[mask].reshape(-1, base["sequence_length"]) if "num_choices" in base else padded[mask]
            assert (lines[0] == 1).all()  # the first row is full
            assert all((line == 0).any() for line in lines[1:]), mask  # every other is not
            assert padded[mask].shape == sampler.make(rows)[mask].shape
    if "input_ids" in inputs and subject.nlp.tokenizer is not None:
        # The vocabulary is reached beyond the words of the sample sentences.
        assert len(np.unique(sampler.make(rows)["input_ids"])) > 8
