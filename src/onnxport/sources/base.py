"""What a source is: a model of any framework, seen as a function of named arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from onnxport.errors import ExportError

if TYPE_CHECKING:
    from onnxport.sources.states import State

Arrays = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]


class MeasuredRun(Protocol):
    """One run of a source, and the means to learn what rounding does to it.

    Attributes:
        outputs: as `Source.run` gives them.
        changed: names of what the run changed in the model's state, which was put back.
    """

    outputs: Arrays
    changed: tuple[str, ...]

    def in_float64(self) -> Arrays:
        """The outputs from the same inputs and weights, computed in float64.

        Raises:
            Exception: that is not possible; of any type.
        """
        ...

    def decided_otherwise(self, seed: int) -> Arrays | None:
        """The outputs in float64 after decisions inside the model that perturbed numbers led to.

        Returns:
            None where these decisions are those of the run, or are not known.

        Raises:
            Exception: that is not possible; of any type.
        """
        ...

    def perturbed(self, seed: int) -> Arrays:
        """The outputs in float32 from numbers that are moved by one unit in the last place, at random.

        Raises:
            Exception: that is not possible; of any type.
        """
        ...


@dataclass(frozen=True)
class TwoRuns:
    """Two runs of a source on the same inputs.

    Attributes:
        first, second: outputs; the second run found the state that the first left behind.
        changed: names of what they changed in the model's state, as far as that is known.
    """

    first: Arrays
    second: Arrays
    changed: tuple[str, ...]


class Source(Protocol):
    """A model, and the outputs that are wanted from it.

    Attributes:
        framework: "pt" or "tf".
        outputs: names to keep, in this order; empty keeps all tensors that it returns.
        architecture: the class name to report.
        parameters: number of weights.
        weight_bytes: memory that they take.
    """

    framework: str
    outputs: tuple[str, ...]
    architecture: str
    parameters: int
    weight_bytes: int

    @property
    def largest_copy_bytes(self) -> int:
        """Memory for the weight that takes most when a run computes it from its file."""
        ...

    @property
    def version(self) -> str:
        """Name and version of the framework."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions of all libraries that the numbers depend on, by name."""
        ...

    def weights_kept(self) -> AbstractContextManager[None]:
        """For several runs one after the other."""
        ...

    def run(self, inputs: Arrays) -> Arrays:
        """The wanted outputs for `inputs`, computed for real."""
        ...

    def run_twice(self, inputs: Arrays) -> TwoRuns:
        """Two runs in a row, the second in the state that the first left behind."""
        ...

    def named_sizes(self) -> dict[int, str]:
        """Whole numbers that the model's config, attributes and code name, and where."""
        ...

    def measured(self, inputs: Arrays) -> MeasuredRun:
        """A run that can be repeated with less rounding and with more."""
        ...

    def shapes(self, inputs: Arrays) -> Shapes:
        """Output shapes for `inputs`."""
        ...

    def paths(self, samples: Sequence[Arrays]) -> list[tuple[str, ...]]:
        """The path that the model's code takes for each sample, as names of operators."""
        ...

    def tensors(self, inputs: Arrays) -> dict[str, Any]:
        """Arrays as tensors of the framework."""
        ...

    def release(self) -> None:
        """Let go of the model; the source cannot be run after that."""
        ...


@runtime_checkable
class Generates(Protocol):
    """A source that writes token by token.

    Attributes:
        image_token: stands for a row of image features in a prompt; None where no image is in the text.
    """

    image_token: int | None
    weight_bytes: int

    def generate(self, prompt: Arrays, steps: int) -> tuple[Any, Any, float]:
        """Greedy tokens by the framework's own generation, past any end of text.

        Returns:
            tokens (rows, steps) int64; by how much the best logit leads the second (rows, steps);
            the largest |logit|.
        """
        ...


@dataclass(frozen=True)
class ModuleOutput:
    """What one call of a module of the source gave, or an operator in it.

    Attributes:
        module: path of the module: "bert.encoder.layer.0.attention.self"; the model itself is "".
        kind: its class.
        values: arrays of any shape; floats in float32.
    """

    module: str
    kind: str
    values: tuple[np.ndarray, ...]


@runtime_checkable
class Observable(Protocol):
    """A source whose modules can be watched in a run."""

    def modules(self, inputs: Arrays) -> list[ModuleOutput]:
        """What each module gave, in the order in which the calls ended."""
        ...

    def operators(self, inputs: Arrays, first: int, last: int) -> list[ModuleOutput]:
        """What operators gave after call `first` of `modules` ended and before call `last` did, with their modules."""
        ...


class Encodes(Protocol):
    """The encoder of an encoder-decoder, as its decoder's samples are made from it.

    Attributes:
        states: of the cross-attention.
        gives_mask: whether its outputs have a mask, shorter than the one that it is given.
    """

    states: tuple[State, ...]
    gives_mask: bool

    def run(self, inputs: Arrays) -> Arrays: ...

    def shapes(self, inputs: Arrays) -> Shapes: ...


def named_leaves(result: object, is_tensor: Callable[[object], bool], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Tensors of a nested result with a name: the key of a mapping, `output` or `output_N` where there is none."""
    if is_tensor(result):
        yield prefix or "output", result
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from named_leaves(value, is_tensor, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(result, (tuple, list)):
        for index, value in enumerate(result):
            yield from named_leaves(value, is_tensor, f"{prefix}.{index}" if prefix else f"output_{index}")


def numbers_of(values: object, name: str = "", depth: int = 4) -> Iterator[tuple[int, str]]:
    """(number, name) of the whole numbers in a config, and in the dicts, lists and configs in it.

    >>> list(numbers_of({"window": 64, "layers": [1, 2], "tied": True}))
    [(64, 'window'), (1, 'layers'), (2, 'layers')]
    """
    if isinstance(values, int) and not isinstance(values, bool):
        yield values, name
    elif not depth:
        return
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from numbers_of(value, str(key), depth - 1)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from numbers_of(value, name, depth - 1)
    elif hasattr(values, "to_dict"):
        yield from numbers_of(vars(values), name, depth - 1)


def wanted_outputs(tensors: dict[str, Any], outputs: Sequence[str], architecture: str) -> dict[str, Any]:
    """Those of `outputs` that a model gave, in this order; all where none is named.

    Raises:
        ExportError: none of the wanted outputs is there.
    """
    if not outputs:
        return tensors
    kept = {name: tensors[name] for name in outputs if name in tensors}
    if not kept:
        raise ExportError(
            f"{architecture} gave {', '.join(tensors) or 'no tensor'}, but the task needs one of {', '.join(outputs)}.",
            hint="Choose another task: `onnxport tasks` shows them.",
        )
    return kept


@dataclass(frozen=True)
class Declared:
    """One input.

    Attributes:
        name: of the input.
        dtype: numpy name of its type.
        axes: sizes; None is free.
    """

    name: str
    dtype: str
    axes: tuple[int | None, ...]

    @property
    def is_mask(self) -> bool:
        return "mask" in self.name.lower()


def first_token(model: Any) -> int:
    """`decoder_start_token_id`, or the beginning of a text, as `generate` chooses it; a model of either framework."""
    known = [
        getattr(part, name, None)
        for name in ("decoder_start_token_id", "bos_token_id")
        for part in (model.generation_config, model.config, model.config.get_text_config(decoder=True))
    ]
    return next((int(token) for token in known if isinstance(token, int)), 0)
