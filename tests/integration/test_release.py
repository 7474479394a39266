"""A conversion lets go of the weights before ONNX Runtime loads them, or they are in memory twice."""

import gc
import weakref

import pytest

from onnxport.api.build_graph import build_graph
from onnxport.export.signature import infer_signature
from onnxport.loading.subject import load_subject
from onnxport.system.output_capture import quiet
from tests.tiny import save

pytestmark = pytest.mark.integration


def test_no_weight_survives_release(tmp_path):
    with quiet():
        subject = load_subject(None, save("bert-fill-mask", tmp_path / "m"), None, "auto", None, {})
        weights = [weakref.ref(parameter) for parameter in subject.source.model.parameters()]
        graph = build_graph(subject.source, infer_signature(subject.source, subject.sampler), 23)
        assert all(weight() is not None for weight in weights)
        graph.release()
        subject.release()
    gc.collect()
    assert [weight for weight in weights if weight() is not None] == []
