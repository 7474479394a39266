"""`verify`: is a folder whole, does it run, and does it still compute what its source does?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.artifact.data_files import graph_bytes
from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.graph_findings import Finding, find_faults, find_in_folder, refuse
from onnxport.artifact.hashes import check_files
from onnxport.artifact.manifest import Component, Manifest
from onnxport.artifact.results import VerifiedFolder
from onnxport.axes import evaluate, names_in
from onnxport.environments import call_in
from onnxport.errors import FolderError, UsageError, VerificationError
from onnxport.graph.inputs import guess_sizes, random_inputs, verified_sizes, vocabulary_size
from onnxport.graph.quantization.quantize import WEIGHT_ONLY
from onnxport.loading.options import LoadOptions, load_options
from onnxport.loading.resolve import ResolvedModel, resolve_model
from onnxport.progress import Reporter, Silent
from onnxport.specs import Limit, Verification
from onnxport.system.library_errors import bad_input, first_line
from onnxport.system.memory import memory_limit
from onnxport.system.time_limit import time_limit

_AGAIN = "Copy or download it again, or convert again with `onnxport convert`."

if TYPE_CHECKING:
    from onnxport.loading.model_to_export import ModelToExport
    from onnxport.verification.evidence import Evidence


def verify(
    path: str | Path,
    against: Any = None,
    *,
    task: str | None = None,
    strict: bool = False,
    reporter: Reporter | None = None,
    **model_kwargs: Any,
) -> VerifiedFolder:
    """Check a converted folder or a single graph.

    Without `against`: every file has the recorded sha256, every graph loads in ONNX Runtime and runs
    at the sizes of the evidence, with the declared shapes and finite numbers, and the sums of int8 products
    fit on every processor, not only on this one. With it, the source model is run again and every output
    compared.

    Args:
        path: a folder, or an `.onnx` file.
        against: the source model, as in `convert`.
        task: for a bare graph; a folder knows its own.
        strict: refuse also what only a trustworthy consumer minds (`find_faults` lists it).
        reporter: told about every step.
        model_kwargs: as in `convert`.

    Raises:
        FolderError: damaged, or it does not run.
        VerificationError: its outputs differ from those of `against`, or an int8 graph is wrong on some processors.
    """
    path = Path(path).expanduser()
    reporter = reporter if reporter is not None else Silent()
    bare = path.suffix == ".onnx" and not path.is_dir()
    folder = open_folder(path) if against is not None and not bare else None
    resolved, sample_inputs = None, model_kwargs.pop("sample_inputs", None)
    options = load_options(model_kwargs)
    if against is not None:
        resolved = resolve_model(against, folder.manifest.framework if folder else None, options, sample_inputs)
        if resolved.environment is not None:
            arguments = dict(path=path, against=against, task=task, strict=strict, **model_kwargs)
            return call_in(resolved.environment, "verify", arguments, reporter)  # type: ignore[no-any-return]
    if bare:
        refuse(path, find_faults(path) if path.is_file() else [], strict=strict)
        with bad_input(FolderError, f"{path} cannot be checked", _AGAIN):
            return _verify_file(path, resolved, task, reporter, options)
    with bad_input(FolderError, f"{path} cannot be checked", _AGAIN):
        with reporter.step("Check files") as step:
            folder = folder or open_folder(path)
            check_files(path, folder.manifest)
            refuse(path, find_in_folder(folder), strict=strict)
            step.done(f"{len(folder.manifest.files)} files as recorded")
        with memory_limit():
            notes = [note for component in folder.manifest.components for note in _run(folder, component, reporter)]
    with memory_limit():
        found: dict[str, Verification | None] = {component.name: None for component in folder.manifest.components}
        if resolved is not None:
            found |= _against(folder, resolved, reporter, options)
    _require(found)
    note = "compared with the source" if against is not None else "not compared with the source: give it with --against"
    return VerifiedFolder(path, len(folder.manifest.files), found, True, (*notes, note))


def findings(path: str | Path) -> list[Finding]:
    """What a trustworthy consumer of a folder or a graph refuses or reports, without running anything.

    Raises:
        FolderError: there is none, or its manifest is damaged.
    """
    path = Path(path).expanduser()
    if path.suffix == ".onnx" and not path.is_dir():
        if not path.is_file():
            raise FolderError(f"{path} does not exist.", hint="Give a folder that onnxport wrote, or an .onnx file.")
        return find_faults(path)
    return find_in_folder(open_folder(path))


def _run(folder: Folder, component: Component, reporter: Reporter) -> Iterator[str]:
    """Run a graph of the folder; what there is to say of it.

    Raises:
        FolderError: it does not run.
        VerificationError: it is wrong on some processors.
    """
    file = folder.file(component)
    with reporter.step(f"Run {component.file}") as step:
        count = _runs(file, component, vocabulary_size(folder.path))
        step.done(f"{count} set{'' if count == 1 else 's'} of sizes")
    if component.precision in ("int8", "int8-static"):
        with reporter.step(f"Bound the sums of {component.file}") as step:
            own = "" if component.precision == "int8" else f" --precision {component.precision}"
            bounds = _bound_sums(file, f"Make it again: onnxport quantize {folder.path}{own}")
            step.done(bounds or "it has no integer products")
        if bounds:
            yield f"{component.file}: {bounds}"


def _bound_sums(file: Path, hint: str) -> str | None:
    """That a graph is right on every processor, in words; None where it has no integer products.

    Raises:
        VerificationError: it is not.
    """
    missing = [name for name in ("onnx", "onnx_ir") if find_spec(name) is None]
    if missing:
        return f"sums of integer products not bounded without {' and '.join(missing)}: pip install 'onnxport[pytorch]'"
    from onnxport.graph.quantization.saturation import require_exact_sums

    count = require_exact_sums(file, hint)
    return f"the sums of {count} integer products fit on every processor" if count else None


def _runs(file: Path, component: Component, vocabulary: int) -> int:
    from onnxport.runtime.session import OnnxSession, require_same_type

    session = OnnxSession(file)
    own = {spec.name: spec for spec in (*session.inputs, *session.optional, *session.outputs)}
    for spec in (*component.inputs, *component.outputs):
        if spec.name not in own:
            raise FolderError(f"{file.name} has no input or output {spec.name!r}, which the manifest declares.")
        require_same_type(spec, own[spec.name])
    sizes = verified_sizes(component)
    for number, case in enumerate(sizes):
        arrays = random_inputs(component.inputs, case, vocabulary, number)
        try:
            with time_limit(f"run {file.name} once", graph_bytes(file)):
                outputs = session.run(arrays)
        except Exception as error:
            raise FolderError(f"{file.name} does not run at {case}: {first_line(error)}.") from error
        for spec in component.outputs:
            value = outputs[spec.name]
            for axis, declared in enumerate(spec.axes):
                if names_in(declared) <= case.keys() and evaluate(declared, case) != value.shape[axis]:
                    raise FolderError(
                        f"{file.name} gave {spec.name} of shape {list(value.shape)} at {case}; axis {axis} is declared "
                        f"as {declared}."
                    )
            if value.dtype.kind == "f" and np.isnan(value).all():
                raise FolderError(f"{file.name} gave only NaN in {spec.name} at {case}.")
    return len(sizes)


def _against(
    folder: Folder, resolved: ResolvedModel, reporter: Reporter, options: LoadOptions
) -> dict[str, Verification | None]:  # fmt: skip
    """Every graph of the folder compared with the source model, or with the graph that it was made from."""
    from onnxport.loading.model_to_export import load_model_to_export
    from onnxport.verification.ledger.graph_weights import record_weights

    with reporter.step("Run the source model") as step:
        to_export = load_model_to_export(resolved, folder.manifest.task, options)
        weights = record_weights(to_export)
        evidence = _record(to_export, folder.manifest)
        step.done(f"{sum(recorded.count for recorded in evidence.values())} sets of inputs")
    sources = dict(zip((part.name for part in to_export.parts), weights, strict=True))
    found: dict[str, Verification | None] = {}
    for component in folder.manifest.components:
        with reporter.step(f"Compare {component.file}") as step:
            verification = _compare(folder, component, evidence)
            if not verification.passed and component.precision == "float32":
                verification = _locate(folder, component, to_export, evidence, verification)
            found[component.name] = verification
            step.done(f"largest error {verification.max_abs_error:.2g}")
    _require(found)  # an error of the outputs says more than one of a weight
    _prove_weights(folder, sources, reporter)
    return found


def _prove_weights(folder: Folder, sources: Mapping[str, Any], reporter: Reporter) -> None:
    """The weights of every graph with a ledger, against the source or against the graph that it was made from.

    Raises:
        VerificationError: a weight is not what it should be.
    """
    from onnxport.verification.ledger.again import prove_again, prove_variables_again
    from onnxport.verification.ledger.derived import prove_derived
    from onnxport.verification.ledger.source_weights import SourceWeights
    from onnxport.verification.ledger.summary import ledger_summary

    graphs = [component for component in folder.manifest.components if component.ledger is not None]
    if not graphs:
        return
    with reporter.step("Weights") as step:
        found = []
        for component in graphs:
            base, source = folder.manifest.find(component.derived_from), sources.get(component.name)
            ledger = component.ledger
            if base is not None:
                found.append(prove_derived([folder.file(base)], folder.file(component)))
            elif source is not None and ledger is not None and ledger.from_source:
                again = prove_again if isinstance(source, SourceWeights) else prove_variables_again
                found.append(again(folder.file(component), ledger, source))
        step.done(ledger_summary(found))


def _locate(
    folder: Folder, component: Component, to_export: ModelToExport, evidence: Mapping[str, Evidence],
    verification: Verification,
) -> Verification:  # fmt: skip
    """The same verification, with the first place where the graph differs from the source model."""
    from onnxport.verification.localisation.search import find_difference

    name = _part_of(folder.manifest, component, list(evidence))
    source = next(part.source for part in to_export.parts if part.name == name)
    found = find_difference(folder.file(component), source, evidence[name].single_calls, verification)
    return replace(verification, difference=found)


def _record(to_export: ModelToExport, manifest: Manifest) -> dict[str, Evidence]:
    """Part of the source model -> what it computes, at sizes that its graph takes; in the order in which they run."""
    from onnxport.export.signature import infer_signature
    from onnxport.verification.evidence import record_evidence

    evidence = {}
    for part in to_export.parts:
        known = (manifest.find(part.name) or manifest.components[0]).restrictions
        signature = infer_signature(part.source, part.generator, known)
        bounds = [r for r in known if r.limit in (Limit.AT_LEAST, Limit.AT_MOST)]
        evidence[part.name] = record_evidence(part, signature.restricted(bounds))
    return evidence


def _compare(folder: Folder, component: Component, evidence: Mapping[str, Evidence]) -> Verification:
    """One graph against what holds for it: the graph that it was made from, or a part of the source model."""
    from onnxport.variants.static_shapes.write import check_again, is_static
    from onnxport.verification.evidence import verify_graph, within_limits

    if component.precision in WEIGHT_ONLY:
        return _against_base(folder, component)
    if is_static(component):
        return check_again(folder, component)
    part = _part_of(folder.manifest, component, list(evidence))
    found = verify_graph(
        folder.file(component), evidence[part], component.outputs, precision=component.precision,
        before=[folder.path / file for file in _run_before(folder.manifest, component, part, evidence)],
    )  # fmt: skip
    return within_limits(evidence[part], found)[0]


def _part_of(manifest: Manifest, component: Component, parts: Sequence[str]) -> str:
    """The part of the source model that a graph was converted from.

    A single graph, which has no manifest, is known by the name of its file.

    Raises:
        UsageError: the source model has several parts, and none of this name.
    """
    name = manifest.origin(component).name
    if name in parts or len(parts) == 1:
        return name if name in parts else parts[0]
    alike = [part for part in parts if not manifest.files and name.startswith(part)]
    if not alike:
        raise UsageError(
            f"{component.name} cannot be compared: the source model becomes {' and '.join(parts)}.",
            hint="Give the model that it was converted from.",
        )
    return max(alike, key=len)


def _run_before(manifest: Manifest, component: Component, part: str, parts: Iterable[str]) -> Iterator[str]:
    """The files of the parts that run before `part`, made as `component` was made; beside a single graph, by name."""
    for name in takewhile(lambda name: name != part, parts):
        graph = manifest.counterpart(component, name)
        yield graph.file if graph is not None else component.file.replace(part, name)


def _against_base(folder: Folder, component: Component) -> Verification:
    """Quantized weights: against the float32 graph of the same folder, which is compared with the source itself."""
    from onnxport.variants.components import encoder_of, graph_under_test
    from onnxport.variants.weight_only_check import check_rounded

    manifest = folder.manifest
    base = manifest.find(component.derived_from)
    if base is None:
        raise FolderError(
            f"{component.file} has quantized weights, and the float32 graph that they were made from is not in "
            f"{folder.path}.",
            hint="Leave --against out, or convert the model again.",
        )
    encoder = encoder_of(manifest, base)
    quantized = manifest.counterpart(component, encoder.name) if encoder is not None else None
    return check_rounded(
        graph_under_test(folder, base), folder.file(component), component.precision,
        encoder=folder.file(quantized) if quantized is not None else None,
    )  # fmt: skip


def _verify_file(
    path: Path, resolved: ResolvedModel | None, task: str | None, reporter: Reporter, options: LoadOptions
) -> VerifiedFolder:
    """Check that a bare graph loads and runs, and with a source model that its outputs match."""
    from onnxport.runtime.session import OnnxSession

    with memory_limit():
        with reporter.step(f"Run {path.name}"):
            session = OnnxSession(path)
            if resolved is None:
                session.run(random_inputs(session.inputs, guess_sizes(session.inputs), 100, 0))
            base = path.with_name(path.name.replace("-quantized", ""))
            again = base if base != path and base.is_file() else "GRAPH.onnx"
            bounds = _bound_sums(path, f"Make it again from the float32 graph: onnxport quantize {again}")
        found: dict[str, Verification | None] = {path.name: None}
        if resolved is not None:
            component = Component(path.name, path.name, 0, "float32", 0, session.inputs, session.outputs)
            manifest = Manifest(task or "auto", resolved.framework, "", "", {}, (component,))
            found = {**_against(Folder(path.parent, manifest), resolved, reporter, options)}
    _require(found)
    notes = (*([bounds] if bounds else []), "a single graph: no manifest to check")
    return VerifiedFolder(path, 0, found, True, notes)


def _require(found: dict[str, Verification | None]) -> None:
    for name, verification in found.items():
        if verification is not None and not verification.passed:
            bad = [case.name for case in verification.cases if not case.ok]
            base = verification.source if verification.source.startswith("the graph ") else "the source model"
            raise VerificationError(
                f"{name} disagrees with {base} in {len(bad)} of {len(verification.cases)} cases "
                f"({', '.join(bad)}); largest error {verification.max_abs_error:.3g}.",
                hint="Was the folder converted from this model? Convert it again with `onnxport convert`.",
                verification=verification,
            )
