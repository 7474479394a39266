"""The recurrences as operators: torch.export sees one node, whose number of steps is an axis like any other.

Read row by row, with S the state (keys, values) of a head, S_0 given:

    decayed attention:  S_t = exp(decay_t) S_(t-1) + key_t value_t'
    delta rule:         S_t = exp(decay_t) S_(t-1) + key_t beta_t (value_t - (exp(decay_t) S_(t-1))' key_t)'
    output_t = S_t' query_t

Mamba 2 (Dao and Gu 2024, "Transformers are SSMs", section 6) is the first, Gated DeltaNet (Yang et al. 2024, section 3)
the second. Mamba (Gu and Dao 2023, section 3) has a decay for each channel and state:

    S_t = exp(step_t A) S_(t-1) + step_t x_t B_t',  output_t = S_t C_t
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch


class Operators(NamedTuple):
    """The operators, as `torch.ops` has them.

    Attributes:
        attention: (query, key, value, decay, state) -> (output, last state).
        delta_rule: (query, key, value, decay, beta, state) -> (output, last state).
        channels: (x, step, a, b, c) -> (output, last state), from a state of zeros.
    """

    attention: Any
    delta_rule: Any
    channels: Any


@cache
def operators() -> Operators:
    """Register the operators once in a process.

    Shapes: query, key (rows, heads, steps, keys); value (rows, heads, steps, values); decay, beta (rows, heads,
    steps); state (rows, heads, keys, values). x, step (rows, channels, steps); a (channels, states); b, c (rows,
    steps, states). All are float32.
    """
    kinds = (
        ("decayed_attention", _attention, _like_values),
        ("delta_rule", _delta_rule, _like_values),
        ("channel_recurrence", _channels, _like_channels),
    )
    for name, steps, shapes in kinds:
        torch.library.custom_op(f"onnxport::{name}", steps, mutates_args=()).register_fake(shapes)
    known = torch.ops.onnxport
    return Operators(known.decayed_attention.default, known.delta_rule.default, known.channel_recurrence.default)


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, decay: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = []
    for step in range(query.shape[2]):
        state = state * decay[:, :, step, None, None].exp()
        state = state + key[:, :, step, :, None] * value[:, :, step, None, :]
        outputs.append((query[:, :, step, None, :] @ state)[:, :, 0])
    return torch.stack(outputs, 2), state.clone()


def _delta_rule(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, decay: torch.Tensor, beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    outputs = []
    for step in range(query.shape[2]):
        state = state * decay[:, :, step, None, None].exp()
        known = (key[:, :, step, None, :] @ state)[:, :, 0]
        change = beta[:, :, step, None] * (value[:, :, step] - known)
        state = state + key[:, :, step, :, None] * change[:, :, None, :]
        outputs.append((query[:, :, step, None, :] @ state)[:, :, 0])
    return torch.stack(outputs, 2), state.clone()


def _channels(
    x: torch.Tensor, step: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    state, outputs = x.new_zeros(x.shape[0], x.shape[1], a.shape[1]), []
    for index in range(x.shape[2]):
        decay = (step[:, :, index, None] * a).exp()
        state = decay * state + (step[:, :, index] * x[:, :, index])[:, :, None] * b[:, index, None, :]
        outputs.append((state @ c[:, index, :, None])[:, :, 0])
    return torch.stack(outputs, 2), state.clone()


def _like_values(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    value, state = given[2], given[-1]
    return value.new_empty(value.shape), state.new_empty(state.shape)


def _like_channels(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    x, a = given[0], given[2]
    return x.new_empty(x.shape), x.new_empty(x.shape[0], x.shape[1], a.shape[1])
