"""A folder with something more in it: what stays is linked, not copied."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from onnxport.artifact.folder import write_manifest
from onnxport.artifact.hashes import walk_files
from onnxport.artifact.manifest import Component, Manifest


def link_rest(folder: Path, staging: Path, stale: Collection[str]) -> None:
    """Give the staging folder what `folder` has, less what it has already and `stale`.

    Args:
        stale: paths relative to the folder, "/" separated.

    Raises:
        OSError: a file cannot be linked or copied.
    """
    for relative in walk_files(folder):
        if relative not in stale and not (staging / relative).exists():
            _link(folder / relative, staging / relative)


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system has them: the weights are not copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def add_components(root: Path, manifest: Manifest, made: Sequence[Component], name: str) -> None:
    """Write card and manifest of the staging folder `root`, with these graphs; those of the same names are replaced.

    Args:
        manifest: of the folder that is being replaced.
        name: of that folder, for the card.
    """
    names = {component.name for component in made}
    kept = tuple(component for component in manifest.components if component.name not in names)
    manifest = replace(manifest, components=(*kept, *made))
    replace_card(root, manifest, name)
    write_manifest(root, manifest)


def replace_card(root: Path, manifest: Manifest, name: str) -> None:
    """A new card in the staging folder `root` where its template engine is installed; else the old one stays."""
    try:
        from onnxport.artifact.card import render_card

        text = render_card(manifest, name, tokenizer=(root / "tokenizer.json").is_file())
    except ImportError:
        return
    card = root / "README.md"
    card.unlink(missing_ok=True)  # it may be a hard link to the folder that is being replaced
    card.write_text(text, encoding="utf-8")
