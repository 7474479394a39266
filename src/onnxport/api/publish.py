"""Write what was captured, verify it where it was written, and put it in place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport._version import __version__
from onnxport.api.staged_folder import run_staged
from onnxport.artifact.folder import write_manifest
from onnxport.artifact.hashes import hash_files, require_unchanged
from onnxport.artifact.ledger import UnusedTensors
from onnxport.artifact.manifest import MANIFEST_NAME, Component, Manifest
from onnxport.artifact.results import Conversion
from onnxport.errors import VerificationError
from onnxport.graph.write import WeightFiles, write_graphs
from onnxport.progress import counted
from onnxport.publishing.staging import FileStaging, Staging
from onnxport.system.timing import Stopwatch, peak_memory_bytes

if TYPE_CHECKING:
    from onnxport.api.capture import CapturedGraph
    from onnxport.artifact.ledger import Ledger
    from onnxport.loading.model_to_export import ModelToExport
    from onnxport.serialization.written_model import WrittenModel
    from onnxport.user_runs.record import SourceAnswers


GRAPH_FOLDER = "onnx"
_QUANTIZED = "_quantized"  # ending of the names of graphs that `--quantize` adds


@dataclass(frozen=True)
class Output:
    """Where a conversion writes, and what it publishes.

    Attributes:
        path: the folder, or the graph file.
        staging: where it is written before it is put in place.
        files: how weights are stored.
        quantize: also write int8 graphs.
        allow_mismatch: publish graphs whose outputs differ from the source's.
        load_again: loads the model once more, to find out where a graph differs from it.
    """

    path: Path
    staging: Staging
    files: WeightFiles
    quantize: bool = False
    allow_mismatch: bool = False
    load_again: Callable[[], ModelToExport] | None = None

    @property
    def single(self) -> bool:
        """Whether it is a graph file."""
        return isinstance(self.staging, FileStaging)

    @property
    def folder(self) -> Path:
        """Where graphs are written."""
        return self.staging.path if self.single else self.staging.path / GRAPH_FOLDER

    @property
    def final_folder(self) -> Path:
        """Where graphs will be."""
        return self.path.parent if self.single else self.path / GRAPH_FOLDER

    def graph_file(self, name: str) -> Path:
        """Where the graph called `name` is written."""
        return self.folder / (self.path.name if self.single else f"{name}.onnx")


def publish(
    output: Output,
    to_export: ModelToExport,
    graphs: list[CapturedGraph],
    source: SourceAnswers | None,
    watch: Stopwatch,
) -> Conversion:
    """Write the graphs, verify them where they were written, run the folder, and put everything in place.

    Args:
        output: where to.
        to_export: is released.
        graphs: what was captured of it.
        source: what a folder is compared with; None for a graph file, beside which nothing is published.
        watch: told about the steps.

    Raises:
        VerificationError: a graph's outputs differ from the source's, or the folder gives other results.
        OutputError: the output cannot be written, or a file is not as it was written.
    """
    manifest, root = _manifest_of(to_export, graphs), output.staging.path
    written, digests = _write(output, to_export, graphs, watch)
    for captured in graphs:
        captured.graph.release()  # the weights are on disk now, and the session needs the memory
    to_export.release()
    ledgers = _prove(output, graphs, written, watch)
    components = _verify(output, graphs, written, watch)
    components = [replace(one, ledger=ledger) for one, ledger in zip(components, ledgers, strict=True)]
    digests = hash_files(root, digests)
    manifest = replace(manifest, components=tuple(components))
    _require(manifest, output.allow_mismatch)
    if output.quantize:
        made, digests = _quantize(output, graphs, digests, watch)
        manifest = replace(manifest, components=(*components, *made))
        _require(manifest, output.allow_mismatch)
    if source is not None:
        manifest = run_staged(root, manifest, digests, source, graphs, watch, allow_mismatch=output.allow_mismatch)
        digests = digests | _write_card(output, manifest)
    with watch.step("publish", "Publish") as step:
        published, manifest = _seal_and_publish(output, manifest, digests)
        step.done(str(output.path))
    final = published if output.single else tuple(output.path / name for name in (*manifest.files, MANIFEST_NAME))
    return Conversion(output.path, manifest, final, watch.wall, watch.cpu, peak_memory_bytes())


def _write(
    output: Output, to_export: ModelToExport, graphs: Sequence[CapturedGraph], watch: Stopwatch
) -> tuple[list[WrittenModel], dict[str, str]]:
    """The graphs, and in a folder what belongs to the model beside them; path -> sha256 of all these files."""
    from onnxport.artifact.assets import write_assets
    from onnxport.artifact.javascript_settings import write_javascript_settings
    from onnxport.loading.fast_tokenizer import write_tokenizer_json

    paths = [output.graph_file(captured.name) for captured in graphs]
    with watch.step("write", "Write") as step:
        files = replace(output.files, taken=output.staging.taken)
        written = write_graphs([captured.graph for captured in graphs], paths, output.final_folder, files, step)
        if not output.single and to_export.pipeline is not None:
            write_assets(
                to_export.pipeline, to_export.origin, output.staging.path, to_export.replaced, to_export.generation
            )  # fmt: skip
            write_tokenizer_json(getattr(to_export.pipeline, "tokenizer", None), output.staging.path)
            write_javascript_settings(output.staging.path)
        step.done(f"{sum(file.stat().st_size for file in _distinct(written)) / 1e6:.1f} MB")
    root = output.staging.path
    hashed = {
        (output.folder / name).relative_to(root).as_posix(): value
        for record in written
        for name, value in record.sha256.items()
    }
    return written, hash_files(root, hashed)


def _prove(
    output: Output, graphs: Sequence[CapturedGraph], written: Sequence[WrittenModel], watch: Stopwatch
) -> list[Ledger]:
    """The weights as they lie on the disk, against the checkpoint."""
    from onnxport.serialization.written_model import check_written
    from onnxport.verification.ledger.summary import ledger_summary

    ledgers: list[Ledger] = []
    with watch.step("weights", "Weights") as step:
        report = counted(step, sum(record.size_bytes for record in written))
        for captured, record in zip(graphs, written, strict=True):
            check_written(output.folder, record)
            ledgers.append(captured.weights.prove(output.graph_file(captured.name), report))
        step.done(ledger_summary(ledgers))
    return ledgers


def _verify(
    output: Output, graphs: Sequence[CapturedGraph], written: Sequence[WrittenModel], watch: Stopwatch
) -> list[Component]:
    """The graphs as they lie on the disk, against the source."""
    from onnxport.api.capture import verify_captured
    from onnxport.api.localise import locate_differences
    from onnxport.serialization.weights_file import write_weights

    root = output.staging.path
    paths = [output.graph_file(captured.name) for captured in graphs]
    components = []
    with watch.step("verify", "Verify") as step:
        for captured, file, record in zip(graphs, paths, written, strict=True):
            checksum = None if output.single else write_weights(file, record, root)
            found = verify_captured(captured, file, paths)  # it may restrict the graph
            components.append(
                replace(
                    _component(captured, file, root),
                    data_files=tuple(data.relative_to(root).as_posix() for data in record.files[1:]),
                    weights_checksum=checksum,
                    verification=found,
                )
            )
        step.done(_verification_summary(components))
    if output.load_again is not None:
        components = locate_differences(output.load_again, graphs, paths, components, watch)
    return components


def _quantize(
    output: Output, graphs: Sequence[CapturedGraph], digests: dict[str, str], watch: Stopwatch
) -> tuple[list[Component], dict[str, str]]:
    """A dynamically quantized int8 graph for each graph, against the source; `digests` with those of its files."""
    from onnxport.api.capture import verify_captured
    from onnxport.graph.quantization.quantize import quantize_dynamic, quantized_name
    from onnxport.verification.ledger.derived import prove_derived

    paths = [output.graph_file(captured.name) for captured in graphs]
    targets = [file.with_name(quantized_name(file.name, single=output.single)) for file in paths]
    with watch.step("quantize", "Quantize to int8") as step:
        for file, target in zip(paths, targets, strict=True):
            quantize_dynamic(file, target)
        step.done(f"{sum(target.stat().st_size for target in targets) / 1e6:.1f} MB")
    digests = hash_files(output.staging.path, digests)
    with watch.step("verify", "Verify int8") as step:
        found = [verify_captured(one, file, targets, "int8") for one, file in zip(graphs, targets, strict=True)]
        components = [
            replace(
                _component(captured, target, output.staging.path, "int8"),
                name=f"{captured.name}{_QUANTIZED}",
                derived_from=captured.name,
                ledger=prove_derived([file], target),
                verification=verification,
            )
            for captured, file, target, verification in zip(graphs, paths, targets, found, strict=True)
        ]
        step.done(_verification_summary(components))
    return components, digests


def _write_card(output: Output, manifest: Manifest) -> dict[str, str]:
    """The model card; its path -> sha256."""
    from onnxport.artifact.card import CARD_NAME, card_of

    root = output.staging.path
    card = card_of(root, manifest, output.path.name).encode()
    (root / CARD_NAME).write_bytes(card)
    return {CARD_NAME: hashlib.sha256(card).hexdigest()}


def _seal_and_publish(
    output: Output, manifest: Manifest, digests: dict[str, str]
) -> tuple[tuple[Path, ...], Manifest]:  # fmt: skip
    """Read every file again, write the manifest of a folder, and put everything in place.

    Args:
        digests: path -> sha256 of the files that must be as they were written.
    """
    root, sealed = output.staging.path, [manifest]

    def seal() -> None:
        if output.single:
            require_unchanged(root, digests)
        else:
            sealed.append(write_manifest(root, manifest, digests))

    return output.staging.publish(seal), sealed[-1]


def _require(manifest: Manifest, allow_mismatch: bool) -> None:
    """Stop at a graph that differs from the source; the error has what would have been published."""
    from onnxport.verification.evidence import require_agreement

    for component in manifest.components:
        assert component.verification is not None
        try:
            require_agreement(component.verification, allow_mismatch=allow_mismatch)
        except VerificationError as error:
            error.manifest = manifest
            raise


def _distinct(written: Sequence[WrittenModel]) -> set[Path]:
    return {file for record in written for file in record.files}


def _component(captured: CapturedGraph, file: Path, root: Path, precision: str = "float32") -> Component:
    from onnxport.artifact.data_files import graph_bytes
    from onnxport.graph.stats import file_operators

    graph = captured.graph
    return Component(
        name=captured.name,
        file=file.relative_to(root).as_posix(),
        opset=graph.stats.opset,
        precision=precision,
        parameters=graph.stats.parameters,
        inputs=graph.inputs,
        outputs=graph.signature.outputs,
        restrictions=graph.signature.restrictions,
        fixes=graph.fixes,
        operators=graph.stats.operators if precision == "float32" else file_operators(file),
        size_bytes=graph_bytes(file),
    )


def _manifest_of(to_export: ModelToExport, graphs: Sequence[CapturedGraph]) -> Manifest:
    import onnx
    import onnxruntime

    versions = {
        "onnxport": __version__,
        **to_export.source.versions(),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    return Manifest(
        task=to_export.task.name,
        framework=to_export.source.framework,
        source=to_export.name,
        architecture=to_export.architecture,
        versions=versions,
        components=(),
        notes=to_export.notes,
        unused=_unused(to_export, graphs),
    )


def _unused(to_export: ModelToExport, graphs: Sequence[CapturedGraph]) -> UnusedTensors | None:
    """What of the source no graph holds; None where all of it is in a graph, or nothing is known."""
    parameters = {name: why for captured in graphs for name, why in captured.weights.unused.items()}
    found = UnusedTensors(to_export.unused_tensors, parameters)
    return found if found.checkpoint or found.parameters else None


def _verification_summary(components: Sequence[Component]) -> str:
    found = [component.verification for component in components if component.verification is not None]
    word = "agree" if all(verification.passed for verification in found) else "DISAGREE"
    count, error = sum(len(v.cases) for v in found), max(v.max_abs_error for v in found)
    return f"{count} sets of inputs {word}, largest error {error:.2g}"
