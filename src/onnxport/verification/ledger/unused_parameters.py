"""Parameters of a model that none of its graphs holds: whether the model itself uses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import CheckpointError, VerificationError

if TYPE_CHECKING:
    import torch

    from onnxport.sources.base import Arrays, Source

_SHOWN = 4
# Part of an output's scale: random numbers in place of a weight move it further.
_NOISE = 1e-4
# Bytes of random numbers in memory at a time.
_AT_ONCE = 2**28
# Why no graph holds a parameter.
NOT_AN_OUTPUT = "no output depends on it"
NOT_READ = "the model's code does not read it"


def require_no_influence(source: Source, model: torch.nn.Module, names: Sequence[str], inputs: Arrays) -> None:
    """Check that no output moves when these parameters are replaced by random numbers.

    Args:
        source: runs the model.
        model: has the parameters.
        names: parameters that no graph holds.
        inputs: of the source.

    Raises:
        VerificationError: one of them has influence, so it was lost on the way to the graph.
    """
    before = source.run(inputs)
    for group in _groups(model, names):
        with _replaced(model, group):
            after = source.run(inputs)
        moved = [name for name in before if _moved(before[name], after[name])]
        if moved:
            raise VerificationError(
                f"{moved[0]} depends on {describe(group)}, and the graph does not hold "
                f"{'it' if len(group) == 1 else 'them'}.",
                hint="Report this model.",
            )


def _moved(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether an output depends on what was replaced; two equal runs may differ in the last place."""
    if before.shape != after.shape or before.dtype.kind not in "fc":
        return not np.array_equal(before, after)
    scale = float(np.abs(before[np.isfinite(before)]).max(initial=0))
    return not np.allclose(before, after, rtol=0, atol=_NOISE * scale, equal_nan=True)


def require_used(names: Sequence[str], architecture: str) -> None:
    """Refuse a live module with parameters that no output depends on.

    Raises:
        CheckpointError: always.
    """
    raise CheckpointError(
        f"No output of {architecture} depends on {len(names)} of its parameters: {describe(names)}. What they compute "
        "would be missing from the converted model.",
        hint="Does the sample lack an input that they need? To convert without them: `--allow-unused-weights` "
        "(allow_unused_weights=True).",
    )


def read_parameters(runs: Sequence[tuple[Source, Arrays]], parameters: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the parameters that some operator gets when the sources run.

    Args:
        runs: (source, its inputs).
        parameters: by name.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    names = {id(parameter): name for name, parameter in parameters.items()}
    found: set[str] = set()

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__name__", "") != "__get__":  # properties, as the version of a weight that we watch
                leaves = torch.utils._pytree.tree_leaves((args, kwargs))
                found.update(names[id(leaf)] for leaf in leaves if id(leaf) in names)
            return func(*args, **(kwargs or {}))

    for source, inputs in runs:
        with Watch():
            source.run(inputs)
    return found


def describe(names: Sequence[str]) -> str:
    """The first few names."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _groups(model: torch.nn.Module, names: Sequence[str]) -> Iterator[list[str]]:
    sizes: Mapping[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    group: list[str] = []
    size = 0
    for name in names:
        tensor = sizes[name]
        size += tensor.numel() * tensor.element_size()
        if group and size > _AT_ONCE:
            yield group
            group, size = [], tensor.numel() * tensor.element_size()
        group.append(name)
    if group:
        yield group


@contextmanager
def _replaced(model: torch.nn.Module, names: Sequence[str]) -> Iterator[None]:
    import torch

    kept: list[tuple[dict[str, Any], str, Any]] = []
    generator = torch.Generator().manual_seed(0)
    try:
        for name in names:
            path, _, last = name.rpartition(".")
            table: dict[str, Any] = model.get_submodule(path)._parameters
            old = table[last]
            if not old.is_floating_point():
                continue
            kept.append((table, last, old))
            numbers = torch.empty(tuple(old.shape), dtype=torch.float32).normal_(generator=generator)
            table[last] = torch.nn.Parameter(numbers.to(old.dtype), requires_grad=False)
        yield
    finally:
        for table, last, old in kept:
            table[last] = old
