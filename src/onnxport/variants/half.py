"""float16 variants: what overflows or loses too much is found by measuring, and stays float32.

Values are measured on real texts and random inputs. If the graph then differs from its base by more than the tolerance
of float16, normalizations, softmax and sums stay float32 too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from onnxport.artifact.data_files import data_files, graph_bytes
from onnxport.artifact.folder import Folder, open_folder
from onnxport.errors import VerificationError
from onnxport.graph.inputs import Arrays, guess_sizes, random_inputs
from onnxport.graph.quantization.half import SENSITIVE, use_half
from onnxport.serialization.written_model import WrittenModel
from onnxport.system.memory import require_memory
from onnxport.variants.rewrite import Rewrite, add_variant
from onnxport.variants.samples import sample_inputs

_COPIES = 2  # of the weights: in ONNX Runtime, and rounded
_SIZE = 0.5  # of the new weights, as a part of the old ones
_GUESSES = 3  # cases of a graph that nothing is known about


def add_half(path: Path) -> Path:
    """Store `onnx/model_fp16.onnx` in a folder, or `-fp16` beside a file.

    Returns:
        The file that was written; of several the last, which is the decoder's.

    Raises:
        FolderError: no such folder or file, or it is damaged.
        VerificationError: its outputs differ by more than the tolerance of float16.
    """
    folder = None if path.suffix == ".onnx" else open_folder(path)
    last: VerificationError | None = None
    for kept in ((), SENSITIVE):
        step = Rewrite("fp16", "float16", partial(_write, folder, kept), _SIZE)
        try:
            return add_variant(path, step)
        except VerificationError as error:
            if error.verification is None:  # of the ledger, or of a damaged folder
                raise
            last = error
    assert last is not None
    raise last


def _write(
    folder: Folder | None, kept: Collection[str], sources: Sequence[Path], targets: Sequence[Path],
    taken: frozenset[str],
) -> list[WrittenModel] | None:  # fmt: skip
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    from onnxport.graph.quantization.value_ranges import measure_ranges
    from onnxport.graph.quantization.weight_only import load_graph
    from onnxport.serialization.onnxfile import write_model

    for source, target in zip(sources, targets, strict=True):
        require_memory(_COPIES * graph_bytes(source), f"Measuring the values in {source.name}", "Free memory.")
        ranges = measure_ranges(source, _inputs(folder, source))
        model = load_graph(source)
        use_half(model, ranges, kept)
        RemoveUnusedNodesPass()(model)
        write_model(model, target, external=bool(data_files(source)), taken=taken)
    return None


def _inputs(folder: Folder | None, source: Path) -> list[Arrays]:
    if folder is not None:
        component = next(one for one in folder.manifest.components if folder.file(one) == source)
        return sample_inputs(folder, component).arrays
    from onnxport.runtime.session import OnnxSession

    session = OnnxSession(source)
    specs = (*session.inputs, *session.optional)
    return [random_inputs(specs, guess_sizes(specs, more=number), 100, number) for number in range(_GUESSES)]
