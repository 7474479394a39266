"""Recurrences in ONNX against the same recurrence step by step in torch, at numbers of steps that were not traced."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

# Fewer steps than traced, more; one, a whole chunk, one less and one more, several chunks.
LENGTHS = (1, 2, 63, 64, 65, 128, 200)


def _heads(length: int, *, beta: bool) -> tuple[torch.Tensor, ...]:
    """Keys are nearly parallel and rates near 1: powers of their products grow before they cancel."""
    rows, heads, keys, values = 2, 3, 8, 5
    normalized = torch.nn.functional.normalize
    query = normalized(torch.randn(rows, heads, length, keys), dim=-1)
    key = normalized(torch.randn(rows, heads, length, keys) + 4, dim=-1)
    value, decay = torch.randn(rows, heads, length, values), -torch.rand(rows, heads, length) / 20
    rate = (1 - torch.rand(rows, heads, length) / 10,) if beta else ()
    return query, key, value, decay, *rate, torch.randn(rows, heads, keys, values)


def _channels(length: int) -> tuple[torch.Tensor, ...]:
    steps = torch.rand(2, 6, length)
    return torch.randn(2, 6, length), steps, -torch.rand(6, 4), torch.randn(2, length, 4), torch.randn(2, length, 4)


@pytest.mark.parametrize("name", ["attention", "delta_rule", "channels"])
def test_every_number_of_steps(name: str) -> None:
    import onnxruntime

    from onnxport.export.recurrences import translate
    from onnxport.export.recurrences.operators import operators

    operator = getattr(operators(), name)
    steps, free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC}
    make, axes, translation = {
        "attention": (lambda n: _heads(n, beta=False), (steps,) * 4 + (free,), translate.decayed_attention),
        "delta_rule": (lambda n: _heads(n, beta=True), (steps,) * 5 + (free,), translate.delta_rule),
        "channels": (
            _channels, (steps, steps, {}, {0: steps[0], 1: steps[2]}, {0: steps[0], 1: steps[2]}),
            translate.channel_recurrence,
        ),
    }[name]  # fmt: skip

    class Alone(torch.nn.Module):
        def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return operator(*given)

    torch.manual_seed(0)
    program = torch.onnx.export(
        Alone(), make(7), dynamic_shapes=(axes,), custom_translation_table={operator: translation}, opset_version=18,
        optimize=False, verbose=False, dynamo=True,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for length in LENGTHS:
        given = make(length)
        found = session.run(
            None, {spec.name: value.numpy() for spec, value in zip(session.get_inputs(), given, strict=True)}
        )
        wanted = operator(*(value.double() for value in given))
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5 * float(other.abs().max()))
