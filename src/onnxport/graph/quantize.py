"""Dynamic int8 quantization through onnxruntime."""

from __future__ import annotations

from pathlib import Path


def quantized_name(name: str, *, single: bool) -> str:
    """`model_quantized.onnx` in a folder (what transformers.js reads), `model-quantized.onnx` beside a
    single graph (what the original script wrote). The suffix goes before the last extension."""
    path = Path(name)
    return f"{path.stem}{'-' if single else '_'}quantized{path.suffix}"


def quantize_dynamic(source: Path, target: Path) -> None:
    """Write `target`: weights of MatMul and Gemm as int8 per column, activations quantized at run time.

    Signed weights with a reduced range lose less on processors without VNNI, where the 16-bit
    sums of two unsigned by signed products saturate.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    quantize(
        str(source),
        str(target),
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm", "Gather"],
    )
