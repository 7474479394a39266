"""float16 variants, with or without weights of 4 bits: what overflows or loses too much is found by measuring.

Values are measured on real texts and random inputs. If the graph then differs from its base by more than the tolerance
of float16, normalizations, softmax and sums stay float32 too. Where weights of 4 bits would lose too much
(`sensitivity`), some become float16 instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from pathlib import Path

from onnxport.artifact.data_files import data_files, graph_bytes
from onnxport.artifact.folder import Folder, open_folder
from onnxport.errors import VerificationError
from onnxport.graph.inputs import Arrays, guess_sizes, random_inputs
from onnxport.graph.quantization.half import SENSITIVE, use_half
from onnxport.graph.quantization.quantize import write_half_blocks
from onnxport.serialization.written_model import WrittenModel
from onnxport.system.memory import require_memory
from onnxport.variants.rewrite import Rewrite, add_variant
from onnxport.variants.samples import sample_inputs
from onnxport.variants.weight_only import WeightOnly

_COPIES = 2  # of the weights: in ONNX Runtime, and rounded
_SIZE, _SIZE_OF_BLOCKS = 0.5, 0.14  # of the new weights, as a part of the old ones
_BITS = 4
_Measure = Callable[[Path], dict[str, float]]
_GUESSES = 3  # cases of a graph that nothing is known about


def add_half(path: Path) -> Path:
    """Store `onnx/model_fp16.onnx` in a folder, or `-fp16` beside a file.

    Returns:
        The file that was written; of several the last, which is the decoder's.

    Raises:
        FolderError: no such folder or file, or it is damaged.
        VerificationError: its outputs differ by more than the tolerance of float16.
    """
    measured = _measure_once(path)
    return _first_right(
        path, [Rewrite("fp16", "float16", partial(_write, measured, kept), _SIZE) for kept in ((), SENSITIVE)]
    )


def add_half_blocks(path: Path) -> Path:
    """Store `onnx/model_q4f16.onnx` in a folder, or `-q4f16` beside a file: weights of 4 bits, computed in float16.

    Returns:
        The file that was written; of several the last, which is the decoder's.

    Raises:
        FolderError: no such folder or file, or it is damaged.
        UsageError: a graph has no weight that can be quantized.
        VerificationError: its outputs differ from those of the float32 graph with the same weights by more than the
            tolerance of float16.
    """
    measured, weights = _measure_once(path), WeightOnly(path, _BITS, False)
    return _first_right(
        path,
        [
            Rewrite("q4f16", "q4f16", partial(_write_blocks, measured, weights, kept), _SIZE_OF_BLOCKS,
                    about=weights.about)
            for kept in ((), SENSITIVE)
        ],
    )  # fmt: skip


def _first_right(path: Path, steps: Sequence[Rewrite]) -> Path:
    last: VerificationError | None = None
    for step in steps:
        try:
            return add_variant(path, step)
        except VerificationError as error:
            if error.verification is None:  # of the ledger, or of a damaged folder
                raise
            last = error
    assert last is not None
    raise last


def _write_blocks(
    measured: _Measure, weights: WeightOnly, operators: Collection[str], sources: Sequence[Path],
    targets: Sequence[Path], taken: frozenset[str],
) -> list[WrittenModel]:  # fmt: skip
    ranges = [measured(source) for source in sources]
    kept = [weights.choose(source) for source in sources]
    return write_half_blocks(sources, targets, ranges, kept, operators, taken)


def _write(
    measured: _Measure, kept: Collection[str], sources: Sequence[Path], targets: Sequence[Path],
    taken: frozenset[str],
) -> list[WrittenModel] | None:  # fmt: skip
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    from onnxport.graph.quantization.weight_only import load_graph
    from onnxport.serialization.onnxfile import write_model

    for source, target in zip(sources, targets, strict=True):
        ranges = measured(source)
        model = load_graph(source)
        use_half(model, ranges, kept)
        RemoveUnusedNodesPass()(model)
        write_model(model, target, external=bool(data_files(source)), taken=taken)
    return None


def _measure_once(path: Path) -> _Measure:
    """What gives the ranges of the values in a graph; a second attempt does not measure them again."""
    return cache(partial(_ranges, None if path.suffix == ".onnx" else open_folder(path)))


def _ranges(folder: Folder | None, source: Path) -> dict[str, float]:
    from onnxport.graph.quantization.value_ranges import measure_ranges

    require_memory(_COPIES * graph_bytes(source), f"Measuring the values in {source.name}", "Free memory.")
    return measure_ranges(source, _inputs(folder, source))


def _inputs(folder: Folder | None, source: Path) -> list[Arrays]:
    if folder is not None:
        component = next(one for one in folder.manifest.components if folder.file(one) == source)
        return sample_inputs(folder, component).arrays
    from onnxport.runtime.session import OnnxSession

    session = OnnxSession(source)
    specs = (*session.inputs, *session.optional)
    return [random_inputs(specs, guess_sizes(specs, more=number), 100, number) for number in range(_GUESSES)]
