"""What static int8 does to each activation of an encoder: it is smoothed first, or it stays float32.

All activations are rounded as the static graph rounds them, in one session in which factors, scales and weights are
inputs. The exponent of the smoothing that loses least on the samples is taken. Where that is still more than the
budget, the activations that lose most for the size of their products stay float32, and as few as are needed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.artifact.tuning import Loss
from onnxport.graph.inputs import Arrays
from onnxport.graph.quantization.saturation import pair_sums
from onnxport.graph.quantization.smoothing import (
    Activation,
    by_input,
    find_activations,
    has_outliers,
    smoothing_factors,
)
from onnxport.graph.quantization.static_int8 import Plan
from onnxport.graph.quantization.weight_only import load_graph
from onnxport.variants.loss import measure_loss
from onnxport.variants.samples import Samples
from onnxport.variants.sensitivity import BUDGET, fewest, open_session

_EXPONENTS = (0.0, 0.5, 0.65, 0.8)
_EACH = 4  # calls of which one measures a single activation
_LEVELS = 255


@dataclass(frozen=True)
class Chosen:
    """A plan and what it was chosen from.

    Attributes:
        plan: for the graph.
        smoothing: the exponent; 0 where nothing is smoothed.
        float_activations: names of those that stay float32, the most sensitive first.
    """

    plan: Plan = field(default_factory=Plan)
    smoothing: float = 0.0
    float_activations: tuple[str, ...] = ()


def choose_plan(file: Path, samples: Samples) -> Chosen:
    """Choose on samples.

    Args:
        file: a float32 graph.
        samples: that calibrate. A budget is kept only on real ones.
    """
    model = load_graph(file)
    if not find_activations(model):
        return Chosen()
    trial = _Trial(model, file, samples.arrays)
    names = [one.name for one in trial.activations]
    losses = {}
    for exponent in _EXPONENTS if trial.outliers else (0.0,):
        losses[exponent] = trial.use(exponent).loss(names)
    best = min(losses, key=lambda exponent: _fine(losses[exponent]))
    trial.use(best)
    floats: tuple[str, ...] = ()
    if samples.real and losses[best].mean > BUDGET:
        sizes = {one.name: sum(weight.size for weight in one.rows()) for one in trial.activations}
        ordered = sorted(names, key=lambda name: -_fine(trial.loss([name], every=_EACH)) / sizes[name])
        floats = tuple(
            ordered[: fewest(len(ordered), lambda count: trial.loss(ordered[count:]).mean <= BUDGET)]
        )  # fmt: skip
    factors = {name: factor for name, factor in trial.factors.items() if name not in floats}
    nodes = [str(node.name) for one in trial.activations if one.name in floats for node in one.products]
    return Chosen(Plan(factors, tuple(nodes)), best if factors else 0.0, floats)


def _fine(loss: Loss) -> float:
    """A number that small changes move: decisions are few."""
    return loss.divergence if loss.divergence is not None else loss.mean


class _Trial:
    """A graph whose activations can be rounded at each call.

    Args:
        model: the graph in `file`; is changed.
        calls: inputs on which ranges and loss are measured.
    """

    def __init__(self, model: Any, file: Path, calls: Sequence[Arrays]) -> None:
        self.activations = find_activations(model)
        self.factors: dict[str, np.ndarray] = {}
        self._calls = calls
        self._outputs = [value.name for value in model.graph.outputs]
        self._weights = {
            str(value.name): value.const_value.numpy() for one in self.activations for value in one.weights
        }
        values = {str(value.name): value for one in self.activations for value in one.weights}
        tops = [_add_rounding(model, number, one) for number, one in enumerate(self.activations)]
        model.graph.inputs.extend(values.values())
        self._session = open_session(model, file)
        self._known = {spec.name for spec in self._session.get_inputs()}
        self._feed = self._weights | {
            key: array for number, one in enumerate(self.activations) for key, array in _as_it_is(number, one).items()
        }
        self._wanted: list[Arrays] = []
        self._low, self._high = self._measure([name for pair in tops for name in pair])
        self.outliers = [
            one for number, one in enumerate(self.activations)
            if one.scalable and has_outliers(self._largest(number))
        ]  # fmt: skip

    def _largest(self, number: int) -> np.ndarray:
        largest: np.ndarray = np.maximum(np.abs(self._low[number]), np.abs(self._high[number]))
        return largest

    def _measure(self, tops: list[str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The lowest and highest value of each channel, and the outputs of the float32 graph."""
        found: list[np.ndarray] = []
        for call in self._calls:
            results = self._run(call, [*self._outputs, *tops])
            self._wanted.append(dict(zip(self._outputs, results[: len(self._outputs)], strict=True)))
            given = results[len(self._outputs) :]
            found = [
                (np.minimum if number % 2 == 0 else np.maximum)(one, found[number]) if found else one
                for number, one in enumerate(given)
            ]
        return found[::2], found[1::2]

    def use(self, exponent: float) -> _Trial:
        """Smooth outliers with this exponent, and round all weights."""
        self.factors = {}
        for number, one in enumerate(self.activations):
            factor = np.ones(len(self._low[number]), np.float32)
            if exponent and one in self.outliers:
                factor = self.factors[one.name] = smoothing_factors(self._largest(number), one.rows(), exponent)
            low = min(0.0, float((self._low[number] / factor).min()))
            high = max(0.0, float((self._high[number] / factor).max()))
            scale = np.float32(max((high - low) / _LEVELS, 1e-30))
            self._feed |= {
                f"trial.{number}.inverse": (1 / factor).astype(np.float32),
                f"trial.{number}.scale": np.asarray(scale),
                f"trial.{number}.zero": np.asarray(np.clip(round(-low / float(scale)), 0, _LEVELS), np.uint8),
            }
            for name in (str(value.name) for value in one.weights):
                rows = by_input(self._weights[name], one) * factor[:, None]
                self._feed[name] = np.ascontiguousarray(by_input(_rounded(rows), one))
        return self

    def loss(self, rounded: Collection[str], *, every: int = 1) -> Loss:
        """With these activations rounded; `every` 4 measures each fourth call only."""
        flags = {
            f"trial.{number}.rounded": np.asarray(one.name in rounded) for number, one in enumerate(self.activations)
        }
        self._feed |= flags
        wanted = iter(self._wanted[::every])
        return measure_loss(
            lambda _: next(wanted),
            lambda call: dict(zip(self._outputs, self._run(call, self._outputs), strict=True)),
            self._calls[::every], "",
        )  # fmt: skip

    def _run(self, call: Arrays, outputs: list[str]) -> list[np.ndarray]:
        given = {name: array for name, array in call.items() if name in self._known} | self._feed
        results: list[np.ndarray] = self._session.run(outputs, given)
        return results


def _rounded(rows: np.ndarray) -> np.ndarray:
    """Weights (inputs, outputs) as `weight_ranges` rounds them."""
    scale = np.maximum(pair_sums(rows), 1e-30) / 127
    integers: np.ndarray = np.clip(np.round(rows / scale), -127, 127)
    return np.asarray(integers * scale, np.float32)


def _as_it_is(number: int, activation: Activation) -> Arrays:
    """Inputs with which nothing is rounded."""
    channels = len(activation.rows()[0])
    return {
        f"trial.{number}.inverse": np.ones(channels, np.float32), f"trial.{number}.scale": np.asarray(np.float32(1)),
        f"trial.{number}.zero": np.asarray(np.uint8(0)), f"trial.{number}.rounded": np.asarray(False),
    }  # fmt: skip


def _add_rounding(model: Any, number: int, activation: Activation) -> tuple[str, str]:
    """Put the rounding of an activation into a graph; names of the lowest and highest value of each channel."""
    import onnx_ir as ir

    channels = len(activation.rows()[0])
    kinds = {"inverse": ir.DataType.FLOAT, "scale": ir.DataType.FLOAT, "zero": ir.DataType.UINT8,
             "rounded": ir.DataType.BOOL}  # fmt: skip
    inverse, scale, zero, rounded = (
        ir.Value(name=f"trial.{number}.{name}", type=ir.TensorType(kind), shape=ir.Shape([channels] * (not at)))
        for at, (name, kind) in enumerate(kinds.items())
    )
    model.graph.inputs.extend([inverse, scale, zero, rounded])
    tape = ir.tape.Tape()
    divided = tape.op("Mul", [activation.value, inverse])
    integers = tape.op("QuantizeLinear", [divided, scale, zero])
    either = tape.op("Where", [rounded, tape.op("DequantizeLinear", [integers, scale, zero]), divided])
    rows, axes = (
        tape.initializer(ir.tensor(np.array(numbers), name=f"trial.{number}.{name}"))
        for name, numbers in (("rows", [-1, channels]), ("axes", [0]))
    )
    flat = tape.op("Reshape", [divided, rows])
    tops = [tape.op(kind, [flat, axes], {"keepdims": 0}) for kind in ("ReduceMin", "ReduceMax")]
    for value in tape.initializers:
        model.graph.register_initializer(value)
    for index, node in enumerate(tape.nodes):
        node.name = node.outputs[0].name = f"trial.{number}.{index}"
    model.graph.insert_before(activation.products[0], tape.nodes)
    for product in activation.products:
        product.replace_input_with(0, either)
    for value in tops:
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([channels])
    model.graph.outputs.extend(tops)
    return str(tops[0].name), str(tops[1].name)
