"""Static int8: products and convolutions on integers, with scales of activations that were measured beforehand.

The graph has QuantizeLinear and DequantizeLinear around each product with a weight (QDQ), which ONNX Runtime and other
run times fuse into integer products. Activations are uint8, weights int8 with a scale for each output, chosen so that
16-bit sums of two products never overflow (`weight_ranges`). Products of two activations stay float32, and so do those
of a `Plan`. Activations with outliers are smoothed before (`smoothing`). Rows of tables
are read from blocks of 8 bits (`table_rows`): with one scale for a whole table, embeddings lose three times as much as
in all products.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.graph.inputs import Arrays
from onnxport.graph.quantization.quantize import own_copy, own_folder, require_quantizer_memory
from onnxport.publishing.destination import full_disk_told

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.graph.quantization.smoothing import Array

# Name of a method of calibration -> what ONNX Runtime calls it.
METHODS: Mapping[str, str] = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
_OPERATORS = ("MatMul", "Gemm", "Conv")
_PRODUCTS = ("MatMul", "Gemm")  # ONNX Runtime has integer products with float32 results, but no such convolution
_TABLE_BITS = 8


@dataclass(frozen=True)
class Plan:
    """What is done to single activations.

    Attributes:
        factors: by the names of activations, powers of two that they are divided by; see `smoothing.smooth`.
        float_products: names of nodes that stay float32.
    """

    factors: Mapping[str, Array] = field(default_factory=dict)
    float_products: tuple[str, ...] = ()


class _Calls:
    """What ONNX Runtime's calibration reads its inputs from: a `CalibrationDataReader`.

    Args:
        calls: arrays by the names of the inputs.
        known: names of the graph's inputs.
    """

    def __init__(self, calls: Sequence[Arrays], known: set[str]) -> None:
        self._calls = [{name: array for name, array in call.items() if name in known} for call in calls]
        self._left: Iterator[Arrays] = iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = iter(self._calls[start_index:end_index])

    def get_next(self) -> Arrays | None:
        return next(self._left, None)


def quantize_static(
    source: Path, target: Path, calls: Sequence[Arrays], method: str = "minmax", plan: Plan | None = None
) -> None:
    """Write `target`: products and convolutions with weights of 8 bits and activations of 8 bits.

    Args:
        source: a float32 graph.
        target: the file to write.
        calls: inputs that the scales of activations are measured on, arrays by names.
        method: a key of `METHODS`.
        plan: what is done to single activations; None rounds all of them as they are.

    Raises:
        MemoryLimitError: the weights do not fit in memory.
        OSError: `target` cannot be written.
        VerificationError: a weight of the quantizer is outside of the ranges; `target` must not be used.
    """
    require_quantizer_memory(source)
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize

    from onnxport.graph.quantization.saturation import require_exact_sums
    from onnxport.graph.quantization.weight_only import load_graph
    from onnxport.graph.quantization.weight_ranges import find_weight_ranges
    from onnxport.serialization.onnxfile import write_model
    from onnxport.system.output_capture import capture_thread

    plan = plan or Plan()
    known = {value.name or "" for value in load_graph(source).graph.inputs}
    ranges = find_weight_ranges(source, plan.factors, convolutions=True)
    with _own_graph(source, target.parent, plan) as copy, full_disk_told(target):
        made = copy.with_name("static.onnx")
        with capture_thread():  # it prints what it is doing
            quantize(
                str(copy), str(made), _Calls(calls, known), quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_OPERATORS), per_channel=True, reduce_range=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                nodes_to_exclude=[*ranges.excluded_nodes, *plan.float_products],
                calibrate_method=CalibrationMethod[METHODS[method]],
                extra_options={
                    "TensorQuantOverrides": ranges.overrides, "MatMulConstBOnly": True,
                    "OpTypesToExcludeOutputQuantization": list(_PRODUCTS),
                    "CalibStridedMinMax": 1,  # one call at a time; calls have different shapes
                },
            )  # fmt: skip
        model = load_graph(made)
        _round_products_alone(model)
        _round_tables(model)
        write_model(model, target, external=False)
    require_exact_sums(target, "Report this model.", "Nothing was written.")


@contextmanager
def _own_graph(source: Path, folder: Path, plan: Plan) -> Iterator[Path]:
    """The graph, smoothed if there are factors, in a temporary folder in `folder`."""
    if not plan.factors:
        with own_copy(source, folder) as copy:
            yield copy
        return
    from onnxport.artifact.data_files import data_files
    from onnxport.graph.quantization.smoothing import smooth
    from onnxport.graph.quantization.weight_only import load_graph
    from onnxport.serialization.onnxfile import write_model

    model = load_graph(source)
    smooth(model, plan.factors)
    with own_folder(folder) as own:
        write_model(model, own / source.name, external=bool(data_files(source)))
        yield own / source.name


def _round_products_alone(model: ir.Model) -> None:
    """Let what is no product read the activation before it is rounded, in place.

    ONNX Runtime's quantizer gives the rounded values to all that read an activation: the sums of residuals too, where
    the errors of all layers add up.
    """
    for node in list(model.graph):
        if node.op_type != "DequantizeLinear" or (integers := node.inputs[0]) is None:
            continue
        rounding = integers.producer()
        before = rounding.inputs[0] if rounding is not None and rounding.op_type == "QuantizeLinear" else None
        users = list(node.outputs[0].uses())
        if before is None or not any(user.op_type in _PRODUCTS for user, _ in users):
            continue
        for user, index in users:
            if user.op_type not in _OPERATORS:
                user.replace_input_with(index, before)


def _round_tables(model: ir.Model) -> None:
    """Read rows of tables that nothing else reads from blocks, in place."""
    from onnxport.graph.quantization.block_tensors import BlockWeight
    from onnxport.graph.quantization.weight_only import INT8_ACTIVATIONS, find_weights, replace_weight

    for weight in find_weights(model):
        tensor: Any = weight.value.const_value
        if all(user.op_type == "Gather" for user in weight.users):
            blocks = BlockWeight(tensor, weight.value.name or "", _TABLE_BITS, by_row=weight.by_row)
            replace_weight(model, weight, blocks, INT8_ACTIVATIONS)
