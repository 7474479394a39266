"""`optimize` and `quantize`: further graphs, made from those that were converted.

The source model is not needed: a new graph is compared with the graph that it was made from, at the sizes at which that
one was verified. In a folder each float32 graph gets a further component, and the folder is replaced as a whole. Beside
a single graph a further file is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxport.errors import UsageError, nothing_written
from onnxport.graph.optimize import optimize_graph
from onnxport.graph.quantization.quantize import find_precision, quantize_dynamic, write_weight_only
from onnxport.serialization.written_model import WrittenModel
from onnxport.system.requirements import require_graph_tools
from onnxport.variants.rewrite import Rewrite, add_variant

_BITS = 32  # of a weight that was not quantized


@nothing_written()
def optimize(path: str | Path, for_: str | None = None, sizes: Mapping[str, int] | None = None) -> Path:
    """Store ONNX Runtime's fused graph: `onnx/model_optimized.onnx` in a folder, `-optimized` beside a file.

    Args:
        for_: "cpu" makes a decoder for that processor instead, `onnx/model_fused.onnx`.
        sizes: axis -> size, for every dynamic axis: makes graphs with static shapes instead, `onnx/model_fixed.onnx`;
            see `variants.static_shapes.write.fix_sizes`.

    Returns:
        The file that was written; of several the last, which is the decoder's.

    Raises:
        FolderError: no such folder or file, or it is damaged.
        UsageError, ExportError: with `for_`, another processor, or a graph that cannot be fused; with `sizes`, an
            axis or a size that cannot be made static.
        VerificationError: the outputs of a new graph differ from those of the graph that it was made from. Nothing
            was written.
        MissingDependencyError: the packages that change graphs are not installed.
    """
    require_graph_tools()
    if sizes is not None:
        from onnxport.variants.static_shapes.write import fix_sizes

        if for_ is not None:
            raise UsageError(
                f"One call makes graphs for {for_!r} or graphs with static shapes, not both.",
                hint="Call it twice: each graph is a file of its own.",
            )
        return fix_sizes(path, sizes)
    if for_ is not None:
        from onnxport.variants.fused import optimize_for

        return optimize_for(Path(path).expanduser(), for_)
    return add_variant(Path(path).expanduser(), Rewrite("optimized", "float32", _optimize, size=1.0))


@nothing_written()
def quantize(path: str | Path, precision: str = "int8", *, float_activations: bool = False) -> Path:
    """Store quantized graphs beside the float32 ones: in a folder, or beside a file.

    Args:
        path: a folder that onnxport wrote, or an `.onnx` file.
        precision: "int8" quantizes weights, and activations at run time (`onnx/model_quantized.onnx`);
            "int4" (`onnx/model_q4.onnx`) and "int8-weights" (`onnx/model_int8.onnx`) quantize the weights alone, in
            blocks of 32.
        float_activations: with quantized weights: the activations stay float32 instead of being quantized to 8 bits.
            Slower: two to three times with int4, and far more with int8-weights.

    Returns:
        The file that was written; of several the last, which is the decoder's.

    Raises:
        UsageError: no such precision, `float_activations` with "int8", or no weight that can be quantized.
        FolderError: no such folder or file, or it is damaged.
        VerificationError: its outputs differ by more than the tolerance from those of the graph that it was made from
            (of "int4" and "int8-weights": of that graph with the quantized weights). Nothing was written.
        MissingDependencyError: the packages that change graphs are not installed.
    """
    require_graph_tools()
    row = find_precision(precision)
    bits = row.bits
    if bits is None:
        if float_activations:
            raise UsageError(
                "Dynamic int8 always quantizes activations.",
                hint="For float32 activations choose another precision: --precision int8-weights, or int4.",
            )
        step = Rewrite(row.suffix, precision, _quantize, size=8 / _BITS)
    else:

        def rounded(sources: Sequence[Path], targets: Sequence[Path], taken: frozenset[str]) -> list[WrittenModel]:
            return write_weight_only(sources, targets, bits, float_activations=float_activations, taken=taken)

        hint = "" if float_activations else "Try float32 activations: --float-activations (float_activations=True)."
        step = Rewrite(row.suffix, precision, rounded, bits / _BITS, hint, fused_too=True)
    return add_variant(Path(path).expanduser(), step)


def _optimize(sources: Sequence[Path], targets: Sequence[Path], taken: frozenset[str]) -> None:
    for source, target in zip(sources, targets, strict=True):
        optimize_graph(source, target, taken)


def _quantize(sources: Sequence[Path], targets: Sequence[Path], taken: frozenset[str]) -> None:
    for source, target in zip(sources, targets, strict=True):
        quantize_dynamic(source, target)  # one file
