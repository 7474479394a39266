"""Write quantized graphs: dynamic int8 with ONNX Runtime's quantizer, weight-only int4 and int8 in blocks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.artifact.data_files import data_files, files_read_by, graph_bytes
from onnxport.errors import UsageError, did_you_mean
from onnxport.publishing.destination import full_disk_told
from onnxport.system.memory import require_memory

if TYPE_CHECKING:
    from onnxport.serialization.written_model import WrittenModel
    from onnxport.weights.checkpoint_reader import CheckpointReader


@dataclass(frozen=True)
class Precision:
    """One row of `PRECISIONS`.

    Attributes:
        suffix: suffix of the graph's name, "model_q4.onnx"; the dtype of transformers.js.
        bits: bits of a weight for weight-only quantization; None where activations are quantized too, and for float16.
        title: title of the step.
    """

    suffix: str
    bits: int | None
    title: str

    @property
    def name(self) -> str:
        """Its key in `PRECISIONS`."""
        return next(name for name, row in PRECISIONS.items() if row is self)


PRECISIONS = {
    "int8": Precision("quantized", None, "Quantize to int8"),
    "uint8": Precision("uint8", None, "Quantize to uint8"),
    "int8-static": Precision("int8_static", None, "Calibrate and quantize to int8"),
    "int4": Precision("q4", 4, "Quantize weights to int4"),
    "int8-weights": Precision("int8", 8, "Quantize weights to int8"),
    "q4f16": Precision("q4f16", 4, "Quantize weights to int4, compute in float16"),
    "bnb4": Precision("bnb4", 4, "Quantize weights to nf4"),
    "float16": Precision("fp16", None, "Convert to float16"),
}

_ALIASES = {"fp16": "float16"}

# Names of weight-only precisions.
WEIGHT_ONLY = frozenset(name for name, row in PRECISIONS.items() if row.bits is not None)


# ONNX Runtime's quantizer holds the weights as protobuf, as arrays, and once more as its output.
QUANTIZER_COPIES = 3


@dataclass
class _Loaded:
    model: Any


def find_precision(name: str) -> Precision:
    """Return the row of a precision.

    Args:
        name: a key of `PRECISIONS`.

    Raises:
        UsageError: there is no such precision.
    """
    name = _ALIASES.get(name, name)
    if name not in PRECISIONS:
        raise UsageError(
            f"The precision {name!r} does not exist.",
            hint=did_you_mean(name, PRECISIONS) or f"Use one of {', '.join(PRECISIONS)}.",
        )
    return PRECISIONS[name]


def quantized_name(name: str, *, single: bool) -> str:
    """Return the file name of a dynamically quantized graph; the suffix goes before the last extension.

    Args:
        name: file name of the float32 graph.
        single: whether it is a single graph: `model-quantized.onnx`. In a folder it is `model_quantized.onnx`, as
            transformers.js expects.
    """
    path = Path(name)
    return f"{path.stem}{'-' if single else '_'}quantized{path.suffix}"


def require_quantizer_memory(source: Path) -> None:
    """Raises MemoryLimitError where ONNX Runtime's quantizer has no room for the weights of a graph."""
    require_memory(
        QUANTIZER_COPIES * graph_bytes(source), f"Quantizing {source.name} to int8",
        "Quantize only its weights, one at a time: onnxport quantize PATH --precision int8-weights.",
    )  # fmt: skip


def quantize_dynamic(source: Path, target: Path, *, unsigned: bool = False) -> None:
    """Write `target`: weights of MatMul and Gemm in 8 bits per column, activations quantized at run time.

    Weights are signed by default, because processors have integer instructions for signed weights. Their ranges are
    chosen so that no processor gives wrong results (`weight_ranges`, `saturation`). Products of unsigned numbers are
    added in 32 bits, so that unsigned weights have the full range, with a zero point.

    Args:
        source: a float32 graph.
        target: the file to write.
        unsigned: write uint8 weights.

    Raises:
        MemoryLimitError: the weights do not fit in memory.
        OSError: `target` cannot be written.
        VerificationError: a weight of the quantizer is outside of these ranges; `target` must not be used.
    """
    require_quantizer_memory(source)
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as quantize

    from onnxport.graph.quantization.saturation import require_exact_sums
    from onnxport.graph.quantization.weight_ranges import find_weight_ranges

    ranges = find_weight_ranges(source)
    with own_copy(source, target.parent) as copy, full_disk_told(target):
        quantize(
            str(copy),
            str(target),
            weight_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            per_channel=True,
            reduce_range=not unsigned,  # for weights without an own range
            op_types_to_quantize=["MatMul", "Gemm", *([] if ranges.table_products else ["Gather"])],
            nodes_to_exclude=list(ranges.excluded_nodes),
            extra_options={} if unsigned else {"TensorQuantOverrides": ranges.overrides},
        )
    require_exact_sums(target, "Report this model.", "Nothing was written.")


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".quantizing-") as name:
        yield Path(name)


@contextmanager
def own_copy(graph: Path, folder: Path) -> Iterator[Path]:
    """The graph in a temporary folder in `folder`: ONNX Runtime's quantizer writes a file beside the graph it reads.

    That file would stay in the user's folder if the process is killed. The graph is linked; the files that it has
    weights in, which may be those of another graph, are copied, because onnx reads no linked ones.

    Raises:
        OSError: it cannot be copied.
    """
    with own_folder(folder) as own:
        copy = own / graph.name
        try:
            copy.hardlink_to(graph)
        except OSError:  # no links on this file system, or between these
            shutil.copyfile(graph, copy)
        for data in files_read_by(graph):
            shutil.copyfile(data, copy.with_name(data.name))
        yield copy


def write_weight_only(
    sources: Sequence[Path],
    targets: Sequence[Path],
    bits: int,
    *,
    float_activations: bool = False,
    raised: Sequence[Collection[str]] = (),
    taken: frozenset[str] = frozenset(),
) -> list[WrittenModel]:
    """Write graphs of one folder with weights of 4 or 8 bits in blocks; weights that they share are stored once.

    One weight is in memory at a time. Weights are stored beside a graph if those of a source are.

    Args:
        sources: float32 graphs.
        targets: a file for each graph, in one folder.
        bits: bits of a weight, 4 or 8.
        float_activations: compute products with float32 activations instead of 8-bit ones.
        raised: for each graph, names of weights that get 8 bits.
        taken: names that no data file may have.

    Raises:
        UsageError: a graph has no weight that can be quantized.
        OutputError: there is not enough space.
    """
    from onnxport.graph.quantization.weight_only import (
        FLOAT_ACTIVATIONS,
        INT8_ACTIVATIONS,
        load_graph,
        quantize_weights,
    )

    graphs = [_Loaded(load_graph(source)) for source in sources]
    level = FLOAT_ACTIVATIONS if float_activations else INT8_ACTIVATIONS
    counts = [
        quantize_weights(graph.model, bits, level, names)
        for graph, names in zip(graphs, raised or [()] * len(graphs), strict=True)
    ]
    _require_weights(sources, counts)
    return _written(graphs, sources, targets, taken)


def write_half_blocks(
    sources: Sequence[Path], targets: Sequence[Path], ranges: Sequence[Mapping[str, float]],
    kept: Sequence[Collection[str]], operators: Collection[str], taken: frozenset[str],
) -> list[WrittenModel]:  # fmt: skip
    """Write graphs of one folder with weights of 4 bits in blocks that compute in float16.

    Args:
        sources: float32 graphs.
        targets: a file for each graph, in one folder.
        ranges: for each graph, name of a value -> largest absolute value that was measured.
        kept: for each graph, names of weights that become float16 instead.
        operators: that stay float32, besides those that must.
        taken: names that no data file may have.

    Raises:
        UsageError: a graph has no weight that can be quantized.
        OutputError: there is not enough space.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    from onnxport.graph.quantization.half import use_half
    from onnxport.graph.quantization.weight_only import HALF_ACTIVATIONS, load_graph, quantize_weights

    graphs, counts = [_Loaded(load_graph(source)) for source in sources], []
    for graph, values, names in zip(graphs, ranges, kept, strict=True):
        counts.append(quantize_weights(graph.model, 4, HALF_ACTIVATIONS, names, half=True))
        use_half(graph.model, values, operators)
        RemoveUnusedNodesPass()(graph.model)
    _require_weights(sources, counts)
    return _written(graphs, sources, targets, taken)


def write_nf4(sources: Sequence[Path], targets: Sequence[Path], taken: frozenset[str]) -> list[WrittenModel]:
    """Write graphs of one folder with weights of 4 bits as bitsandbytes has them; see `nf4`.

    Args:
        sources: float32 graphs.
        targets: a file for each graph, in one folder.
        taken: names that no data file may have.

    Raises:
        UsageError: a graph has no weight that can be quantized.
        OutputError: there is not enough space.
    """
    from onnxport.graph.quantization.nf4 import use_nf4
    from onnxport.graph.quantization.weight_only import load_graph

    graphs = [_Loaded(load_graph(source)) for source in sources]
    _require_weights(sources, [use_nf4(graph.model) for graph in graphs], "MatMul and Gemm")
    return _written(graphs, sources, targets, taken)


def _require_weights(
    sources: Sequence[Path], counts: Sequence[int], readers: str = "MatMul, Gemm and Gather"
) -> None:  # fmt: skip
    """Raises UsageError for a graph without a weight that can be quantized."""
    bare = next((source for source, count in zip(sources, counts, strict=True) if not count), None)
    if bare is not None:
        raise UsageError(
            f"{bare.name} has no weight for weight-only quantization: a matrix of at least 32 by 16 that only "
            f"{readers} read.",
            hint="Use dynamic int8: `onnxport quantize PATH`.",
        )


def write_kept(
    sources: Sequence[Path], targets: Sequence[Path], reader: CheckpointReader, bits: int, taken: frozenset[str]
) -> list[WrittenModel]:
    """Write graphs of one folder with the integers that a checkpoint stores for their weights.

    Args:
        sources: float32 graphs of its dequantized weights.
        targets: a file for each graph, in one folder.
        reader: reads the checkpoint.
        bits: of the weights to replace, 4 or 8.
        taken: names that no data file may have.

    Raises:
        UsageError: no weight of the graphs is one of the checkpoint's.
        OutputError: there is not enough space.
    """
    from onnxport.graph.quantization.kept import keep_integers
    from onnxport.graph.quantization.weight_only import load_graph

    graphs = [_Loaded(load_graph(source)) for source in sources]
    if not sum(keep_integers(graph.model, reader, bits) for graph in graphs):
        raise UsageError(
            f"No weight of {sources[0].name} has integers of {bits} bits in the checkpoint that can be kept.",
            hint="Give the checkpoint that the folder was converted from with --dequantize; it must store GPTQ, AWQ or "
            f"packed weights of {bits} bits in groups that a power of two from 16 on divides.",
        )
    return _written(graphs, sources, targets, taken)


def _written(
    graphs: Sequence[_Loaded], sources: Sequence[Path], targets: Sequence[Path], taken: frozenset[str]
) -> list[WrittenModel]:
    from onnxport.graph.strip import strip
    from onnxport.graph.write import WeightFiles, write_graphs
    from onnxport.progress import Silent

    for graph in graphs:
        strip(graph.model)
    external = any(data_files(source) for source in sources)
    with Silent().step("write") as step:
        return write_graphs(graphs, targets, targets[0], WeightFiles(external=external, taken=taken), step)
