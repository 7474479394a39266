"""The parameters and buffers of a PyTorch model, as what the weights of its graphs are compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import VerificationError

if TYPE_CHECKING:
    import torch

    from onnxport.loading.weight_origins import WeightOrigins
    from onnxport.weights.checkpoint_reader import CheckpointReader
    from onnxport.weights.lazy import LazyTensor
    from onnxport.weights.origins import InMemory, Stored


@dataclass(frozen=True)
class SourceWeights:
    """The weights of one source, recorded before the exporter touches the model.

    Attributes:
        records: name of a parameter or buffer -> its values, as a record of tensors in files or in memory.
        digests: name of a tensor in memory -> sha256 of its bytes when this was recorded.
        reader: reads the checkpoint by name.
    """

    records: dict[str, LazyTensor]
    digests: dict[str, str]
    reader: CheckpointReader | None = None

    def without_memory(self) -> SourceWeights:
        """The same without tensors that are in memory only, so that the model can be released."""
        kept = {name: record for name, record in self.records.items() if self.in_files(record)}
        return SourceWeights(kept, {}, self.reader)

    def leaf(self, origin: Stored | InMemory, like: LazyTensor) -> torch.Tensor:
        """The whole tensor of a leaf of a record, read by its name in the checkpoint; else from memory.

        Raises:
            VerificationError: the checkpoint has a tensor of another type or shape under that name.
        """
        name = stored_name(origin, self.reader)
        if name is None or self.reader is None:
            return origin.tensor  # type: ignore[union-attr]
        found = self.reader.tensor(name)
        if found.shape != like.shape or found.dtype != like.dtype:
            raise VerificationError(
                f"{name} was loaded as {list(like.shape)} {like.dtype}, and the checkpoint has {list(found.shape)} "
                f"{found.dtype}.",
                hint="Was the checkpoint changed meanwhile?",
            )
        return found

    def in_files(self, record: LazyTensor) -> bool:
        """Whether all values of a record can be read from the checkpoint at any time."""
        from onnxport.weights.lazy import leaves

        return all(stored_name(leaf, self.reader) is not None for leaf in leaves(record))

    def blocks(self, record: LazyTensor) -> Iterator[np.ndarray[Any, Any]]:
        """Yield the values of a record in C order as bytes."""
        import torch

        from onnxport.weights.replay import replayed_blocks

        for block in replayed_blocks(record, self.leaf):
            yield block.reshape(-1).view(torch.uint8).numpy()

    def array(self, record: LazyTensor) -> np.ndarray[Any, Any]:
        """The values of a record that numpy has a type for."""
        raw = np.concatenate([np.empty(0, np.uint8), *self.blocks(record)])
        found: np.ndarray[Any, Any] = raw.view(numpy_type(record.dtype)).reshape(tuple(record.shape))
        return found


def record_source(model: torch.nn.Module, origins: WeightOrigins) -> SourceWeights:
    """Record where the weights of a model are, and what those in memory are.

    Args:
        model: before it is exported.
        origins: what loading it found out.
    """
    from onnxport.weights.lazy import LazyTensor, in_memory

    tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    for name, tensor in _attributes(model):
        tensors.setdefault(name, tensor)
    records: dict[str, LazyTensor] = {}
    digests: dict[str, str] = {}
    known: dict[int, str] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, LazyTensor):
            records[name] = tensor
        elif id(tensor) in origins.computed:
            records[name] = origins.computed[id(tensor)]
        else:
            records[name] = in_memory(tensor, name)
            if id(tensor) not in known:
                known[id(tensor)] = digest_of(tensor)
            digests[name] = known[id(tensor)]
    return SourceWeights(records, digests, origins.reader)


def _attributes(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that modules hold as plain attributes: tables that their code computed, which the exporter lifts."""
    import torch

    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                yield f"{path}.{name}" if path else name, value


def digest_of(tensor: torch.Tensor) -> str:
    """The sha256 of a tensor's bytes in C order."""
    import torch

    digest = hashlib.sha256()
    plain = tensor.detach()
    rows = plain.reshape(1, -1) if plain.dim() < 2 else plain
    step = max(1, 2**21 // max(1, rows[:1].numel()))
    for start in range(0, len(rows), step):
        digest.update(rows[start : start + step].contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def stored_name(origin: Stored | InMemory, reader: CheckpointReader | None) -> str | None:
    """The name of a leaf in the checkpoint; None for a tensor that is only in memory."""
    from onnxport.weights.origins import Stored

    if reader is None:
        return None
    if isinstance(origin, Stored):
        return origin.name
    # A pickled tensor: "pytorch_model.bin: NAME".
    name = origin.name.partition(": ")[2]
    return name if name in reader and reader.format == "pickle" else None


def describe_origins(record: LazyTensor, name: str, reader: CheckpointReader | None) -> tuple[str, tuple[str, ...]]:
    """(tensors of the checkpoint, what loading did to them) of a record, in words."""
    import torch

    from onnxport.weights.lazy import IDENTITIES, leaves
    from onnxport.weights.origins import Operation

    names = []
    for leaf in leaves(record):
        stored = stored_name(leaf, reader)
        if stored is None or reader is None:
            names.append(f"parameter {name}")
        else:
            names.append(f"{reader.file(stored).name}: {stored}")
    quiet = {*IDENTITIES, torch.ops.aten.clone.default}
    words: list[str] = []
    origin: Any = record.origin
    while isinstance(origin, Operation):
        if origin.operator is torch.ops.aten._to_copy.default:
            if origin.kwargs.get("dtype") not in (None, _first_dtype(origin)):
                words.append(f"to {str(origin.kwargs['dtype']).removeprefix('torch.')}")
        elif origin.operator not in quiet:
            words.append(str(origin.operator).split(".")[1])
        first = origin.args[0]
        origin = (first[0] if isinstance(first, list | tuple) else first).origin
    unique = list(dict.fromkeys(names))
    return _shortened(unique), tuple(dict.fromkeys(words[::-1]))


def _first_dtype(origin: Any) -> Any:
    first = origin.args[0]
    return first.dtype if hasattr(first, "dtype") else None


def _shortened(names: list[str]) -> str:
    """Up to four names; of more, the first, the last and their number."""
    if len(names) <= 4:
        return ", ".join(names)
    return f"{names[0]} to {names[-1]} ({len(names)} tensors)"


def numpy_type(dtype: torch.dtype) -> Any:
    """The numpy type of a torch type; of bfloat16 that of ml_dtypes."""
    import torch

    if dtype == torch.bfloat16:
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(str(dtype).removeprefix("torch."))


def unchanged(source: SourceWeights, model: torch.nn.Module) -> None:
    """Check that weights in memory are what they were when they were recorded.

    Raises:
        VerificationError: the export changed one.
    """
    # Other buffers are caches of the model's code, which may compute them anew.
    tensors: Mapping[str, torch.Tensor] = model.state_dict(keep_vars=True)
    known: dict[int, str] = {}
    for name, digest in source.digests.items():
        tensor = tensors.get(name)
        if tensor is None:
            continue
        if id(tensor) not in known:
            known[id(tensor)] = digest_of(tensor)
        if known[id(tensor)] != digest:
            raise VerificationError(
                f"{name} of the model has other values after the export than before it.", hint="Report this model."
            )
