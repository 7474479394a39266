"""Merging an adapter into the weights of a model, as records of both checkpoints.

A merged weight is W + scale * B @ A, computed in float64 and rounded once. peft, which computes in the type of the
weights, is as far from it as rounding takes it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.checkpoints.adapter import Adapter
from onnxport.errors import CheckpointError, VerificationError
from onnxport.system.library_errors import first_line
from onnxport.weights.lazy import LazyTensor, evaluate, in_memory, leaves, record
from onnxport.weights.origins import Operation, Stored
from onnxport.weights.stored import lazy_state_dict

if TYPE_CHECKING:
    import torch

# What peft puts before the names of the model's modules.
_PREFIX = "base_model.model."
# The two matrices of a module: of linear layers and convolutions, and of tables of embeddings.
_PAIRS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))


@dataclass(frozen=True)
class _Change:
    """What an adapter does to one parameter: a product is added, or other values take its place.

    Attributes:
        name: of the parameter.
        module: the module that has it.
        first, second: names of A and B in the adapter; of other values `first` alone.
    """

    name: str
    module: str
    first: str
    second: str | None = None


def tensors_of(adapter: Adapter) -> dict[str, LazyTensor]:
    """All tensors of an adapter by name, without reading them.

    Raises:
        CheckpointError: the file is damaged, or has a type that torch has no plain tensors for.
    """
    tensors = lazy_state_dict([adapter.file], "safetensors")
    if tensors is None:
        raise CheckpointError(
            f"{adapter.file} has tensors of a type that cannot be merged.", hint="Write it with float32 weights."
        )
    return tensors


def merge_adapter(model: torch.nn.Module, adapter: Adapter) -> dict[str, LazyTensor]:
    """Change the parameters of a model in place; the changed ones by name, as records.

    Args:
        model: as transformers loaded it, with or without lazy weights.
        adapter: of a model with these modules.

    Raises:
        CheckpointError: the adapter changes parameters that the model does not have, or that are of other shapes.
    """
    import torch

    tensors = tensors_of(adapter)
    own = dict(model.named_parameters(remove_duplicate=False))
    own |= dict(model.named_buffers(remove_duplicate=False))
    is_lazy = any(isinstance(tensor, LazyTensor) for tensor in own.values())
    changed: dict[str, LazyTensor] = {}
    for change in _changes(adapter, tensors):
        if change.name not in own:
            raise CheckpointError(
                f"The adapter {adapter.folder.name} changes {change.module}, which {type(model).__name__} does not "
                "have.",
                hint="Is it the adapter of another model or task? `--task` and `--base-model` choose.",
            )
        held = own[change.name]
        made = _changed(held, change, adapter, tensors)
        if made.shape != held.shape:
            raise CheckpointError(
                f"{change.name} is {list(held.shape)} in {type(model).__name__} and {list(made.shape)} in the adapter "
                f"{adapter.folder.name}.",
                hint="Give the base model that it was trained on: `--base-model MODEL`.",
            )
        changed[change.name] = own[change.name] = made
        path, _, leaf = change.name.rpartition(".")
        value: Any = made if is_lazy else evaluate(made)
        table = model.get_submodule(path)
        if leaf in table._parameters:
            table._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
        else:
            table._buffers[leaf] = value
    return changed


def merged_copy(model: Any) -> tuple[Any, tuple[str, ...]]:
    """(the base model of a live PeftModel with its active adapters in its weights, notes); the given one is left alone.

    Raises:
        CheckpointError: an adapter that is no change of weights (a prompt, say), or gives numbers that are none.
    """
    names = ", ".join(map(str, getattr(model, "active_adapters", [])))
    try:
        merged = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The adapter {names} of the given {type(model).__name__} cannot be merged ({first_line(error)}).",
            hint="Merge it with peft's `merge_and_unload()`, and give the result.",
        ) from error
    return merged.eval(), (f"The adapter {names} of the live model was merged into a copy of its weights.",)


def without_adapter(own: Mapping[str, Any], adapter: Adapter) -> tuple[dict[str, Any], set[str]]:
    """(parameters as they are without the adapter; names of those that it replaced), by a check of every record.

    Args:
        own: parameters and buffers of a model that the adapter was merged into.
        adapter: its names say which tensors each parameter must hold.

    Raises:
        VerificationError: a parameter holds another product, or a factor that adapter_config.json does not say.
    """
    found, replaced = dict(own), set()
    for change in reversed(_changes(adapter, tensors_of(adapter))):
        tensor = found[change.name]
        if change.second is None:
            _require_leaves(change, tensor, [change.first], adapter)
            replaced.add(change.name)
        else:
            found[change.name] = _base_record(tensor, change, adapter)
    return found, replaced


def labels_of(model: Any, adapter: Adapter) -> int | None:
    """How many labels the head has that the adapter brings along, where the model was made for another number."""
    labels = getattr(model.config, "num_labels", None)
    own = model.state_dict(keep_vars=True)
    tensors = tensors_of(adapter)
    for change in _changes(adapter, tensors):
        shape = tensors[change.first].shape
        if change.second is None and change.name in own and own[change.name].shape != shape:
            held = own[change.name].shape
            if held and held[0] == labels and held[1:] == shape[1:]:
                return int(shape[0])
    return None


def _changes(adapter: Adapter, tensors: Mapping[str, LazyTensor]) -> list[_Change]:
    """What the names in an adapter mean; what takes the place of a weight comes before what is added to it.

    Raises:
        CheckpointError: a name that is not understood, or a matrix without the other.
    """
    products, left = [], dict.fromkeys(tensors)
    for name in tensors:
        for first, second in _PAIRS:
            if name.endswith(f".{first}"):
                module = name.removesuffix(f".{first}")
                if f"{module}.{second}" not in tensors:
                    raise _unknown(adapter, name)
                del left[name], left[f"{module}.{second}"]
                path = module.removeprefix(_PREFIX)
                products.append(_Change(f"{path}.weight", path, name, f"{module}.{second}"))
    replaced = []
    for name in left:
        path = name.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        if "lora_" in name or not name.startswith(_PREFIX):
            raise _unknown(adapter, name)
        replaced.append(_Change(path, path.rpartition(".")[0], name))
    return [*replaced, *products]


def _unknown(adapter: Adapter, name: str) -> CheckpointError:
    return CheckpointError(
        f"{adapter.file.name} of {adapter.folder} has {name}, which is no part of W + scale * B @ A.",
        hint="Merge it with peft's `merge_and_unload()`, write the result with `save_pretrained`, and convert that.",
    )


def _changed(held: Any, change: _Change, adapter: Adapter, tensors: Mapping[str, LazyTensor]) -> LazyTensor:
    import torch

    aten = torch.ops.aten
    first = tensors[change.first]
    if change.second is None:
        replaced: LazyTensor = first.to(held.dtype)  # type: ignore[assignment]
        return replaced
    base = held if isinstance(held, LazyTensor) else in_memory(held, f"parameter {change.name}")
    one, other = (_matrix(tensor).to(torch.float64) for tensor in (tensors[change.second], first))
    product = record(aten.mm.default, (one, other))
    if _is_transposed(change, adapter):
        product = product.t()
    scaled = record(aten.mul.Tensor, (product.reshape(_product_shape(held, product)), adapter.scale(change.module)))
    merged: LazyTensor = record(aten.add.Tensor, (base.to(torch.float64), scaled)).to(held.dtype)
    return merged


def _matrix(tensor: LazyTensor) -> Any:
    """A of a convolution is (rank, inputs, *kernel), B (outputs, rank, 1, ...)."""
    return tensor if tensor.dim() == 2 else tensor.reshape([tensor.shape[0], -1])


def _product_shape(held: Any, product: LazyTensor) -> list[int]:
    """The shape of the weight, if it has the numbers of the product; else the product's own, which is then refused."""
    return list(held.shape if held.numel() == product.numel() and held.dim() > 2 else product.shape)


def _is_transposed(change: _Change, adapter: Adapter) -> bool:
    return adapter.transposed or change.first.endswith(_PAIRS[1][0])


def _base_record(tensor: Any, change: _Change, adapter: Adapter) -> Any:
    """W of a merged weight, after a check of all the rest of its record.

    Raises:
        VerificationError: the rest is not what the adapter says.
    """
    import torch

    aten = torch.ops.aten
    origin = _computing(tensor)
    if origin is None or origin.operator is not aten.add.Tensor:
        raise _wrong(change, adapter, "nothing of the adapter")
    base, scaled = origin.args
    factor = scaled.origin.args[1]
    if factor != adapter.scale(change.module):
        raise _wrong(change, adapter, f"the factor {factor}")
    _require_leaves(change, scaled, [str(change.second), change.first], adapter)
    # What was cast to float64 for the sum.
    return base.origin.args[0] if isinstance(base.origin, Operation) else base


def _computing(tensor: Any) -> Operation | None:
    """The first operation of a record that is no cast and no view."""
    import torch

    origin = tensor.origin if isinstance(tensor, LazyTensor) else None
    aten = torch.ops.aten
    passed = {aten.alias.default, aten.detach.default, aten.lift_fresh.default, aten._to_copy.default}
    while isinstance(origin, Operation) and origin.operator in passed:
        origin = origin.args[0].origin
    return origin if isinstance(origin, Operation) else None


def _require_leaves(change: _Change, tensor: Any, names: list[str], adapter: Adapter) -> None:
    held = list(leaves(tensor)) if isinstance(tensor, LazyTensor) else []
    found = [leaf.name if isinstance(leaf, Stored) else "a tensor in memory" for leaf in held]
    if found != names or any(isinstance(leaf, Stored) and leaf.path != adapter.file for leaf in held):
        raise _wrong(change, adapter, " and ".join(found) or "nothing of the adapter")


def _wrong(change: _Change, adapter: Adapter, held: str) -> VerificationError:
    return VerificationError(
        f"The parameter {change.name} was not changed as the adapter {adapter.folder.name} says: it holds {held}.",
        hint="Report this model.",
    )
