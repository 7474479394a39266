"""Fourier transforms are as exact as torch's, at any number of points."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnxport.export.fixes.precise_fourier import precise_transforms

GRAPH = """
<ir_version: 10, opset_import: ["" : 17]>
mixed (float[rows, tokens, 3, 1] x) => (float[rows, tokens, 3, 2] y) {
  y = DFT<axis = 1>(x)
}
"""


def test_lengths_that_are_no_power_of_two() -> None:
    model = ir.from_onnx_text(GRAPH)
    x = np.random.default_rng(0).standard_normal((2, 500, 3, 1)).astype(np.float32)
    exact = np.fft.fft(x[..., 0].astype(np.float64), axis=1)

    def error() -> float:
        session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
        (found,) = session.run(None, {"x": x})
        assert found.dtype == np.float32
        return float(np.abs(found[..., 0] + 1j * found[..., 1] - exact).max() / np.abs(exact).max())

    before = error()
    assert precise_transforms(model) == 1
    onnx.checker.check_model(ir.to_proto(model))
    assert error() < 1e-7
    if before < 1e-7:
        pytest.skip("this ONNX Runtime computes transforms well; the repair is not needed with it")
