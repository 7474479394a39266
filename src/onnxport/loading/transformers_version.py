"""Which transformers wrote a checkpoint, and what to do where the installed one does not know it.

`config.json` names the version that wrote it (`transformers_version`). A family or a setting that a later version
brought is unknown here, and a family that version 5 dropped is unknown too: these need different advice.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

_OWN_CODE = (
    "With modeling code of your own, load the model in Python: onnxport.convert(None, model, OUTPUT, sample_inputs=...)"
)


def written_by(config: Mapping[str, Any]) -> str | None:
    """The version of transformers that wrote a config, None where it does not say."""
    found = config.get("transformers_version")
    return found if isinstance(found, str) and _version(found) is not None else None


def is_newer(written: str | None) -> bool:
    """Whether a checkpoint was written by a later minor version than the installed one."""
    from transformers import __version__

    ours, theirs = _version(__version__), _version(written)
    return ours is not None and theirs is not None and theirs.release[:2] > ours.release[:2]


def newer_note(written: str | None) -> str | None:
    """A note for a checkpoint that a later version wrote; None for any other."""
    from transformers import __version__

    if not is_newer(written):
        return None
    return (
        f"The checkpoint was written by transformers {written}, and {__version__} is installed: settings that it does "
        "not know yet are ignored."
    )


def upgrade_hint(written: str) -> str:
    """How to get a transformers that is at least `written`, or why that cannot be had yet."""
    allowed, version = _allowed(), _version(written)
    if allowed is None or version is None:
        return f'pip install --upgrade "transformers>={written}"'
    if allowed.contains(version, prereleases=True):
        return f'pip install "transformers~={version}"'
    return f"pip install --upgrade onnxport; the installed one works with transformers {allowed} only."


def unknown_type_hint(model_type: str, written: str | None, known: Iterable[str], framework: str) -> str:
    """What to do about a model type that the installed transformers does not know."""
    if framework == "tf":
        return "TF classes end with transformers 4. With PyTorch weights: `--framework pt`."
    if written is not None and is_newer(written):
        return upgrade_hint(written)
    close = get_close_matches(model_type, list(known), n=3, cutoff=0.8)
    if close:
        names = " or ".join(repr(name) for name in close)
        return f"If it is a spelling mistake in config.json, write {names} there. {_OWN_CODE}."
    if (version := _version(written)) is not None and version.major < 5:
        return f"transformers 5 may have dropped it. {_OWN_CODE}."
    return f"{_OWN_CODE}."


def _version(text: str | None) -> Any:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text) if text else None
    except InvalidVersion:
        return None


def _allowed() -> Any:
    """The versions of transformers that this onnxport declares, None where it is not installed as a package."""
    from packaging.requirements import Requirement

    try:
        declared = importlib.metadata.requires("onnxport") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Requirement(line) for line in declared)
    return next((one.specifier for one in found if one.name == "transformers"), None)
