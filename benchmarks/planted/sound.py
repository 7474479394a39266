"""False alarms: sound models, with small and large numbers in their matrices."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.planted.conversion import Conversion
from benchmarks.planted.fault import Model, Result
from benchmarks.planted.models import MINILM, MODELS
from tests.graphs.models import MODELS as ROWS

Report = Callable[[dict[str, Any]], None]


def sound_jobs(
    factors: list[float], only: re.Pattern[str], known: dict[str, Result], report: Report
) -> list[Callable[[Path], None]]:
    """A job for each model and factor: it converts the model with every matrix x the factor."""
    rows = {MINILM: MODELS[MINILM]}
    for name, row in ROWS.items():
        settings = {key: value for key, value in row.settings.items() if key not in ("quantize", "allow_mismatch")}
        rows[name] = Model(row.make, settings, row.output)
    jobs: list[Callable[[Path], None]] = []
    for factor in factors:
        for name, model in rows.items():
            title = f"{name} x {factor:g}"
            if only.search(title) and f"{title}: sound" not in known and not (name == MINILM and factor != 1):
                scaled = replace(model, make=lambda folder, m=model, f=factor: scaled_by(m.make(folder), f))  # type: ignore[misc]
                jobs.append(lambda root, t=title, m=scaled: Conversion(t, m, root, report).run(()))  # type: ignore[misc]
    return jobs


def scaled_by(given: dict[str, Any], factor: float) -> dict[str, Any]:
    """Every matrix x the factor: in a checkpoint's files, or in a live model. Others stay as they are."""
    model = given["model"]
    if factor == 1:
        return given
    if hasattr(model, "named_parameters"):
        import torch

        with torch.no_grad():
            for _, tensor in model.named_parameters():
                if tensor.dim() > 1:
                    tensor.mul_(factor)
    elif hasattr(model, "weights"):
        for variable in model.weights:
            if len(variable.shape) > 1:
                variable.assign(variable.numpy() * factor)
    else:
        _scale_files(Path(model), factor)
    return given


def _scale_files(folder: Path, factor: float) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    for file in sorted(folder.rglob("*.safetensors")) if folder.is_dir() else ():
        with safe_open(file, framework="np") as opened:
            metadata = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        scaled = {n: v * v.dtype.type(factor) if v.ndim > 1 and v.dtype.kind == "f" else v for n, v in tensors.items()}
        save_file(scaled, file, metadata)
