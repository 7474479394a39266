"""A small onnxport folder, and ways to publish it and look at it, for the tests of staging."""

from __future__ import annotations

from pathlib import Path

from onnxport.artifact.folder import write_manifest
from onnxport.artifact.manifest import MANIFEST_NAME, Manifest
from onnxport.publishing.staging import stage
from tests.unit.sample_manifest import make_manifest


def fill(folder: Path, text: str = "graph") -> Manifest:
    """What a conversion writes, in small."""
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_text(text)
    (folder / "config.json").write_text("{}")
    return write_manifest(folder, make_manifest())


def publish(destination: Path, text: str = "graph", *, overwrite: bool = False) -> None:
    with stage(destination, overwrite=overwrite) as staging:
        fill(staging.path, text)
        assert staging.publish() == (destination,)


def tree(root: Path) -> dict[str, str]:
    """Every path below `root`, hidden ones too, to its content."""
    return {str(p.relative_to(root)): p.read_text() if p.is_file() else "/" for p in sorted(root.rglob("*"))}


FOLDER = {"config.json", "onnx", "onnx/model.onnx", MANIFEST_NAME}
