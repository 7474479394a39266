"""Which tensors of the checkpoint every parameter of a loaded model holds, checked against the checkpoint itself.

The names are derived again with transformers' own rules (`get_model_conversion_mapping`), so that a tensor that was
loaded under the wrong name is found although the model and every graph made from it agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.checkpoints.adapter import Adapter
from onnxport.checkpoints.checkpoint import Checkpoint
from onnxport.errors import VerificationError

if TYPE_CHECKING:
    import torch

    from onnxport.weights.checkpoint_reader import CheckpointReader
    from onnxport.weights.lazy import LazyTensor
    from onnxport.weights.origins import Operation

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")  # a part of a name: of a layer, of an expert


@dataclass(frozen=True)
class WeightOrigins:
    """What loading a checkpoint gave.

    Attributes:
        reader: reads the checkpoint by name; None for a model without a checkpoint that can be read in this way.
        unused: names of tensors of the checkpoint that no parameter holds.
        computed: by `id`, tensors that loading holds in memory -> the same values as a record of the checkpoint.
        model: the model as transformers loaded it, without modules around it.
        missing: parameters that the checkpoint lacks.
        gguf: the GGUF file that transformers unpacked into memory.
        beside: (module, weight files, their format) of layers with files of their own.
        adapter: was merged into the model.
    """

    reader: CheckpointReader | None = None
    unused: tuple[str, ...] = ()
    computed: Mapping[int, LazyTensor] = field(default_factory=dict)
    model: Any = None
    missing: frozenset[str] = frozenset()
    gguf: Path | None = None
    beside: tuple[tuple[Any, Sequence[Path], str], ...] = ()
    adapter: Adapter | None = None

    def again(self) -> WeightOrigins:
        """The same, found again: a parameter may have been replaced since.

        Raises:
            VerificationError: as `trace_origins`.
        """
        for module, files, weights_format in self.beside:
            _check_module(module, files, weights_format)
        if self.gguf is not None:
            from onnxport.loading.gguf_weights import require_gguf_weights

            require_gguf_weights(self.model, self.gguf)
        if self.reader is None:
            return self
        return replace(_traced(self.model, self.reader, self.missing, self.adapter), beside=self.beside)

    def with_adapter(self, adapter: Adapter) -> WeightOrigins:
        """The same after an adapter was merged into the model, found again.

        Raises:
            VerificationError: a parameter is not what the adapter makes of it.
        """
        from onnxport.weights.checkpoint_reader import CheckpointReader

        if self.reader is None or self.computed:
            return WeightOrigins()  # in memory: nothing says where the values are from
        files = dict.fromkeys([*self.reader.files, adapter.file])
        reader = CheckpointReader(list(files), self.reader.format, self.reader.prefix, self.reader.packed.values())
        return _traced(self.model, reader, self.missing, adapter)


@dataclass
class _Expected:
    """What the names of the checkpoint say.

    Attributes:
        plain: parameter -> tensors that are loaded into it as they are (several: each under a name of its own).
        merged: tensor -> the first parameter that it is converted into, together with others.
        unused: tensors that belong to no parameter.
    """

    plain: dict[str, list[str]] = field(default_factory=dict)
    merged: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def trace_origins(
    model: torch.nn.Module, checkpoint: Checkpoint, missing: Iterable[str], prefix: str | None = None
) -> WeightOrigins:
    """Check which tensor of the checkpoint every parameter holds.

    Args:
        model: as transformers loaded it.
        checkpoint: where it was loaded from.
        missing: parameters that the checkpoint lacks, or has in another shape.
        prefix: was left out of the names of the checkpoint's tensors.

    Raises:
        VerificationError: a parameter holds another tensor than the one of its name, or other values.
    """
    from onnxport.weights.checkpoint_reader import CheckpointReader

    if checkpoint.weights_format not in ("safetensors", "pickle"):
        gguf = checkpoint.weight_files[0] if checkpoint.weights_format == "gguf" else None
        return WeightOrigins(model=model, gguf=gguf)
    packed = checkpoint.quantized.weights if checkpoint.quantized is not None else ()
    reader = CheckpointReader(checkpoint.weight_files, checkpoint.weights_format, prefix or "", packed)
    return _traced(model, reader, frozenset(missing))


def _traced(
    model: torch.nn.Module, reader: CheckpointReader, absent: frozenset[str], adapter: Adapter | None = None
) -> WeightOrigins:
    from onnxport.weights.lazy import LazyTensor

    own, names = _tensors_of(model), reader.names
    replaced: set[str] = set()
    if adapter is not None:
        from onnxport.loading.adapters import without_adapter

        own, replaced = without_adapter(own, adapter)
        names = [name for name in names if reader.file(name) != adapter.file]
    expected = _expected_names(model, names, own)
    for name in replaced:
        expected.plain.pop(name, None)
    absent -= replaced
    computed: dict[int, LazyTensor] = {}
    tied: dict[int, list[str]] = {}
    for name, origins in expected.plain.items():
        if name not in absent:
            tied.setdefault(id(own[name]), []).extend(origins)
    for name in expected.plain:
        if name in absent:
            continue
        tensor, origins = own[name], tied[id(own[name])]
        if isinstance(tensor, LazyTensor):
            _check_plain(name, tensor, origins, reader)
        else:
            computed[id(tensor)] = _check_values(name, tensor, origins, reader)
    _check_merged({name: tensor for name, tensor in own.items() if name not in replaced}, expected, absent, reader)
    return WeightOrigins(reader, tuple(expected.unused), computed, model, absent, adapter=adapter)


def _tensors_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers that a checkpoint may have, by all their names."""
    found: dict[str, torch.Tensor] = dict(model.state_dict(keep_vars=True))
    return found


def unknown_tensors(model: Any, names: Iterable[str]) -> set[str]:
    """Those of `names` that no parameter of a transformers model belongs to.

    Args:
        model: may be on the meta device.
        names: of tensors of a checkpoint.
    """
    return set(_expected_names(model, names, _tensors_of(model)).unused)


def _expected_names(model: Any, names: Iterable[str], own: Mapping[str, torch.Tensor]) -> _Expected:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    prefix, table = model.base_model_prefix, dict(own)
    found = _Expected()
    for name in sorted(names, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, table)
        if target not in own and name in own:
            target, pattern = rename_source_key(name, [], [], prefix, table)
        if target not in own:
            found.unused.append(name)
        elif pattern is None:
            found.plain.setdefault(target, []).append(name)
        else:
            found.merged[name] = target
    return found


def _check_plain(name: str, tensor: LazyTensor, origins: list[str], reader: CheckpointReader) -> None:
    """A recorded parameter that is one tensor of the checkpoint, at most cast."""
    import torch

    from onnxport.weights.lazy import IDENTITIES
    from onnxport.weights.origins import Operation

    held = list(_sources(tensor, reader))
    if len(held) != 1 or held[0] not in origins:
        raise _wrong(name, " and ".join(held[:3]) or "nothing", origins[0])
    allowed = {*IDENTITIES, torch.ops.aten._to_copy.default, torch.ops.aten.clone.default}
    origin = tensor.origin
    while isinstance(origin, Operation) and _packed_name(origin, reader) is None:
        if origin.operator not in allowed:
            raise _wrong(name, f"{held[0]} after {origin.operator}", origins[0])
        origin = origin.args[0].origin
    for other in origins:
        values = (reader.values(one).to(tensor.dtype) for one in (other, held[0]))
        if other != held[0] and not _equal(*values):
            raise VerificationError(
                f"{name} is one weight of the model and two of the checkpoint, {held[0]} and {other}, which differ. "
                f"Only {held[0]} was loaded.",
                hint="Does config.json tie weights (tie_word_embeddings) that were trained apart?",
            )


def _check_values(name: str, tensor: torch.Tensor, origins: list[str], reader: CheckpointReader) -> LazyTensor:
    """A parameter in memory: its values against those of the checkpoint; their record."""
    for origin in origins:
        if not _equal(reader.values(origin).to(tensor.dtype), tensor.detach()):
            raise VerificationError(
                f"The parameter {name} of the loaded model does not have the values of {origin} in the checkpoint.",
                hint="Report this model.",
            )
    cast: LazyTensor = reader.record(origins[0]).to(tensor.dtype)  # type: ignore[assignment]
    return cast


def _check_module(module: torch.nn.Module, files: Sequence[Path], weights_format: str) -> None:
    """A module in memory whose parameters have the names of a file of its own."""
    from onnxport.weights.checkpoint_reader import CheckpointReader

    reader = CheckpointReader(files, weights_format)
    for name, tensor in module.state_dict().items():
        if not _equal(reader.tensor(name).to(tensor.dtype), tensor):
            file = reader.file(name)
            raise VerificationError(
                f"{name} of the loaded {type(module).__name__} does not have the values of {name} in "
                f"{file.parent.name}/{file.name}.",
                hint="Report this model.",
            )


def _check_merged(
    own: Mapping[str, torch.Tensor], expected: _Expected, absent: frozenset[str], reader: CheckpointReader
) -> None:
    """Parameters that are made of several tensors, or of a part of one: which ones, and in which order."""
    from transformers.core_model_loading import dot_natural_key

    from onnxport.weights.lazy import LazyTensor

    seen: set[str] = set()
    for name, tensor in own.items():
        if name in expected.plain or name in absent or not isinstance(tensor, LazyTensor):
            continue
        held = list(_sources(tensor, reader))
        seen.update(held)
        plain = next((target for target, origins in expected.plain.items() if set(held) & set(origins)), None)
        for origin in held:
            target = expected.merged.get(origin)
            if target is None and plain is not None and own[plain] is tensor:
                continue  # tied
            if target is None or _NUMBER.findall(target) != _NUMBER.findall(name):
                raise _wrong(name, origin, f"what belongs to {name}")
        for group in _by_pattern(held):
            if group != sorted(group, key=dot_natural_key):
                raise _wrong(
                    name, f"{group[0]}, {group[1]} ... in this order", "the same in the order of their numbers"
                )
    lazy = any(isinstance(tensor, LazyTensor) for tensor in own.values())
    left = [origin for origin in expected.merged if origin not in seen]
    if lazy and left and not absent:
        # Converted while loading by operators that compute: the values are in memory, and nothing says from where.
        expected.unused.extend(origin for origin in left if not _in_memory(own.get(expected.merged[origin])))


def _in_memory(tensor: torch.Tensor | None) -> bool:
    from onnxport.weights.lazy import LazyTensor

    return tensor is not None and not isinstance(tensor, LazyTensor)


def _by_pattern(names: Iterable[str]) -> Iterator[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_NUMBER.sub("#", name), []).append(name)
    return iter(groups.values())


def _sources(tensor: LazyTensor, reader: CheckpointReader) -> Iterator[str]:
    """Names of the weights of the checkpoint in a record, in its order; a packed weight is one."""
    from torch.utils._pytree import tree_leaves

    from onnxport.weights.lazy import LazyTensor
    from onnxport.weights.origins import Operation

    origin = tensor.origin
    if not isinstance(origin, Operation):
        yield _leaf_name(origin)
        return
    packed = _packed_name(origin, reader)
    if packed is not None:
        yield packed
        return
    for value in tree_leaves((origin.args, origin.kwargs)):
        if isinstance(value, LazyTensor):
            yield from _sources(value, reader)


def _packed_name(origin: Operation, reader: CheckpointReader) -> str | None:
    """The name of a packed weight, if an operation dequantizes exactly its tensors."""
    from onnxport.weights.dequantize import Dequantize

    if not isinstance(origin.operator, Dequantize):
        return None
    weight = reader.packed.get(origin.operator.weight.name)
    parts = [_leaf_name(part.origin) for part in origin.args]
    return weight.name if weight == origin.operator.weight and parts == [*weight.parts.values()] else None


def _leaf_name(leaf: Any) -> str:
    """The name of a tensor in the checkpoint; of a pickle the name follows that of the file."""
    from onnxport.weights.origins import Stored

    return leaf.name if isinstance(leaf, Stored) else str(leaf.name).partition(": ")[2]


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors have the same bytes: NaN is equal to NaN, and -0 is not 0."""
    import torch

    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    step = max(1, 2**22 // max(1, one[:1].numel())) if one.dim() else 1
    for start in range(0, len(one) if one.dim() else 1, step):
        first, second = (t[start : start + step] if t.dim() else t for t in (one, other))
        raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (first, second)]
        if not torch.equal(*raw):
            return False
    return True


def _wrong(name: str, held: str, expected: str) -> VerificationError:
    return VerificationError(
        f"The parameter {name} of the loaded model holds {held}, and by its name it should hold {expected}.",
        hint="Report this model.",
    )
