"""Make a variant of every graph of a folder, or of one file, check it, and add it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxport.artifact.data_files import graph_bytes
from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.hashes import hash_files, require_unchanged
from onnxport.artifact.manifest import Component
from onnxport.errors import VerificationError
from onnxport.graph.inputs import guess_sizes
from onnxport.graph.quantization.quantize import PRECISIONS
from onnxport.publishing.destination import check_free_space
from onnxport.publishing.staging import stage_file
from onnxport.serialization.weights_file import write_weights
from onnxport.serialization.written_model import WrittenModel
from onnxport.specs import Verification
from onnxport.system.memory import memory_limit
from onnxport.variants.components import converted_components, encoder_of, graph_under_test, weight_only_bases
from onnxport.variants.new_folder import NewGraph, graphs_from, new_folder, with_components
from onnxport.variants.weight_only_check import EXACT_SUFFIX, GraphUnderTest, check_rounded, first_failure

# Activations that are rounded at run time have one scale for a whole batch: padding moves the numbers beside it.
_PADDED_TOO = ("float32", "float16", "int8-static")


@dataclass(frozen=True)
class Rewrite:
    """What is done to the graphs of a folder.

    Attributes:
        suffix: of the new graphs' names.
        precision: row of `verification.compare.TOLERANCES`.
        write: from float32 graphs, a file for each, with data files whose names are not among the third argument; what
            was written, where that is known.
        size: of the new weights, at least, as a part of the old ones.
        hint: what to do when the outputs differ too much.
        fused_too: also done to a decoder that is fused for a processor.
        compared_as: another row for the comparison, where nothing is rounded.
        about: from a graph that it was done to, further fields of the new one's record.
    """

    suffix: str
    precision: str
    write: Callable[[Sequence[Path], Sequence[Path], frozenset[str]], list[WrittenModel] | None]
    size: float
    hint: str = ""
    fused_too: bool = False
    compared_as: str | None = None
    about: Callable[[Component], dict[str, Any]] = lambda _: {}


def add_variant(path: Path, step: Rewrite) -> Path:
    """Make the variant of a folder's graphs, or of one graph file, and publish what holds.

    Returns:
        The file that was written; in a folder the last one, which is the decoder's.

    Raises:
        FolderError: no such folder or file, it is damaged, or it has no graph to start from.
        VerificationError: a new graph's outputs differ from those of the graph that it was made from.
    """
    if path.suffix == ".onnx":
        with memory_limit():
            return _add_file(path, step)
    return _add_components(open_folder(path), step)


def _add_components(folder: Folder, step: Rewrite) -> Path:
    bases = weight_only_bases(folder.manifest) if step.fused_too else converted_components(folder.manifest)
    new = graphs_from(folder, bases, step.suffix)
    new_bytes = round(step.size * sum(base.size_bytes for base in bases))
    with new_folder(folder, [graph.file for graph in new], new_bytes=new_bytes) as made:
        targets = [made.root / graph.file for graph in new]
        written = step.write([folder.file(base) for base in bases], targets, frozenset())
        made.take_rest()
        inside = replace(folder, path=made.root)
        components = [
            _component(inside, graph, new, step, written[number] if written is not None else None)
            for number, graph in enumerate(new)
        ]
        made.publish(with_components(folder.manifest, components))
    return folder.path / new[-1].file


def _component(
    inside: Folder, graph: NewGraph, new: Sequence[NewGraph], step: Rewrite, record: WrittenModel | None
) -> Component:
    """The record of a new graph, which is compared with the one that it was made from.

    Args:
        inside: the folder in the making.
        record: what was written, where that is known: weights may be in the files of another graph.
    """
    target, encoder = inside.path / graph.file, encoder_of(inside.manifest, graph.base)
    before = next((inside.path / one.file for one in new if encoder is not None and one.base is encoder), None)
    verification = _check(graph_under_test(inside, graph.base), target, step, before)
    about = {"precision": step.precision, **step.about(graph.base)}
    if record is None:
        return graph.component(inside.path, verification, **about)
    return graph.component(
        inside.path, verification, **about,
        data_files=tuple(file.relative_to(inside.path).as_posix() for file in record.files[1:]),
        weights_checksum=write_weights(target, record, inside.path),
    )  # fmt: skip


def _add_file(file: Path, step: Rewrite) -> Path:
    from onnxport.runtime.session import OnnxSession
    from onnxport.verification.ledger.derived import prove_derived

    session = OnnxSession(file)
    inputs, outputs = (*session.inputs, *session.optional), session.outputs
    del session
    name = f"{file.stem}-{step.suffix}{file.suffix}"
    check_free_space(file, round(step.size * graph_bytes(file)))
    with stage_file(file.with_name(name), overwrite=True) as staging:
        target = staging.path / name
        step.write([file], [target], staging.taken)
        digests = hash_files(staging.path)
        sizes = [guess_sizes(inputs), guess_sizes(inputs, more=1)]
        _check(GraphUnderTest(file, inputs, outputs, sizes, 100), target, step, None)
        prove_derived([file], target)
        staging.publish(lambda: require_unchanged(staging.path, digests))
    return file.with_name(name)


def _check(base: GraphUnderTest, target: Path, step: Rewrite, encoder: Path | None) -> Verification:
    precision = step.compared_as or step.precision
    row = PRECISIONS.get(precision)
    if row is not None and row.bits is not None:
        verification = check_rounded(base, target, precision, encoder=encoder, work=target.parent)
    else:
        verification = _compare(base, target, precision)
    if not verification.passed:
        case = first_failure(verification)
        where = f" in the case {case.name!r}{f': {case.error}' if case.error else ''}" if case is not None else ""
        hint = step.hint or "Keep the graph as it is."
        if case is not None and case.name.endswith(EXACT_SUFFIX):
            hint = "The graph is wrong, not just inexact: please report this model."
        raise VerificationError(
            f"{target.name} differs from {verification.source.removeprefix('the graph ')}{where}, by "
            f"{verification.max_abs_error:.3g} at most ({verification.max_rel_error:.2g} of the scale).",
            hint=hint,
            verification=verification,
        )
    return verification


def _compare(base: GraphUnderTest, target: Path, precision: str) -> Verification:
    from onnxport.verification.compare import compare
    from onnxport.verification.graph_cases import padded_cases, random_cases

    known = base.file, base.inputs, base.sizes, base.vocabulary
    cases = random_cases(*known)
    if precision in _PADDED_TOO:
        cases += padded_cases(*known)
    return compare(
        target, cases, decision=None, outputs=base.outputs, source=f"the graph {base.file.name}", precision=precision
    )
