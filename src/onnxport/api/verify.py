"""`verify`: is a folder whole, does it run, and are its numbers still the source's?"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.artifact.folder import read_folder
from onnxport.artifact.hashes import check_files
from onnxport.artifact.manifest import Component, Manifest
from onnxport.artifact.results import VerifiedFolder
from onnxport.axes import evaluate, names_in
from onnxport.environments import call_in
from onnxport.errors import FolderError, VerificationError
from onnxport.graph.inputs import evidence_sizes, guess_sizes, random_inputs, vocabulary_size
from onnxport.graph.quantization.quantize import PRECISIONS, ROUNDED
from onnxport.loading.options import LoadOptions, load_options
from onnxport.loading.resolve import ResolvedModel, resolve_model
from onnxport.progress import Reporter, Silent
from onnxport.specs import Verification
from onnxport.system.library_errors import first_line
from onnxport.system.memory import memory_limit


def verify(
    path: str | Path,
    against: Any = None,
    *,
    task: str | None = None,
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
        reporter: told about every step.
        model_kwargs: as in `convert`.

    Raises:
        FolderError: damaged, or it does not run.
        VerificationError: its numbers are not those of `against`, or an int8 graph is wrong on some processors.
    """
    path = Path(path).expanduser()
    reporter = reporter if reporter is not None else Silent()
    bare = path.suffix == ".onnx" and not path.is_dir()
    resolved, sample_inputs = None, model_kwargs.pop("sample_inputs", None)
    options = load_options(model_kwargs)
    if against is not None:
        resolved = resolve_model(against, None if bare else read_folder(path).framework, options, sample_inputs)
        if resolved.environment is not None:
            arguments = dict(path=path, against=against, task=task, **model_kwargs)
            return call_in(resolved.environment, "verify", arguments, reporter)  # type: ignore[no-any-return]
    if bare:
        return _verify_file(path, resolved, task, reporter, options)
    with reporter.step("Check files") as step:
        manifest = read_folder(path)
        check_files(path, manifest)
        step.done(f"{len(manifest.files)} files as recorded")
    notes: list[str] = []
    with memory_limit():
        for component in manifest.components:
            with reporter.step(f"Run {component.file}") as step:
                count = _runs(path / component.file, component, vocabulary_size(path))
                step.done(f"{count} sets of sizes")
            if component.precision == "int8":
                with reporter.step(f"Bound the sums of {component.file}") as step:
                    bounds = _bound_sums(path / component.file, f"Make it again: onnxport quantize {path}")
                    step.done(bounds or "it has no integer products")
                    notes += [f"{component.file}: {bounds}"] if bounds else []
        found: dict[str, Verification | None] = {component.name: None for component in manifest.components}
        if resolved is not None:
            found = dict(_against(path, manifest, resolved, reporter, options))
    _require(found)
    note = "compared with the source" if against is not None else "not compared with the source: give it with --against"
    return VerifiedFolder(path, len(manifest.files), found, True, (*notes, note))


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
    from onnxport.runtime.session import OnnxSession

    session = OnnxSession(file)
    sizes = evidence_sizes(component)
    for number, case in enumerate(sizes):
        arrays = random_inputs(component.inputs, case, vocabulary, number)
        try:
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
    path: Path, manifest: Manifest, resolved: ResolvedModel, reporter: Reporter, options: LoadOptions
) -> list[tuple[str, Verification]]:
    from onnxport.export.signature import infer_signature
    from onnxport.loading.model_to_export import load_model_to_export
    from onnxport.variants.static_shapes.write import check_again, is_fixed
    from onnxport.verification.evidence import record_evidence, verify_graph

    components = {component.name: component for component in manifest.components}
    with reporter.step("Run the source model") as step:
        to_export = load_model_to_export(resolved, manifest.task, options)
        evidence = {}
        for part in to_export.parts:
            known = components.get(part.name, manifest.components[0]).restrictions
            evidence[part.name] = record_evidence(part, infer_signature(part.source, part.generator, known))
        step.done(f"{sum(len(recorded.cases) + len(recorded.greedy) for recorded in evidence.values())} sets of inputs")
    found = []
    for component in manifest.components:
        # "model_quantized" is held against what "model" is; a bare graph has a name of its own.
        names = [name for name in evidence if component.name.startswith(name)] or list(evidence)[:1]
        first = [part.name for part in to_export.parts[: list(evidence).index(names[0])]]
        with reporter.step(f"Compare {component.file}") as step:
            if component.precision in ROUNDED:
                verification = _against_base(path, manifest, component)
            elif is_fixed(component, manifest):
                verification = check_again(path, manifest, component)
            else:
                verification = verify_graph(
                    path / component.file,
                    evidence[names[0]],
                    component.outputs,
                    precision=component.precision,
                    before=[path / component.file.replace(names[0], name) for name in first],
                )
            step.done(f"largest error {verification.max_abs_error:.2g}")
        found.append((component.name, verification))
    return found


def _against_base(path: Path, manifest: Manifest, component: Component) -> Verification:
    """Rounded weights: against the float32 graph of the same folder, which is held against the source itself."""
    from onnxport.variants.components import graph_under_test, rounded_bases
    from onnxport.variants.weight_only_check import check_rounded

    bases = rounded_bases(manifest)
    suffix = f"_{PRECISIONS[component.precision].suffix}"
    base = next((base for base in bases if component.name == f"{base.name}{suffix}"), None)
    if base is None:
        raise FolderError(
            f"{component.file} has rounded weights, and the float32 graph that they were made from is not in {path}.",
            hint="Leave --against out, or convert the model again.",
        )
    written = graph_under_test(path, manifest, base)
    encoder = written.encoder[0] if written.encoder else None
    rounded = encoder.with_name(f"{encoder.stem}{suffix}.onnx") if encoder else None
    return check_rounded(written, path / component.file, component.precision, encoder=rounded)


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
            found = dict(_against(path.parent, manifest, resolved, reporter, options))
    _require(found)
    notes = (*([bounds] if bounds else []), "a single graph: no manifest to check")
    return VerifiedFolder(path, 0, found, True, notes)


def _require(found: dict[str, Verification | None]) -> None:
    for name, verification in found.items():
        if verification is not None and not verification.passed:
            bad = [case.name for case in verification.cases if not case.ok]
            raise VerificationError(
                f"{name} disagrees with the source model in {len(bad)} of {len(verification.cases)} cases "
                f"({', '.join(bad)}); largest error {verification.max_abs_error:.3g}.",
                hint="Was the folder converted from this model? Convert it again with `onnxport convert`.",
                verification=verification,
            )
