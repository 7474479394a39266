"""Write what was captured, verify it where it was written, and put it in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport._version import __version__
from onnxport.artifact.folder import write_manifest
from onnxport.artifact.manifest import Component, Manifest
from onnxport.artifact.results import Conversion
from onnxport.graph.write import WeightFiles, write_graphs
from onnxport.publishing.staging import FileStaging, Staging
from onnxport.system.timing import Stopwatch, peak_memory_bytes

if TYPE_CHECKING:
    from onnxport.api.capture import CapturedGraph
    from onnxport.loading.model_to_export import ModelToExport
    from onnxport.serialization.written_model import WrittenModel


GRAPH_FOLDER = "onnx"


def publish(
    staging: Staging, output: Path, to_export: ModelToExport, captured_graphs: list[CapturedGraph],
    manifest: Manifest, watch: Stopwatch, *,
    files: WeightFiles, quantized: bool, allow_mismatch: bool,
) -> Conversion:  # fmt: skip
    """Write into the staging folder, verify there, and put it in place."""
    from onnxport.api.capture import verify_captured
    from onnxport.artifact.assets import write_assets
    from onnxport.artifact.card import render_card
    from onnxport.graph.quantization.quantize import quantize_dynamic, quantized_name
    from onnxport.serialization.weights_file import write_weights
    from onnxport.serialization.written_model import check_written

    single = isinstance(staging, FileStaging)
    folder = staging.path if single else staging.path / GRAPH_FOLDER
    paths = [folder / (output.name if single else f"{captured.name}.onnx") for captured in captured_graphs]
    with watch.step("write", "Write") as step:
        written = write_graphs(
            [captured.graph for captured in captured_graphs],
            paths,
            output.parent if single else output / GRAPH_FOLDER,
            files,
            step,
        )
        if not single and to_export.pipeline is not None:
            write_assets(to_export.pipeline, to_export.origin, staging.path, to_export.replaced, to_export.generation)
        step.done(f"{sum(file.stat().st_size for file in _distinct(written)) / 1e6:.1f} MB")
    for captured in captured_graphs:
        captured.graph.release()  # the weights are on disk now, and the session needs the memory
    to_export.release()
    components = []
    with watch.step("verify", "Verify") as step:
        for captured, file, record in zip(captured_graphs, paths, written, strict=True):
            check_written(folder, record)
            component = replace(
                _component(captured, file, staging.path, "float32"),
                data_files=tuple(data.relative_to(staging.path).as_posix() for data in record.files[1:]),
                weights_checksum=None if single else write_weights(file, record, staging.path),
            )
            components.append(replace(component, verification=verify_captured(captured, file, paths)))
        step.done(_verification_summary(components))
    _require(components, allow_mismatch)
    if quantized:
        targets = [file.with_name(quantized_name(file.name, single=single)) for file in paths]
        with watch.step("quantize", "Quantize to int8") as step:
            for file, target in zip(paths, targets, strict=True):
                quantize_dynamic(file, target)
            step.done(f"{sum(target.stat().st_size for target in targets) / 1e6:.1f} MB")
        with watch.step("verify", "Verify int8") as step:
            smaller = [
                replace(
                    _component(captured, target, staging.path, "int8", "_quantized"),
                    verification=verify_captured(captured, target, targets, "int8"),
                )
                for captured, target in zip(captured_graphs, targets, strict=True)
            ]
            step.done(_verification_summary(smaller))
        _require(smaller, allow_mismatch)
        components += smaller
    with watch.step("publish", "Publish") as step:
        manifest = replace(manifest, components=tuple(components))
        if not single:
            card = render_card(manifest, output.name, tokenizer=(staging.path / "tokenizer.json").is_file())
            (staging.path / "README.md").write_text(card, encoding="utf-8")
            hashes = {f"{GRAPH_FOLDER}/{name}": value for record in written for name, value in record.sha256.items()}
            manifest = write_manifest(staging.path, manifest, hashes)
        published = staging.publish()
        step.done(str(output))
    final = published if single else tuple(output / name for name in (*manifest.files, "onnxport.json"))
    return Conversion(output, manifest, final, watch.wall, watch.cpu, peak_memory_bytes())


def _require(components: Sequence[Component], allow_mismatch: bool) -> None:
    from onnxport.verification.evidence import require_agreement

    for component in components:
        assert component.verification is not None
        require_agreement(component.verification, allow_mismatch=allow_mismatch)


def _distinct(written: Sequence[WrittenModel]) -> set[Path]:
    return {file for record in written for file in record.files}


def _component(captured: CapturedGraph, file: Path, root: Path, precision: str, suffix: str = "") -> Component:
    from onnxport.artifact.data_files import graph_bytes
    from onnxport.graph.stats import file_operators

    graph = captured.graph
    return Component(
        name=captured.name + suffix,
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


def manifest_of(to_export: ModelToExport) -> Manifest:
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
    )


def _verification_summary(components: Sequence[Component]) -> str:
    found = [component.verification for component in components if component.verification is not None]
    word = "agree" if all(verification.passed for verification in found) else "DISAGREE"
    count, error = sum(len(v.cases) for v in found), max(v.max_abs_error for v in found)
    return f"{count} sets of inputs {word}, largest error {error:.2g}"
