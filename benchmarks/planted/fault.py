"""What a fault is, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Where a fault is planted, in the order of a conversion.
STAGES = {
    "checkpoint": "the files of the checkpoint, before they are read",
    "loading": "the model as its library loaded it, before we check what was loaded",
    "loaded": "the loaded model, which reference and exporter both see",
    "exporter": "the model, while the exporter sees it and after the reference was recorded",
    "graph": "the finished graph in memory; weights keep the record of where they came from",
    "written": "the written graphs; their own checksums are those of the wrong bytes",
    "copied": "configs, tokenizer and preprocessor, just after they were written",
    "disk": "bytes on the disk, between writing and verification",
    "verified": "the staged files, between verification and the manifest with their hashes",
    "staged": "the staged files, when publication begins",
    "sealed": "the staged files, after the manifest with their hashes was written and before the rename",
    "quantized": "an int8 or int4 graph, just after it was written",
}


class NothingToPlantError(Exception):
    """The place that a fault is for is not in this model."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong in one conversion.

    Attributes:
        name: unique: "bert-fill-mask: one word row x 1.01".
        model: a row of `models.MODELS`.
        stage: a key of `STAGES`.
        plant: called with what the stage hands out (`conversion.py`). At "exporter" it returns a context manager.
        part: number of the graph, where the model becomes several.
        precision: of the variant, at the stage "quantized".
    """

    name: str
    model: str
    stage: str
    plant: Callable[[Any], Any]
    part: int = 0
    precision: str = ""


Row = tuple[str, str, Callable[[Any], Any]]  # what goes wrong, stage, plant


def of_model(model: str, rows: list[Row], part: int = 0, precision: str = "", ending: str = "") -> Iterator[Fault]:
    """The rows as faults of a model; `ending` tells them from others of the same name."""
    for name, stage, plant in rows:
        full = f"{model}: {name}{f', {ending}' if ending else ''}"
        yield Fault(full, model, stage, plant, part, precision)


@dataclass
class Result:
    """What became of a fault, or of a sound conversion.

    Attributes:
        outcome: "caught", "MISSED" (published), "no effect" (published, and nothing that a user has differs),
            "restricted" (published, and the manifest rules out the sizes at which outputs differ),
            "found later" (published, but `onnxport verify` refuses the folder), "broken" (the fault could not be
            planted, or the harness failed), "timeout"; of a sound conversion "sound" or "FALSE ALARM".
        by: the class of the error that stopped it, and its exit code.
        message: of the error.
        ratio: the largest error over its tolerance in all compared outputs; None where nothing was compared.
        effect: what the fault changed, of one that was published.
        seconds: CPU of the conversion from the fault on, of the sound conversion all of it.
        steps: CPU seconds of each step.
    """

    fault: str
    model: str
    stage: str
    outcome: str
    by: str = ""
    message: str = ""
    ratio: float | None = None
    effect: str = ""
    seconds: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A model whose conversions go wrong.

    Attributes:
        make: writes a checkpoint into a folder; arguments of `onnxport.convert`.
        settings: more of these.
        output: name of the folder or file that is written.
        forks: whether the framework can run on in a fork. TensorFlow's threads do not survive one.
    """

    make: Callable[[Path], dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    output: str = "out"
    forks: bool = True
