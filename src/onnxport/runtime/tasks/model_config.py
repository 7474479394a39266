"""What a folder's config.json says about a model's outputs: labels, and what kind of problem they solve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxport.formats.json_file import read_object

_DEFAULT_LABELS = 2  # transformers', where config.json names none


@dataclass(frozen=True)
class ModelConfig:
    """A config.json.

    Attributes:
        values: the whole file.
        labels: class -> its name; empty for a config without classes.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        return str(self.values.get("model_type", ""))

    @property
    def problem_type(self) -> str | None:
        """One of "regression", "multi_label_classification", "single_label_classification", or None."""
        found: str | None = self.values.get("problem_type")
        return found

    @property
    def class_of(self) -> Mapping[str, int]:
        """Name of a class -> its number, in the order of the file."""
        known = self.values.get("label2id")
        if isinstance(known, dict) and known:
            return {str(name): int(number) for name, number in known.items()}
        return {name: number for number, name in self.labels.items()}

    def label(self, number: int) -> str:
        """The name of a class."""
        return self.labels.get(number, f"LABEL_{number}")

    def first_int(self, *names: str) -> int | None:
        """The first of these values that is a whole number."""
        return next((self.values[name] for name in names if isinstance(self.values.get(name), int)), None)


def read_model_config(folder: Path) -> ModelConfig:
    """The config of a folder; an empty one where there is no config.json.

    Raises:
        CheckpointError: the file is not a JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        return ModelConfig()
    values = read_object(file)
    known = values.get("id2label")
    if isinstance(known, dict) and known:
        labels = {int(number): str(name) for number, name in known.items()}
    else:
        count = values.get("num_labels", values.get("_num_labels", _DEFAULT_LABELS))
        labels = {number: f"LABEL_{number}" for number in range(count if isinstance(count, int) else _DEFAULT_LABELS)}
    return ModelConfig(values, labels)
