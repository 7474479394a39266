"""The original's after-steps on what was already converted: `optimize` and `quantize`.

The source model is not at hand, so a new graph is compared with the one it was made from, at
the sizes of the manifest's evidence. In a folder it becomes a further component, and the folder
is replaced as a whole; beside a single graph it is a further file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from onnxport.artifact.data_files import data_files
from onnxport.artifact.folder import read_folder, write_manifest
from onnxport.artifact.hashes import check_files, walk_files
from onnxport.artifact.manifest import MANIFEST_NAME, Manifest, TensorSpec, Verification
from onnxport.artifact.staging import stage, stage_file
from onnxport.errors import FolderError, VerificationError
from onnxport.graph.inputs import evidence_sizes, guess_sizes, random_inputs, vocabulary_size
from onnxport.graph.optimize import optimize_graph
from onnxport.graph.quantize import quantize_dynamic, quantized_name
from onnxport.graph.stats import file_bytes, file_operators
from onnxport.quiet import quiet

Write = Callable[[Path, Path], None]


def optimize(path: str | Path) -> Path:
    """Store ONNX Runtime's fused graph: `onnx/model_optimized.onnx` in a folder, `-optimized` beside a file.

    Returns:
        The file that was written.

    Raises:
        FolderError: no such folder or file, or it is damaged.
        VerificationError: the new graph's numbers differ from the graph's; nothing was written.
    """
    return _add(Path(path).expanduser(), "optimized", "float32", optimize_graph)


def quantize(path: str | Path) -> Path:
    """Store a dynamically quantized int8 graph: `onnx/model_quantized.onnx` in a folder, `-quantized` beside a file.

    Returns:
        The file that was written.

    Raises:
        FolderError: no such folder or file, or it is damaged.
        VerificationError: it is further from the graph than the tolerance for int8; nothing was written.
    """
    return _add(Path(path).expanduser(), "quantized", "int8", quantize_dynamic)


def _add(path: Path, suffix: str, precision: str, write: Write) -> Path:
    with quiet():
        return (_add_file if path.suffix == ".onnx" else _add_component)(path, suffix, precision, write)


def _add_component(folder: Path, suffix: str, precision: str, write: Write) -> Path:
    manifest = read_folder(folder)
    check_files(folder, manifest)
    base = next((c for c in manifest.components if c.name == "model"), None)
    if base is None:
        raise FolderError(f"{folder} has no component 'model'. Nothing was written.")
    name = f"model_{suffix}"
    file = Path(base.file).with_name(f"{name}.onnx")
    with stage(folder, overwrite=True) as staging:
        target = staging.path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        write(folder / base.file, target)  # first: onnx refuses to read weights once they have a second name
        old = (folder / file, *data_files(folder / file))
        stale = {MANIFEST_NAME, *(path.relative_to(folder).as_posix() for path in old)}
        for relative in walk_files(folder):
            if relative not in stale and not (staging.path / relative).exists():
                _link(folder / relative, staging.path / relative)
        verification = _compare(
            staging.path / base.file, target, base.inputs, base.outputs, evidence_sizes(base),
            vocabulary_size(folder), precision,
        )  # fmt: skip
        component = replace(
            base, name=name, file=file.as_posix(), precision=precision, verification=verification,
            operators=file_operators(target), size_bytes=file_bytes(target), weights_checksum=None,
            data_files=tuple(path.relative_to(staging.path).as_posix() for path in data_files(target)),
        )  # fmt: skip
        kept = tuple(c for c in manifest.components if c.name != name)
        manifest = replace(manifest, components=(*kept, component))
        _write_card(staging.path, manifest, folder.resolve().name)
        write_manifest(staging.path, manifest)
        staging.publish()
    return folder / file


def _write_card(root: Path, manifest: Manifest, name: str) -> None:
    """A new card where the card's template engine is installed; else the old one stays."""
    try:
        from onnxport.artifact.card import render_card

        text = render_card(manifest, name)
    except ImportError:
        return
    card = root / "README.md"
    card.unlink(missing_ok=True)  # it may be a hard link to the folder that is being replaced
    card.write_text(text, encoding="utf-8")


def _add_file(file: Path, suffix: str, precision: str, write: Write) -> Path:
    from onnxport.runtime.session import OnnxSession

    session = OnnxSession(file)
    inputs, outputs = session.inputs, session.outputs
    del session
    name = quantized_name(file.name, single=True).replace("quantized", suffix)
    with stage_file(file.with_name(name), overwrite=True) as staging:
        target = staging.path / name
        write(file, target)
        sizes = [guess_sizes(inputs), guess_sizes(inputs, more=1)]
        _compare(file, target, inputs, outputs, sizes, 100, precision)
        staging.publish()
    return file.with_name(name)


def _compare(
    reference: Path, target: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...],
    sizes: list[dict[str, int]], vocabulary: int, precision: str,
) -> Verification:  # fmt: skip
    from onnxport.comparison import Case, compare
    from onnxport.runtime.session import OnnxSession

    session = OnnxSession(reference)
    cases = []
    for number, case in enumerate(sizes):
        arrays = random_inputs(inputs, case, vocabulary, number)
        cases.append(Case(f"evidence {number + 1}", case, arrays, session.run(arrays)))
    del session
    verification = compare(
        target, cases, decision=None, outputs=outputs, source=f"the graph {reference.name}", precision=precision
    )
    if not verification.passed:
        raise VerificationError(
            f"{target.name} differs from {reference.name} by {verification.max_abs_error:.3g} "
            f"({verification.max_rel_error:.2g} of the scale). Nothing was written.",
            hint="Keep the graph as it is.",
            verification=verification,
        )
    return verification


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system has them: the weights are not copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
