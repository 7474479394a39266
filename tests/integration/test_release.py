"""A conversion lets go of the weights before ONNX Runtime loads them, or they are in memory twice."""

import gc
import weakref

import pytest

from onnxport.api.build_graph import build_graph
from onnxport.export.signature import infer_signature
from onnxport.loading.model_to_export import load_model_to_export
from onnxport.loading.resolve import resolve_model
from onnxport.system.output_capture import capture_process
from tests.tiny import save

pytestmark = pytest.mark.integration


def test_no_weight_survives_release(tmp_path):
    with capture_process():
        to_export = load_model_to_export(resolve_model(save("bert-fill-mask", tmp_path / "m")))
        weights = [weakref.ref(parameter) for parameter in to_export.source.model.parameters()]
        graph = build_graph(to_export.source, infer_signature(to_export.source, to_export.generator), 23)
        assert all(weight() is not None for weight in weights)
        graph.release()
        to_export.release()
    gc.collect()
    assert [weight for weight in weights if weight() is not None] == []
