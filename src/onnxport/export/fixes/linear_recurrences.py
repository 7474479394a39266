"""Trace the recurrences of linear attention and state spaces with a dynamic number of steps.

Upstream (transformers 5.23): without kernels of a GPU, models compute them in Python, where the number of chunks
(`torch_chunk_gated_delta_rule` of qwen3_next and qwen3_5, `mamba2_chunk_scan` of mamba2, bamba, zamba2, falcon_h1,
nemotron_h, granitemoehybrid) or of steps (`mamba_selective_scan` of mamba, falcon_mamba, jamba, zamba) is the length of
a loop, or of an axis that must not change: the sequence becomes static, and a loop over the 64 steps of a chunk a graph
of thousands of nodes. The functions have these names and parameters in every model.
"""
# ruff: noqa: PLR0913, N803 - the parameters are those of transformers' functions

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def linear_recurrences(model: torch.nn.Module) -> Iterator[None]:
    """Put operators in the place of the functions, and let torch.onnx translate these.

    Args:
        model: the module that is traced; nothing is changed where its code has none of the functions.
    """
    names = {type(part).__module__ for part in model.modules()}
    places = [
        (sys.modules[module], name)
        for module in sorted(names)
        for name in _FUNCTIONS
        if callable(getattr(sys.modules.get(module), name, None))
    ]
    with ExitStack() as stack:
        if places:
            stack.enter_context(_translated())
        for module, name in places:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, _FUNCTIONS[name])
        yield


def gated_delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    chunk_size: int = 64,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`torch_chunk_gated_delta_rule` of transformers; its docstring has the shapes."""
    import torch

    from onnxport.export.recurrences.operators import operators

    given, heads, (rows, _steps, key_heads, keys) = query.dtype, value.shape[2], key.shape
    if key_heads != heads:
        query, key = (tensor.repeat_interleave(heads // key_heads, dim=2) for tensor in (query, key))
    query, key, value, beta, g = (tensor.transpose(1, 2).to(torch.float32) for tensor in (query, key, value, beta, g))
    if use_qk_l2norm_in_kernel:
        query, key = (x * torch.rsqrt((x * x).sum(dim=-1, keepdim=True) + 1e-6) for x in (query, key))
    state = query.new_zeros(rows, heads, keys, value.shape[-1]) if initial_state is None else initial_state.float()
    output, last = operators().delta_rule(query * keys**-0.5, key, value, g, beta, state)
    return output.transpose(1, 2).to(given), last if output_final_state else None


def chunk_scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    chunk_size: int,
    D: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    initial_states: torch.Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **_: Any,
) -> Any:
    """`mamba2_chunk_scan` of transformers: states (rows, heads, values, keys), sequences (rows, steps, heads, size)."""
    import torch

    from onnxport.export.recurrences.operators import operators

    rows, _steps, heads, values = hidden_states.shape
    dt = dt if dt_bias is None else dt + dt_bias.to(dt.dtype)
    dt = torch.nn.functional.softplus(dt) if dt_softplus else dt
    dt = torch.clamp(dt, min=dt_limit[0], max=dt_limit[1] if dt_limit[1] != float("inf") else None).float()
    hidden_states = hidden_states.float()
    key, query = (x.float().repeat_interleave(heads // x.shape[2], dim=2).transpose(1, 2) for x in (B, C))
    value, decay = (hidden_states * dt[..., None]).transpose(1, 2), (A.float() * dt).transpose(1, 2)
    if initial_states is None:
        state = value.new_zeros(rows, heads, key.shape[-1], values)
    else:
        state = initial_states.float().transpose(2, 3)
    output, last = operators().attention(query, key, value, decay, state)
    output = output.transpose(1, 2)
    output = output if D is None else output + D[..., None] * hidden_states
    return (output.contiguous(), last.transpose(2, 3)) if return_final_states else output.contiguous()


def selective_scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Any:
    """`mamba_selective_scan` of transformers: sequences (rows, channels, steps), B and C (rows, states, steps)."""
    import torch

    from onnxport.export.recurrences.operators import operators

    given = hidden_states.dtype
    dt = dt if delta_bias is None else dt + delta_bias.to(dt.dtype)[..., None]
    dt = torch.nn.functional.softplus(dt) if delta_softplus else dt
    x, step, b, c = (tensor.float() for tensor in (hidden_states, dt, B.transpose(1, 2), C.transpose(1, 2)))
    output, last = operators().channels(x, step, A.float(), b, c)
    output, last = output.to(given), last.to(given)
    output = output if D is None else output + hidden_states * D[None, :, None]
    output = output if z is None else output * torch.nn.functional.silu(z)
    return (output, last) if return_last_state else output


@contextmanager
def _translated() -> Iterator[None]:
    """Let the exporter of transformers know what the operators are in ONNX."""
    from transformers.exporters import exporter_onnx

    from onnxport.export.recurrences import translate
    from onnxport.export.recurrences.operators import operators

    known = operators()
    table = exporter_onnx._ONNX_TRANSLATION_TABLE
    ours = {
        known.attention: translate.decayed_attention,
        known.delta_rule: translate.delta_rule,
        known.channels: translate.channel_recurrence,
    }
    table.update(ours)
    try:
        yield
    finally:
        for operator in ours:
            table.pop(operator, None)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch_chunk_gated_delta_rule": gated_delta_rule,
    "mamba2_chunk_scan": chunk_scan,
    "mamba_selective_scan": selective_scan,
}
