"""The original's after-steps on what was already converted: `optimize` and `quantize`.

The source model is not at hand, so a new graph is compared with the one it was made from, at
the sizes of the manifest's evidence. In a folder each float32 graph gets a further component, and the
folder is replaced as a whole; beside a single graph it is a further file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from onnxport.artifact.data_files import data_files
from onnxport.artifact.extend import add_components, link_rest
from onnxport.artifact.folder import read_folder
from onnxport.artifact.hashes import check_files
from onnxport.artifact.manifest import MANIFEST_NAME, Component, Manifest, Verification
from onnxport.artifact.staging import stage, stage_file
from onnxport.artifact.weights_file import weights_path, write_weights
from onnxport.artifact.written import WrittenModel
from onnxport.errors import FolderError, TaskError, UsageError, VerificationError
from onnxport.fused import NAME as FUSED_NAME
from onnxport.graph.inputs import evidence_sizes, guess_sizes, random_inputs, vocabulary_size
from onnxport.graph.optimize import optimize_graph
from onnxport.graph.quantize import PRECISIONS, find_precision, quantize_dynamic, write_rounded
from onnxport.graph.stats import file_bytes, file_operators
from onnxport.quiet import quiet
from onnxport.rounding import PROOF, Written, check_rounded, first_failure
from onnxport.tasks import find_task


@dataclass(frozen=True)
class _Step:
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


def optimize(path: str | Path, for_: str | None = None, sizes: Mapping[str, int] | None = None) -> Path:
    """Store ONNX Runtime's fused graph: `onnx/model_optimized.onnx` in a folder, `-optimized` beside a file.

    Args:
        for_: "cpu" makes a decoder for that processor instead, `onnx/model_fused.onnx`.
        sizes: axis -> size, for every free axis: makes graphs of fixed sizes instead, `onnx/model_fixed.onnx`; see
            `fixed.fix_sizes`.

    Returns:
        The file that was written; of several the last, which is the decoder's.

    Raises:
        FolderError: no such folder or file, or it is damaged.
        UsageError, ExportError: with `for_`, another processor, or a graph that cannot be fused; with `sizes`, an
            axis or a size that cannot be fixed.
        VerificationError: the new graph's numbers differ from the graph's; nothing was written.
    """
    if sizes is not None:
        from onnxport.fixed import fix_sizes

        if for_ is not None:
            raise UsageError(
                f"A graph is fused for {for_!r}, or of fixed sizes, not both. Nothing was written.",
                hint="Call it twice: each graph is a file of its own.",
            )
        return fix_sizes(path, sizes)
    if for_ is not None:
        from onnxport.fused import optimize_for

        return optimize_for(Path(path).expanduser(), for_)
    return _add(Path(path).expanduser(), _Step("optimized", "float32", _one_by_one(optimize_graph)))


def quantize(path: str | Path, precision: str = "int8", *, float_activations: bool = False) -> Path:
    """Store graphs of smaller numbers beside the float32 ones: in a folder, or beside a file.

    Args:
        path: a folder that onnxport wrote, or an `.onnx` file.
        precision: "int8" quantizes weights, and activations at run time (`onnx/model_quantized.onnx`);
            "int4" (`onnx/model_q4.onnx`) and "int8-weights" (`onnx/model_int8.onnx`) round weights in blocks
            of 32.
        float_activations: with rounded weights: inputs of products stay float32 instead of being rounded to 8
            bits. Slower: two to three times with int4, and far more with int8-weights.

    Returns:
        The file that was written; of several the last, which is the decoder's.

    Raises:
        UsageError: no such precision, `float_activations` with "int8", or no weight that can be rounded.
        FolderError: no such folder or file, or it is damaged.
        VerificationError: it is further from the graph (with rounded weights: from what the graph computes with
            these) than the tolerance; nothing was written.
    """
    row = find_precision(precision)
    bits = row.bits
    if bits is None:
        if float_activations:
            raise UsageError(
                "Dynamic int8 quantizes activations by its nature. Nothing was written.",
                hint="Float32 activations go with the precisions int4 and int8-weights.",
            )
        step = _Step(row.suffix, precision, _one_by_one(quantize_dynamic))
    else:
        rounded = partial(write_rounded, bits=bits, float_activations=float_activations)
        hint = "" if float_activations else "Float32 activations may do (--float-activations, float_activations=True)."
        step = _Step(row.suffix, precision, rounded, hint, fused_too=True)
    return _add(Path(path).expanduser(), step)


def float_components(manifest: Manifest) -> list[Component]:
    """The graphs as they were converted, without what was made from them."""
    names = [component.name for component in manifest.components]
    return [
        component
        for component in manifest.components
        if component.precision == "float32" and not any(component.name.startswith(f"{name}_") for name in names)
    ]


def rounded_bases(manifest: Manifest) -> list[Component]:
    """The graphs whose weights can be rounded: those as they were converted, and a decoder that is fused.

    Dynamic int8 has none of the fused one: in its sorted rows what lies behind the tokens means nothing, and would
    be in the scales of all.
    """
    fused = [component for component in manifest.components if component.name == FUSED_NAME]
    return [*float_components(manifest), *fused]


def described(folder: Path, manifest: Manifest, component: Component) -> Written:
    """What `check_rounded` must know of a float32 graph of a folder."""
    bases = float_components(manifest)
    encoder = bases[0] if len(bases) > 1 and component.name != bases[0].name else None
    try:
        decision = find_task(manifest.task).decision
    except TaskError:  # a plain module
        decision = None
    return Written(
        folder / component.file, component.inputs, component.outputs, evidence_sizes(component),
        vocabulary_size(folder), decision, (folder / encoder.file, encoder.inputs) if encoder else None,
    )  # fmt: skip


def _one_by_one(write: Callable[[Path, Path], None]) -> Callable[[Sequence[Path], Sequence[Path]], None]:
    def all_of_them(sources: Sequence[Path], targets: Sequence[Path]) -> None:
        for source, target in zip(sources, targets, strict=True):
            write(source, target)

    return all_of_them


def _add(path: Path, step: _Step) -> Path:
    with quiet():
        return (_add_file if path.suffix == ".onnx" else _add_components)(path, step)


def _add_components(folder: Path, step: _Step) -> Path:
    manifest = read_folder(folder)
    check_files(folder, manifest)
    bases = float_components(manifest)
    if step.fused_too:
        bases = rounded_bases(manifest)
    if not bases:
        raise FolderError(f"{folder} has no float32 graph to start from. Nothing was written.")
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
            source = described(staging.path, manifest, base)
            verification = _check(source, target, step, targets[0] if number else None)
            record = written[number] if written is not None else None
            component = replace(
                base, name=f"{base.name}_{step.suffix}", file=files[number].as_posix(), precision=step.precision,
                verification=verification, operators=file_operators(target), size_bytes=file_bytes(target),
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


def _add_file(file: Path, step: _Step) -> Path:
    from onnxport.runtime.session import OnnxSession

    session = OnnxSession(file)
    inputs, outputs = (*session.inputs, *session.optional), session.outputs
    del session
    name = f"{file.stem}-{step.suffix}{file.suffix}"
    with stage_file(file.with_name(name), overwrite=True) as staging:
        target = staging.path / name
        step.write([file], [target])
        sizes = [guess_sizes(inputs), guess_sizes(inputs, more=1)]
        _check(Written(file, inputs, outputs, sizes, 100), target, step, None)
        staging.publish()
    return file.with_name(name)


def _check(base: Written, target: Path, step: _Step, encoder: Path | None) -> Verification:
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
        if case is not None and case.name.endswith(PROOF):
            hint = "The graph is wrong, not inexact: report this model."
        raise VerificationError(
            f"{target.name} differs from {verification.source.removeprefix('the graph ')}{where}, by "
            f"{verification.max_abs_error:.3g} at most ({verification.max_rel_error:.2g} of the scale). "
            "Nothing was written.",
            hint=hint,
            verification=verification,
        )
    return verification


def _compare(base: Written, target: Path, precision: str) -> Verification:
    from onnxport.comparison import Case, compare, session_for

    session = session_for(base.file)
    cases = []
    for number, case in enumerate(base.sizes):
        arrays = random_inputs(base.inputs, case, base.vocabulary, number)
        cases.append(Case(f"evidence {number + 1}", case, arrays, session.run(arrays)))
    del session
    return compare(
        target, cases, decision=None, outputs=base.outputs, source=f"the graph {base.file.name}", precision=precision
    )
