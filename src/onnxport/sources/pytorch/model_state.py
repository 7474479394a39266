"""What a model's own code keeps between calls, put back after a call that must leave nothing behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, MutableMapping, MutableSequence, MutableSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from onnxport.errors import ExportError

if TYPE_CHECKING:
    import torch

_PARAMETERS, _MODULES = "_parameters", "_modules"
_CONTAINERS = (dict, list, set, deque)
# What torch.nn.Module keeps in every module, and a call of the model does not change. Hooks of forward do change:
# transformers installs those that collect hidden states in the first call, and an attribute says that they are there.
_HOOKS = frozenset(
    "_backward_pre_hooks _backward_hooks _state_dict_hooks _state_dict_pre_hooks _load_state_dict_pre_hooks "
    "_load_state_dict_post_hooks _non_persistent_buffers_set".split()
)
# Configs hold dicts of dicts; whatever is nested deeper is no setting.
_DEPTH = 4


@dataclass
class StateChanges:
    """What calls changed in a model's state, known once they are over.

    Attributes:
        names: "encoder.attention_type", "counter"; of attributes, buffers and settings of the config.
    """

    names: list[str] = field(default_factory=list)


@contextmanager
def state_kept(model: torch.nn.Module) -> Iterator[StateChanges]:
    """Undo changes of a model's state that the calls within it make.

    These are attributes of modules, buffers, entries of dicts, lists and sets, and settings of configs: set, replaced,
    deleted, or tensors whose elements were written. Models cache what they computed (the rotary frequencies of
    longrope, say; fake tensors of a call on fake tensors), count their calls, or switch to another algorithm after a
    short input (BigBird). Which attributes those are differs from model to model, so all of them are compared.

    Yields:
        What the calls changed, filled in at the end.

    Raises:
        ExportError: a call writes into the weights.

    Example:
        >>> with state_kept(model) as changes:  # doctest: +SKIP
        ...     model(**inputs)
        >>> changes.names  # doctest: +SKIP
        ['bert.attention_type']
    """
    changes = StateChanges()
    held = list(_containers(model))
    before = [(name, container, container.copy()) for name, container in held]
    tensors = _Tensors(before)
    try:
        yield changes
    finally:
        for name, container, entries in before:
            if not _is_same(container, entries):
                _note(changes, name, container, entries)
                _restore(container, entries)
        changes.names += tensors.restored()
    tensors.require_weights_unchanged()


class _Tensors:
    """Elements of tensors in a model's state, and whether its weights are written to.

    Args:
        before: (name, container, entries).
    """

    def __init__(self, before: list[tuple[str, Any, Any]]) -> None:
        self._states: dict[int, tuple[str, Any, int, Any]] = {}
        self._weights: list[tuple[str, Any, int]] = []
        weights = set()
        for name, _, entries in before:
            if name.endswith(_PARAMETERS):
                weights |= {id(value) for value in entries.values()}
                self._weights += [
                    (f"{_owner(name)}{key}", value, _version(value)) for key, value in entries.items() if _plain(value)
                ]
        for name, _, entries in before:
            for key, value in _entries(entries):
                if _plain(value) and id(value) not in weights and id(value) not in self._states:
                    self._states[id(value)] = f"{_owner(name)}{key}", value, _version(value), value.detach().clone()

    def restored(self) -> list[str]:
        """Write the elements back that were changed; their names."""
        import torch

        changed = []
        for name, value, version, copy in self._states.values():
            if _version(value) != version:
                with torch.no_grad():
                    value.copy_(copy)
                changed.append(name)
        return changed

    def require_weights_unchanged(self) -> None:
        for name, value, version in self._weights:
            if _version(value) != version:
                raise ExportError(
                    f"The model writes into its weight {name} when it runs: a graph cannot do that.",
                    hint="Make that tensor an input and an output of the model's forward.",
                )


def _containers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, container) of the attributes of all modules, of what they hold, and of their configs, each once."""
    seen: set[int] = set()
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        attributes = vars(module)
        yield prefix, attributes
        for key, value in attributes.items():
            if _may_hold(value.__class__) and key not in _HOOKS:
                yield from _held(f"{prefix}{key}", value, seen, _DEPTH)


def _held(name: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, _CONTAINERS):
        value = vars(value)
    if id(value) in seen or not depth:
        return
    seen.add(id(value))
    yield name, value
    if not name.endswith((_PARAMETERS, _MODULES)):
        for key, entry in _entries(value):
            if _may_hold(entry.__class__):
                yield from _held(f"{name}.{key}", entry, seen, depth - 1)


@cache
def _may_hold(kind: type) -> bool:
    """Whether objects of this class are containers, or configs."""
    return issubclass(kind, _CONTAINERS) or (hasattr(kind, "to_dict") and not issubclass(kind, type))


def _entries(container: Any) -> list[tuple[Any, Any]]:
    return list(container.items()) if isinstance(container, MutableMapping) else list(enumerate(container))


def _owner(name: str) -> str:
    """`encoder.` of `encoder._buffers`; the tensors of a dict of a module's own are named after it."""
    for internal in ("_buffers", _PARAMETERS):
        if name.endswith(internal):
            return name.removesuffix(internal)
    return name if not name or name.endswith(".") else f"{name}."


def _plain(value: Any) -> bool:
    """Whether it is a tensor with elements in memory: no placeholder, and no weight that stays in its file."""
    import torch

    return type(value) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer) and not value.is_meta


def _version(value: Any) -> int:
    """Counts the operators that wrote into it."""
    with suppress(RuntimeError):  # tensors of the inference mode are not counted
        return int(value._version)
    return 0


def _note(changes: StateChanges, name: str, container: Any, entries: Any) -> None:
    if not isinstance(container, MutableMapping):
        changes.names.append(name)
        return
    nothing = object()
    for key in {**entries, **container}:
        now = container.get(key, nothing)
        if now is entries.get(key, nothing):
            continue
        changes.names.append(f"{_owner(name)}{key}")


def _restore(container: Any, entries: Any) -> None:
    container.clear()
    if isinstance(container, MutableSequence):
        container.extend(entries)
    else:
        container.update(entries)


def _is_same(container: Any, entries: Any) -> bool:
    if len(container) != len(entries):
        return False
    if isinstance(container, MutableMapping):
        return all(key in container and container[key] is value for key, value in entries.items())
    if isinstance(container, MutableSet):
        return bool(container == entries)
    return all(one is other for one, other in zip(container, entries, strict=True))
