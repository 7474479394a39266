"""Faults in a torch module or a Keras model: what the exporter sees is not what the reference was."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmarks.planted.fault import NothingToPlantError

Seen = Callable[[Any], AbstractContextManager[None]]


def owners(model: Any, kind: str) -> list[Any]:
    """Modules whose class name matches."""
    found = [module for _, module in model.named_modules() if re.search(kind, type(module).__name__)]
    if not found:
        raise NothingToPlantError(f"no module {kind} in {type(model).__name__}")
    return found


@contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    if not hasattr(owner, name):
        raise NothingToPlantError(f"{type(owner).__name__} has no {name}")
    before = getattr(owner, name)
    setattr(owner, name, value(before) if callable(value) and not hasattr(value, "forward") else value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def attribute(kind: str, name: str, value: Any, number: int | None = 0) -> Seen:
    """An attribute of one module, or of all (`number=None`); a callable gets the value that is there."""

    @contextmanager
    def plant(source: Any) -> Iterator[None]:
        from contextlib import ExitStack

        found = owners(source.model, kind)
        with ExitStack() as stack:
            for module in found if number is None else [found[number]]:
                stack.enter_context(_set(module, name, value))
            yield

    return plant


def setting(name: str, value: Any) -> Seen:
    """An attribute of all configs in the model."""

    @contextmanager
    def plant(source: Any) -> Iterator[None]:
        configs = {id(c): c for m in source.model.modules() if hasattr(c := getattr(m, "config", None), name)}
        if not configs:
            raise NothingToPlantError(f"no config has {name}")
        before = [(config, getattr(config, name)) for config in configs.values()]
        for config, was in before:
            setattr(config, name, value(was) if callable(value) else value)
        try:
            yield
        finally:
            for config, was in before:
                setattr(config, name, was)

    return plant


def parameter(pattern: str, change: Callable[[Any], Any]) -> Seen:
    """The first parameter or buffer that matches has other numbers."""

    @contextmanager
    def plant(source: Any) -> Iterator[None]:
        import torch

        for prefix, owner in source.model.named_modules():
            for name, tensor in [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]:
                if re.search(pattern, f"{prefix}.{name}"):
                    with torch.no_grad():
                        made = change(torch.clone(tensor + 0))
                    is_parameter = isinstance(tensor, torch.nn.Parameter) or name in owner._parameters
                    table = owner._parameters if is_parameter else owner._buffers
                    table[name] = torch.nn.Parameter(made, requires_grad=False) if is_parameter else made
                    try:
                        yield
                    finally:
                        table[name] = tensor
                    return
        raise NothingToPlantError(f"no parameter {pattern}")

    return plant


def swapped_layers(pattern: str = r"(layer|layers|h|block|blocks)$") -> Seen:
    """The first two layers of the first list of layers change places."""

    @contextmanager
    def plant(source: Any) -> Iterator[None]:
        for name, module in source.model.named_modules():
            if type(module).__name__ == "ModuleList" and re.search(pattern, name) and len(module) > 1:
                module[0], module[1] = module[1], module[0]
                try:
                    yield
                finally:
                    module[0], module[1] = module[1], module[0]
                return
        raise NothingToPlantError("no list of layers")

    return plant


def forward(kind: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]], number: int = 0) -> Seen:
    """The forward of a module does something else."""

    @contextmanager
    def plant(source: Any) -> Iterator[None]:
        import functools

        module = owners(source.model, kind)[number]
        original = module.forward
        module.forward = functools.wraps(original)(wrap(original))
        try:
            yield
        finally:
            module.__dict__.pop("forward", None)
            if module.forward != original:
                module.forward = original

    return plant


def without(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An argument is not passed on."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            named.pop(name, None)
            return original(*arguments, **named)

        return call

    return wrap


def mask_of_ones(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A mask is all ones, in the type that it has."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            import torch

            named[name] = torch.ones_like(named[name])
            return original(*arguments, **named)

        return call

    return wrap


# The model that both see

_KEPT: list[Any] = []  # what is forgotten is undone


def loaded(plant: Seen, part: int = 0) -> Callable[[Any], None]:
    """The same edit for the whole conversion: reference and exporter agree, and both are wrong."""

    def edit(to_export: Any) -> None:
        changed = plant(to_export.parts[part].source)
        changed.__enter__()
        _KEPT.append(changed)

    return edit


def exchange_loaded(first: str, second: str, copy: bool = False) -> Callable[[Any], None]:
    """A loader that puts one checkpoint tensor in the place of another, or exchanges them.

    What it plants takes the model, or what is to be exported.
    """

    def edit(where: Any) -> None:
        model = where if hasattr(where, "named_modules") else where.parts[0].source.model
        places: dict[str, tuple[Any, str]] = {}
        for prefix, owner in model.named_modules():
            for name in owner._parameters:
                for pattern in (first, second):
                    if re.search(pattern, f"{prefix}.{name}") and owner._parameters[name] is not None:
                        places.setdefault(pattern, (owner, name))
        if len(places) < 2:
            raise NothingToPlantError(f"no {first} and {second}")
        (one, its), (other, others) = places[first], places[second]
        before = one._parameters[its], other._parameters[others]
        one._parameters[its] = before[1]
        if not copy:
            other._parameters[others] = before[0]

    return edit


def remembers(to_export: Any) -> None:
    """The model changes itself in its first run at a short input, as BigBird does."""
    import torch

    model = to_export.parts[0].source.model
    original = model.forward
    norm = owners(model, "LayerNorm|RMSNorm")[-1]
    signature = __import__("inspect").signature(original)
    before = norm.weight

    def call(*arguments: Any, **named: Any) -> Any:
        first = next(iter(named.values()), None)
        if isinstance(first, torch.Tensor) and type(first) is torch.Tensor and first.dim() > 1 and first.shape[1] < 8:
            with torch.no_grad():
                norm._parameters["weight"] = torch.nn.Parameter(before * 1.05, requires_grad=False)
        return original(*arguments, **named)

    call.__signature__ = signature  # type: ignore[attr-defined]
    model.forward = call


def noisy(to_export: Any) -> None:
    """The model draws random numbers, of the size of rounding x 1000."""
    import torch

    model = to_export.parts[0].source.model
    norm = owners(model, "LayerNorm|RMSNorm")[-1]
    original = norm.forward

    def call(hidden: Any, *arguments: Any, **named: Any) -> Any:
        found = original(hidden, *arguments, **named)
        return found + 1e-3 * torch.rand_like(found)

    norm.forward = call
