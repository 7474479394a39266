"""Make a variant of every graph of a folder, or of one file, check it, and add it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxport.artifact.add_components import add_components, link_rest
from onnxport.artifact.data_files import data_files, graph_bytes
from onnxport.artifact.folder import read_folder
from onnxport.artifact.hashes import check_files
from onnxport.artifact.manifest import MANIFEST_NAME
from onnxport.errors import FolderError, VerificationError
from onnxport.graph.inputs import guess_sizes, random_inputs
from onnxport.graph.quantization.quantize import PRECISIONS
from onnxport.graph.stats import file_operators
from onnxport.publishing.staging import stage, stage_file
from onnxport.serialization.weights_file import weights_path, write_weights
from onnxport.serialization.written_model import WrittenModel
from onnxport.specs import Verification
from onnxport.system.memory import memory_limit
from onnxport.variants.components import float_components, graph_under_test, rounded_bases
from onnxport.variants.weight_only_check import EXACT_SUFFIX, GraphUnderTest, check_rounded, first_failure


@dataclass(frozen=True)
class Rewrite:
    """What is done to the graphs of a folder.

    Attributes:
        suffix: of the new graphs' names.
        precision: row of `comparison.TOLERANCES`.
        write: from float32 graphs, a file for each; what was written, where that is known.
        hint: what to do when the numbers are too far off.
        fused_too: also to a decoder that is fused for a processor.
    """

    suffix: str
    precision: str
    write: Callable[[Sequence[Path], Sequence[Path]], list[WrittenModel] | None]
    hint: str = ""
    fused_too: bool = False


def add_variant(path: Path, step: Rewrite) -> Path:
    with memory_limit():
        return (_add_file if path.suffix == ".onnx" else _add_components)(path, step)


def _add_components(folder: Path, step: Rewrite) -> Path:
    manifest = read_folder(folder)
    check_files(folder, manifest)
    bases = float_components(manifest)
    if step.fused_too:
        bases = rounded_bases(manifest)
    if not bases:
        raise FolderError(f"{folder} has no float32 graph to start from.")
    files = [Path(base.file).with_name(f"{Path(base.file).stem}_{step.suffix}.onnx") for base in bases]
    with stage(folder, overwrite=True) as staging:
        targets = [staging.path / file for file in files]
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        # First: onnx refuses to read weights once they have a second name.
        written = step.write([folder / base.file for base in bases], targets)
        stale = {MANIFEST_NAME}
        for file in files:
            old = (folder / file, *data_files(folder / file), weights_path(folder / file))
            stale.update(path.relative_to(folder).as_posix() for path in old)
        link_rest(folder, staging.path, stale)
        made = []
        for number, (base, target) in enumerate(zip(bases, targets, strict=True)):
            source = graph_under_test(staging.path, manifest, base)
            verification = _check(source, target, step, targets[0] if number else None)
            record = written[number] if written is not None else None
            component = replace(
                base, name=f"{base.name}_{step.suffix}", file=files[number].as_posix(), precision=step.precision,
                verification=verification, operators=file_operators(target), size_bytes=graph_bytes(target),
                data_files=tuple(path.relative_to(staging.path).as_posix() for path in _data_of(target, record)),
                weights_checksum=write_weights(target, record, staging.path) if record is not None else None,
            )  # fmt: skip
            made.append(component)
        add_components(staging.path, manifest, made, folder.resolve().name)
        staging.publish()
    return folder / files[-1]


def _data_of(target: Path, record: WrittenModel | None) -> Sequence[Path]:
    """The weights beside a graph; some may be in the files of another graph."""
    return data_files(target) if record is None else record.files[1:]


def _add_file(file: Path, step: Rewrite) -> Path:
    from onnxport.runtime.session import OnnxSession

    session = OnnxSession(file)
    inputs, outputs = (*session.inputs, *session.optional), session.outputs
    del session
    name = f"{file.stem}-{step.suffix}{file.suffix}"
    with stage_file(file.with_name(name), overwrite=True) as staging:
        target = staging.path / name
        step.write([file], [target])
        sizes = [guess_sizes(inputs), guess_sizes(inputs, more=1)]
        _check(GraphUnderTest(file, inputs, outputs, sizes, 100), target, step, None)
        staging.publish()
    return file.with_name(name)


def _check(base: GraphUnderTest, target: Path, step: Rewrite, encoder: Path | None) -> Verification:
    precision = step.precision
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
            hint = "The graph is wrong, not inexact: report this model."
        raise VerificationError(
            f"{target.name} differs from {verification.source.removeprefix('the graph ')}{where}, by "
            f"{verification.max_abs_error:.3g} at most ({verification.max_rel_error:.2g} of the scale).",
            hint=hint,
            verification=verification,
        )
    return verification


def _compare(base: GraphUnderTest, target: Path, precision: str) -> Verification:
    from onnxport.verification.cases import Case
    from onnxport.verification.compare import compare
    from onnxport.verification.sessions import session_for

    session = session_for(base.file)
    cases = []
    for number, case in enumerate(base.sizes):
        arrays = random_inputs(base.inputs, case, base.vocabulary, number)
        cases.append(Case(f"evidence {number + 1}", case, arrays, session.run(arrays)))
    del session
    return compare(
        target, cases, decision=None, outputs=base.outputs, source=f"the graph {base.file.name}", precision=precision
    )
