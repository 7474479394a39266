"""What all pipelines have in common: settings, lists and generators of inputs, batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any, ClassVar

from onnxport.errors import UsageError, did_you_mean
from onnxport.runtime.closing import Closing
from onnxport.runtime.preprocessing.texts import Row
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.tasks.model import Padding, TaskModel

# Arguments of transformers' pipelines that choose how to run, and change no result.
_WITHOUT_EFFECT = ("num_workers",)
_WINDOW = 8  # batches that are prepared at a time, from which rows of similar length are chosen


@dataclass(frozen=True)
class Prepared:
    """One input, ready for the graph.

    Attributes:
        rows: arrays by name; several where the input is cut into windows, or is asked several questions.
        context: what the answer needs beside the outputs.
    """

    rows: Sequence[Row]
    context: Any = None


@dataclass(frozen=True)
class NoSettings:
    """A task without settings."""


class TaskPipeline(Closing, ABC):
    """`pipeline(input)` returns the answer, and `pipeline([input, ...])` a list; a generator gives a generator.

    Args:
        model: the graph.
        task: name of the task.
        settings: defaults of the arguments of a call; `batch_size` is the number of inputs that run together.

    Attributes:
        task, model: the arguments.
        folder: the path of the folder.
        notes: what the folder's manifest says a user must know.
    """

    Settings: ClassVar[type[Any]] = NoSettings
    # Old and other spellings of arguments.
    aliases: ClassVar[Mapping[str, str]] = {}

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        self.model, self.task = model, task
        self.folder = model.folder.path
        self.notes = model.folder.manifest.notes
        self.batch_size = int(settings.pop("batch_size", None) or 1)
        self.settings = self._read(self.Settings(), settings)

    @property
    def sessions(self) -> Sequence[OnnxSession]:
        return (self.model.session,)

    @abstractmethod
    def prepare(self, item: Any, settings: Any) -> Prepared:
        """The rows of one input.

        Raises:
            UsageError: the input cannot be used.
        """

    @abstractmethod
    def answer(self, outputs: Sequence[Row], context: Any, settings: Any) -> Any:
        """The answer to one input, from the outputs of its rows."""

    def padding(self) -> Padding:
        """How rows of different lengths are put together; not at all by default."""
        return Padding()

    def run(self, rows: Sequence[Row], size: int) -> list[Row]:
        """The outputs of rows, `size` of which run together."""
        return self.model.run(rows, self.padding(), size)

    def is_one(self, inputs: Any) -> bool:
        """Whether this is one input, and not a list of inputs."""
        return not isinstance(inputs, (list, tuple))

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **settings: Any) -> Any:
        """The answer to an input, or the answers to a list of inputs.

        Args:
            inputs: one input, a list of inputs, or a generator of inputs.
            batch_size: inputs that run together; those of similar length do.
            settings: the task's own.

        Raises:
            UsageError: an input that cannot be used, or a setting that the task does not have.
        """
        chosen = self._read(self.settings, settings)
        size = self.batch_size if batch_size is None else batch_size
        if isinstance(inputs, Iterator):
            return self._stream(inputs, chosen, size)
        if self.is_one(inputs):
            return self._answers([inputs], chosen, size)[0]
        return list(self._stream(iter(inputs), chosen, size))

    def _stream(self, inputs: Iterator[Any], settings: Any, size: int) -> Iterator[Any]:
        while items := list(islice(inputs, size * _WINDOW)):
            yield from self._answers(items, settings, size)

    def _answers(self, items: Sequence[Any], settings: Any, size: int) -> list[Any]:
        prepared = [self.prepare(item, settings) for item in items]
        outputs = iter(self.run([row for one in prepared for row in one.rows], size))
        return [self.answer(list(islice(outputs, len(one.rows))), one.context, settings) for one in prepared]

    def _read(self, defaults: Any, given: Mapping[str, Any]) -> Any:
        """`defaults` with what was given.

        Raises:
            UsageError: a setting that the task does not have.
        """
        names = [one.name for one in fields(defaults)]
        values = {}
        for name, value in given.items():
            own = self.aliases.get(name, name)
            if own in names:
                values[own] = value
            elif name not in _WITHOUT_EFFECT:
                hint = did_you_mean(name, names) if names else f"Leave {name} out."
                raise UsageError(f"The task {self.task} has no setting {name!r}.", hint=hint)
        return replace(defaults, **values)


def at_least(number: Any, least: int, name: str) -> None:
    """Check a setting.

    Raises:
        UsageError: not a whole number, or a smaller one.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise UsageError(f"{name} is {number!r}, it must be a whole number from {least} on.", hint=f"{name}={least}")
