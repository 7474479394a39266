"""Mistakes in a graph of fixed sizes, or in the run time's use of it, are found before anything is written."""

from __future__ import annotations

import numpy as np
import pytest

from onnxport import optimize
from onnxport.errors import ExportError, VerificationError
from onnxport.graph.static_shapes import static_graph
from onnxport.runtime.cache.static_cache import StaticCache
from onnxport.variants.static_shapes import write as fixed_module
from tests.files import files_of

pytestmark = pytest.mark.integration

SIZES = {"batch_size": 2, "sequence_length": 3, "past_sequence_length": 29}


@pytest.fixture
def copy(converted, tmp_path):
    return converted("llama", {"tokenizer": "modernbert"}).copy(tmp_path / "out")


def cut_at_the_front(monkeypatch):
    """The states that are given back are the first places, not the last."""
    right = static_graph._keep_last

    def first(model, state):
        right(model, state)
        for what, number in (("start", 0), ("end", state.size)):
            name = next(n for n in model.graph.initializers if n.startswith(f"window.{what}."))
            model.graph.initializers[name].const_value = fixed_sizes_tensor(number)

    monkeypatch.setattr(static_graph, "_keep_last", first)


def fixed_sizes_tensor(number):
    import onnx_ir as ir

    return ir.tensor(np.array([number], np.int64))


def blind_graph(monkeypatch):
    """The graph does not look at its mask."""
    import onnx_ir as ir

    right = fixed_module.make_static

    def made(*args, **kwargs):
        found = right(*args, **kwargs)
        mask = next(v for v in found.model.graph.inputs if v.name == "attention_mask")
        ones = ir.tensor(np.ones(mask.shape.numpy(), np.int64), name="ones")
        value = ir.Value(name="ones", const_value=ones, shape=mask.shape, type=mask.type)
        found.model.graph.register_initializer(value)
        for node, place in list(mask.uses()):
            node.replace_input_with(place, value)
        return found

    monkeypatch.setattr(fixed_module, "make_static", made)


def visible_padding(monkeypatch):
    """The run time lets unused places be seen."""
    right = StaticCache.pad_input

    def seen(self, name, array, held):
        found = right(self, name, array, held)
        if name == "attention_mask":
            found[:, : self.past - held] = 1
        return found

    monkeypatch.setattr(StaticCache, "pad_input", seen)


def unmoved_window(monkeypatch):
    """The run time keeps one token less than a call of few tokens had."""
    right = StaticCache.slide

    def moved(self, old, new, place, count):
        return right(self, old, new, place, max(0, count - 1))

    monkeypatch.setattr(StaticCache, "slide", moved)


@pytest.mark.parametrize("mistake", [cut_at_the_front, blind_graph, visible_padding, unmoved_window])
def test_a_mistake_is_found_and_nothing_is_written(copy, monkeypatch, mistake):
    before = files_of(copy)
    mistake(monkeypatch)
    with pytest.raises(VerificationError, match=r"model_fixed\.onnx differs from model\.onnx"):
        optimize(copy, sizes=SIZES)
    assert files_of(copy) == before


def test_an_output_whose_size_follows_from_numbers_is_refused(copy, monkeypatch):
    right = static_graph.measure_shapes

    def unknown(model, source):
        right(model, source)
        next(v for v in model.graph.outputs if v.name == "logits").shape = None
        return ("logits (NonZero)",)

    monkeypatch.setattr(static_graph, "measure_shapes", unknown)
    before = files_of(copy)
    with pytest.raises(ExportError, match=r"size of the output logits depends on input values .*NonZero"):
        optimize(copy, sizes=SIZES)
    assert files_of(copy) == before
