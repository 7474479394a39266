"""The states of a decoder: what its cache holds between two calls, as tensors with names.

A cache of transformers is a list of layers. Attention layers hold keys and values, which grow with
the tokens; layers with a recurrence hold convolution and recurrent states of a fixed size. Both are
read from a cache that the model filled itself, so that no architecture is named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.errors import ExportError
from onnxport.tensor_names import present_name

if TYPE_CHECKING:
    import torch

_GROWING = {"key": "keys", "value": "values"}
_INDEXED = {"indexer": "indexer_keys"}  # of a layer that attends to the keys that an indexer chooses
_FIXED = {"conv": "conv_states", "recurrent": "recurrent_states"}


@dataclass(frozen=True)
class State:
    """One tensor of a cache.

    Attributes:
        layer: index of the layer in the cache.
        kind: "key" or "value" (batch, heads, tokens, features), "indexer" (batch, tokens, features), "conv" or
            "recurrent" (batch, ...).
        number: which of several states of that kind the layer has.
        shape: with the number of rows on axis 0.
        dtype: as numpy calls it.
        growing: axis that has one entry a token, or None.
        branch: "" for a decoder alone; of an encoder-decoder "decoder" for what its tokens attend to,
            "encoder" for the cross-attention.
    """

    layer: int
    kind: str
    number: int
    shape: tuple[int, ...]
    dtype: str
    growing: int | None
    branch: str = ""

    @property
    def past(self) -> str:
        """Name of the input; the names are those that transformers.js and optimum read."""
        if self.kind in _GROWING:
            branch = f"{self.branch}." if self.branch else ""
            return f"past_key_values.{self.layer}.{branch}{self.kind}"
        return f"past_{self.kind}.{self.layer}" + (f".{self.number}" if self.number else "")

    @property
    def present(self) -> str:
        """Name of the output."""
        return present_name(self.past)

    def empty(self, rows: int) -> tuple[int, ...]:
        """Its shape before the first token."""
        return tuple(rows if axis == 0 else 0 if axis == self.growing else size for axis, size in enumerate(self.shape))


def find_states(short: Any, long: Any, architecture: str, branch: str = "") -> tuple[State, ...]:
    """The states of two caches that the model filled with rows of different length.

    Args:
        branch: as in `State`.

    Raises:
        ExportError: it holds something that is no tensor of a known kind.
    """
    states = []
    for index, (before, after) in enumerate(
        zip(_layers(short, architecture), _layers(long, architecture), strict=True)
    ):
        held = dict(_tensors(after))
        for (kind, number), tensor in _tensors(before):
            other = held[kind, number]
            moved = [a for a, (x, y) in enumerate(zip(tensor.shape, other.shape, strict=True)) if x != y]
            if len(moved) > 1 or 0 in moved:
                raise ExportError(f"{architecture}: the {kind} state of layer {index} has no one axis that grows.")
            growing = moved[0] if moved else None
            dtype = str(tensor.dtype).removeprefix("torch.")
            states.append(State(index, kind, number, tuple(tensor.shape), dtype, growing, branch))
    if not states:
        raise ExportError(f"{architecture} keeps nothing between two calls: it has no cache.")
    return tuple(states)


def build_cache(states: Sequence[State], tensors: Mapping[str, torch.Tensor]) -> Any:
    """A cache that holds `tensors` (by the names of inputs).

    Sliding layers keep all tokens: the model's mask hides those outside the window, and the cut to the
    window would be a number in the graph.
    """
    from transformers import DynamicCache

    cache = DynamicCache()
    by_layer: dict[int, list[State]] = {}
    for state in states:
        by_layer.setdefault(state.layer, []).append(state)
    cache.layers = [_layer(by_layer.get(index, []), tensors) for index in range(max(by_layer) + 1)]
    return cache


def read_cache(states: Sequence[State], cache: Any) -> dict[str, torch.Tensor]:
    """What the model left in a cache, by the names of outputs."""
    held = [dict(_tensors(layer)) for layer in _own(cache).layers]
    return {state.present: held[state.layer][state.kind, state.number] for state in states}


def _layer(states: Sequence[State], tensors: Mapping[str, torch.Tensor]) -> Any:
    from transformers.cache_utils import DynamicLayer, LinearAttentionAndFullAttentionLayer, LinearAttentionLayer

    if any(state.kind in _INDEXED for state in states):
        return _indexed_layer(states, tensors)
    grows = any(state.kind in _GROWING for state in states)
    fixed = [state for state in states if state.kind in _FIXED]
    kind = DynamicLayer if not fixed else LinearAttentionAndFullAttentionLayer if grows else LinearAttentionLayer
    layer: Any = kind() if not fixed else kind(number_of_states=max(state.number for state in fixed) + 1)
    for state in states:
        tensor = tensors[state.past]
        layer.dtype, layer.device = tensor.dtype, tensor.device
        if state.kind in _GROWING:
            setattr(layer, _GROWING[state.kind], tensor)
            layer.is_initialized = True
            continue
        # The layer writes into its states, and an input of a graph must stay as it is.
        getattr(layer, _FIXED[state.kind])[state.number] = tensor.clone()
        getattr(layer, f"is_{_FIXED[state.kind]}_initialized")[state.number] = True
        layer.has_previous_state[state.number] = True
        if state.kind == "conv":
            layer.conv_kernel_size[state.number] = tensor.shape[-1]
    return layer


def _indexed_layer(states: Sequence[State], tensors: Mapping[str, torch.Tensor]) -> Any:
    """A layer with the keys of an indexer beside its keys and values."""
    from transformers.cache_utils import DynamicIndexedLayer

    layer = DynamicIndexedLayer()
    for state in states:
        tensor = tensors[state.past]
        setattr(layer, (_GROWING | _INDEXED)[state.kind], tensor)
        if state.kind in _INDEXED:
            layer.indexer_dtype, layer.indexer_device = tensor.dtype, tensor.device
            layer.is_indexer_initialized = True
        else:
            layer.dtype, layer.device = tensor.dtype, tensor.device
            layer.is_initialized = True
    return layer


def _own(cache: Any) -> Any:
    """The cache of the decoder's own tokens: some decoders keep an empty one of a cross-attention beside it."""
    return getattr(cache, "self_attention_cache", cache)


def _layers(cache: Any, architecture: str) -> list[Any]:
    layers = getattr(_own(cache), "layers", None)
    if cache is None:
        raise ExportError(
            f"{architecture} gives no states (past_key_values), which generating text needs.",
            hint='If config.json says "is_decoder": false, it is an encoder: use --task feature-extraction or '
            "fill-mask.",
        )
    if not layers:
        raise ExportError(f"{architecture} keeps its states in a {type(cache).__name__}, which onnxport cannot read.")
    return list(layers)


def _tensors(layer: Any) -> Iterator[tuple[tuple[str, int], torch.Tensor]]:
    """((kind, number), tensor) of what a layer holds; an attention that was never used holds an empty tensor."""
    for kind, attribute in (_GROWING | _INDEXED).items():
        tensor = getattr(layer, attribute, None)
        if tensor is not None and tensor.ndim > 1:
            yield (kind, 0), tensor
    for kind, attribute in _FIXED.items():
        for number, tensor in (getattr(layer, attribute, None) or {}).items():
            if tensor is not None:
                yield (kind, number), tensor
