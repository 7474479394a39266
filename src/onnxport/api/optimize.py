"""`optimize` and `quantize`: further graphs, made from those that were converted.

The source model is not needed: a new graph is compared with the graph that it was made from, at the sizes at which that
one was verified. In a folder each float32 graph gets a further component, and the folder is replaced as a whole. Beside
a single graph a further file is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from onnxport.errors import UsageError, nothing_written
from onnxport.graph.optimize import optimize_graph
from onnxport.graph.quantization.quantize import (
    Precision,
    find_precision,
    quantize_dynamic,
    write_kept,
    write_nf4,
)
from onnxport.progress import Reporter
from onnxport.serialization.written_model import WrittenModel
from onnxport.system.requirements import require_graph_tools
from onnxport.tensor_names import is_past
from onnxport.variants.rewrite import Rewrite, add_variant
from onnxport.variants.weight_only import WeightOnly

_BITS = 32  # of a weight that was not quantized
_BLOCKS = ("int4", "int8-weights")  # precisions of weights in blocks whose activations can have 8 bits


@nothing_written()
def optimize(
    path: str | Path, for_: str | None = None, sizes: Mapping[str, int] | None = None, *,
    precision: str | None = None, max_loss: float | None = None, data: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Path:  # fmt: skip
    """Store ONNX Runtime's fused graph: `onnx/model_optimized.onnx` in a folder, `-optimized` beside a file.

    Args:
        for_: "cpu" makes a decoder for that processor instead, `onnx/model_fused.onnx`. For other graphs, and with
            any of the arguments below: "cpu", "cuda", "webgpu" or "portable" makes candidates, measures their speed
            (not of "cuda" and "webgpu") and loss, and stores the fastest within the budget. The manifest's `tuning`
            says what was measured.
        sizes: axis -> size, for every dynamic axis: makes graphs with static shapes instead, `onnx/model_fixed.onnx`;
            see `variants.static_shapes.write.fix_sizes`.
        precision: "auto" for all that the target runs, "fp32", or one of `quantize`.
        max_loss: share of labels or tokens that may change, or of cosine similarity that embeddings may lose; 0.01 by
            default.
        data: a file with a text in each line; by default loss is measured on 211 sentences in 30 languages.
        reporter: told what is being done.

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
    path = Path(path).expanduser()
    if precision is not None or max_loss is not None or data is not None or _needs_candidates(path, for_):
        from onnxport.api.tune import MAX_LOSS, Request, tune
        from onnxport.artifact.folder import open_folder

        if sizes is not None:
            raise UsageError(
                "Graphs with static shapes have no candidates.", hint="Leave out --sizes, or give it alone."
            )
        request = Request(
            for_ or "cpu", precision or "auto", MAX_LOSS if max_loss is None else max_loss,
            Path(data).expanduser() if data is not None else None,
        )  # fmt: skip
        return tune(open_folder(path), request, _candidate, reporter)
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

        return optimize_for(path, for_)
    return add_variant(path, Rewrite("optimized", "float32", _optimize, size=1.0))


def _candidate(path: Path, precision: str) -> Path:
    """Add the graphs of one precision to a folder."""
    return optimize(path) if precision == "float32" else quantize(path, precision)


def _needs_candidates(path: Path, for_: str | None) -> bool:
    """Whether `for_` names a target whose graph is chosen by measuring: any but the CPU for a decoder."""
    from onnxport.api.tune import TARGETS
    from onnxport.artifact.folder import open_folder

    if for_ is None or for_ not in TARGETS or (path.suffix == ".onnx" and not path.is_dir()):
        return False
    if for_ != "cpu":
        return True
    base = open_folder(path).manifest.find("model")
    return base is not None and not any(is_past(spec.name) for spec in base.inputs)


@nothing_written()
def quantize(
    path: str | Path,
    precision: str = "int8",
    *,
    float_activations: bool = False,
    checkpoint: str | Path | None = None,
    calibration: str | None = None,
    data: str | Path | None = None,
) -> Path:
    """Store quantized graphs beside the float32 ones: in a folder, or beside a file.

    Args:
        path: a folder that onnxport wrote, or an `.onnx` file.
        precision: "int8" quantizes weights, and activations at run time (`onnx/model_quantized.onnx`); "uint8" the
            same with unsigned weights (`onnx/model_uint8.onnx`).
            "int4" (`onnx/model_q4.onnx`) and "int8-weights" (`onnx/model_int8.onnx`) quantize the weights alone, in
            blocks of 32. "fp16" computes in float16 what float16 can hold, and takes and gives float32
            (`onnx/model_fp16.onnx`). "bnb4" has weights of 4 bits as bitsandbytes has them, nf4
            (`onnx/model_bnb4.onnx`). "q4f16" has weights of 4 bits in blocks of 32 and computes in float16
            (`onnx/model_q4f16.onnx`).
            "int8-static" is int8 with scales of activations that are measured beforehand, for encoders
            (`onnx/model_int8_static.onnx`).
        float_activations: with quantized weights: the activations stay float32 instead of being quantized to 8 bits.
            Slower: two to three times with int4, and far more with int8-weights.
        checkpoint: with "int4" and "int8-weights": the checkpoint that the folder was converted from with
            `dequantize`. Its integers, scales and zero points are kept, and nothing is rounded; other weights and the
            activations stay float32.
        calibration: with "int8-static": how the range of an activation follows from its values: "minmax" (the
            default), "percentile" (99.999) or "entropy".
        data: with "int8-static": the samples that are measured, of which half are used to measure the loss. A text in
            each line, or an `.npz` file with an array for each input of the graph. By default 211 sentences, and
            generated images and sounds.

    Returns:
        The file that was written; of several the last, which is the decoder's.

    Raises:
        UsageError: no such precision, an argument that it has not, "int8-static" for a decoder, or no weight that can
            be quantized (or kept).
        CheckpointError: `checkpoint` cannot be read.
        FolderError: no such folder or file, or it is damaged.
        VerificationError: its outputs differ by more than the tolerance from those of the graph that it was made from
            (of weights in blocks: of that graph with the quantized weights). Nothing was written.
        MissingDependencyError: the packages that change graphs are not installed.
    """
    require_graph_tools()
    row, path = find_precision(precision), Path(path).expanduser()
    _require_fitting(row, float_activations=float_activations, calibrated=calibration is not None or data is not None)
    if checkpoint is not None:
        return _keep(path, row, checkpoint)
    match row.name:
        case "float16" | "q4f16":
            from onnxport.variants.half import add_half, add_half_blocks

            return add_half(path) if row.name == "float16" else add_half_blocks(path)
        case "int8-static":
            from onnxport.variants.static_int8 import add_static_int8

            samples = Path(data).expanduser() if data is not None else None
            return add_static_int8(path, calibration or "minmax", samples)
        case "bnb4":
            return add_variant(path, Rewrite(row.suffix, row.name, write_nf4, 4 / _BITS))
        case "int8" | "uint8":
            return add_variant(path, Rewrite(row.suffix, row.name, partial(_quantize, row.name == "uint8"), 8 / _BITS))
        case _:
            return _add_weight_only(path, row, float_activations)


def _require_fitting(row: Precision, *, float_activations: bool, calibrated: bool) -> None:
    """Raises UsageError for arguments that the precision has not."""
    if calibrated and row.name != "int8-static":
        raise UsageError(
            f"{row.name} is not calibrated: the scales of activations are computed at run time, or there are none.",
            hint="Leave out --calibration and --data, or choose --precision int8-static.",
        )
    if not float_activations or row.name in _BLOCKS:
        return
    if row.name in ("float16", "q4f16"):
        raise UsageError(f"A {row.name} graph has no quantized activations.", hint="Leave out --float-activations.")
    if row.name == "bnb4":
        raise UsageError("bnb4 always keeps activations in float32.", hint="Leave out --float-activations.")
    raise UsageError(
        f"{'Static' if row.name == 'int8-static' else 'Dynamic'} {row.name.removesuffix('-static')} always quantizes "
        "activations.",
        hint="For float32 activations choose another precision: --precision int8-weights, or int4.",
    )


def _add_weight_only(path: Path, row: Precision, float_activations: bool) -> Path:
    assert row.bits is not None
    weights = WeightOnly(path, row.bits, float_activations)
    hint = "" if float_activations else "Try float32 activations: --float-activations (float_activations=True)."
    size = row.bits / _BITS
    return add_variant(
        path, Rewrite(row.suffix, row.name, weights.write, size, hint, fused_too=True, about=weights.about)
    )


def _keep(path: Path, row: Precision, checkpoint: str | Path) -> Path:
    """Store graphs with the integers of a quantized checkpoint."""
    from onnxport.checkpoints.checkpoint import inspect_checkpoint, judge_quantized
    from onnxport.weights.checkpoint_reader import CheckpointReader

    bits = row.bits
    if bits is None or row.name not in _BLOCKS:
        raise UsageError(
            f"The precision {row.name} has no integers of a checkpoint.",
            hint="With --checkpoint, choose --precision int4 or int8-weights.",
        )
    found = judge_quantized(inspect_checkpoint(checkpoint), dequantize=True)
    if found.quantized is None:
        raise UsageError(
            f"The weights of {found.source} are not quantized.", hint="Quantize them: leave --checkpoint out."
        )
    reader = CheckpointReader(found.weight_files, found.weights_format, "", found.quantized.weights)

    def kept(sources: Sequence[Path], targets: Sequence[Path], taken: frozenset[str]) -> list[WrittenModel]:
        return write_kept(sources, targets, reader, bits, taken)

    return add_variant(path, Rewrite(row.suffix, row.name, kept, bits / _BITS, compared_as="float32"))


def _optimize(sources: Sequence[Path], targets: Sequence[Path], taken: frozenset[str]) -> None:
    for source, target in zip(sources, targets, strict=True):
        optimize_graph(source, target, taken)


def _quantize(unsigned: bool, sources: Sequence[Path], targets: Sequence[Path], taken: frozenset[str]) -> None:
    for source, target in zip(sources, targets, strict=True):
        quantize_dynamic(source, target, unsigned=unsigned)  # one file
