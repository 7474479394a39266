"""The variables of a TensorFlow model, and what the weights of its graph must be.

Large variables do not pass through tf2onnx: they are known by the name that TensorFlow's trace gives them. Smaller ones
are constants there, and lose their names: they are found by their values. What remains was computed of variables while
the graph was made: normalizations folded into products, gates of recurrent layers in another order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.artifact.ledger import Proof
from onnxport.errors import VerificationError
from onnxport.graph.weight_history import WeightHistory
from onnxport.verification.ledger.arrays import (
    Array,
    Named,
    packed_pieces,
    rows_of,
    scaled_by_channel,
    transform_between,
    weight_normed,
)
from onnxport.verification.ledger.expected import ExpectedWeight, rearranged_array
from onnxport.verification.ledger.stored_variables import stored_names
from onnxport.verification.ledger.variable import Variable, values_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.checkpoints.tensorflow_files import TensorflowFiles

_SMALL = 64
_ALIKE = 1e-2  # of the spread of a variable's values
_EPSILON_SPREAD = 1e-3  # relative, of the epsilon that a folded normalization seems to have


def record_variables(variables: Iterable[Any], files: TensorflowFiles | None = None) -> list[Variable]:
    """The variables of a source, before anything is run or exported.

    Args:
        variables: of the source.
        files: where the model was loaded from.

    Raises:
        VerificationError: one has other values than its file.
    """
    found: list[Variable] = []
    seen: dict[str, int] = {}
    for variable in variables:
        name = str(getattr(variable, "path", None) or variable.name).removesuffix(":0")
        seen[name] = seen.get(name, 0) + 1
        unique = name if seen[name] == 1 else f"{name} ({seen[name]})"
        plain = getattr(variable, "value", None)
        holder = variable if hasattr(variable, "handle") else plain
        handle = getattr(getattr(holder, "handle", None), "_id", None)
        found.append(Variable(unique, variable, handle, _digest(values_of(variable))))
    stored = stored_names(found, files)
    return [replace(one, stored=stored.get(one.name)) for one in found]


def expect_variables(
    variables: Sequence[Variable], model: ir.Model, history: WeightHistory
) -> tuple[dict[str, ExpectedWeight], set[str]]:
    """(what each weight of a finished graph must be, names of the variables that it holds).

    Args:
        variables: of the source, as they were before the export.
        model: the finished graph, in memory.
        history: what the graph's passes did.

    Raises:
        VerificationError: the export changed a variable; a weight of the graph is none of the variables.
    """
    for one in variables:
        if _digest(one.array) != one.sha256:
            raise VerificationError(
                f"{one.name} of the model has other values after the export than before it.", hint="Report this model."
            )
    search = _Search(variables, history)
    expected: dict[str, ExpectedWeight] = {}
    left: dict[str, Array] = {}
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None or tensor.dtype.bitwidth < 8:
                continue
            array = tensor.numpy()
            entry = search.named(str(name)) or (search.by_value(array) if array.size > 1 else None)
            if entry is not None:
                expected[str(name)] = entry
            elif array.size > 1:
                left[str(name)] = array
    lost = [one for one in search.known if one.name not in search.held and one.array.size > 1]
    for name, array in left.items():
        expected[name] = search.computed(name, array, lost)
    return expected, search.held


class _Search:
    def __init__(self, variables: Sequence[Variable], history: WeightHistory) -> None:
        self.known = [Named(one.name, one.array) for one in variables]
        self._stored = {one.name: one.stored for one in variables if one.stored is not None}
        self.history, self.held = history, set[str]()
        self._by_handle = {one.handle: index for index, one in enumerate(variables) if one.handle is not None}
        self._rounded: dict[tuple[str, str], Named] = {}
        self._by_size: dict[tuple[str, int], list[Named]] = {}
        for one in self.known:
            self._by_size.setdefault((one.array.dtype.str, one.array.size), []).append(one)

    def named(self, name: str) -> ExpectedWeight | None:
        """A weight that TensorFlow's trace has a name for."""
        source, layouts = self.history.layouts.get(name, (name, ()))
        handle = self.history.variables.get(source)
        index = self._by_handle.get(handle) if handle is not None else None
        if index is None:
            return None
        values = self.known[index].array
        for layout in layouts:
            values = rearranged_array(values, layout)
        self.held.add(self.known[index].name)
        words = ", ".join(layout.text for layout in layouts) or "as is"
        return self._held(values, words, self.known[index].name)

    def by_value(self, array: Array) -> ExpectedWeight | None:
        """A weight that a variable has the values of."""
        for one in self._by_size.get((array.dtype.str, array.size), ()):
            words = transform_between(array, one.array)
            if words is not None:
                self.held.add(one.name)
                return self._held(array, words, one.name)
        return None

    def _held(self, values: Array, words: str, name: str) -> ExpectedWeight:
        stored = self._stored.get(name)
        if stored is None:
            return _expected(values, Proof.SOURCE, words, f"variable {name}")
        return _expected(values, Proof.EXACT if words == "as is" else Proof.TRANSFORMED, words, stored)

    def computed(self, name: str, array: Array, lost: Sequence[Named]) -> ExpectedWeight:
        """A weight that something was computed for, of variables that no other weight is.

        Raises:
            VerificationError: it seems to be a variable, and is none.
        """
        if array.dtype.kind != "f" or array.size <= 2:
            return _expected(array, Proof.CONSTANT, "as captured", f"constant {name}")
        known, lost = ([*self._in_type(some, array.dtype)] for some in (self.known, lost))
        found = _rounded(array, known, self.known) or _explained(array, known, lost)
        if found is not None:
            proof, words, names = found
            return _expected(array, proof, words, " and ".join(f"variable {one}" for one in names))
        alike = next((one for one in lost if _looks_like(array, one.array)), None)
        if alike is not None:
            raise VerificationError(
                f"The weight {name} {list(array.shape)} of the graph is none of the model's variables, and the graph "
                f"does not hold {alike.name} {list(alike.array.shape)}.",
                hint="Report this model.",
            )
        return _expected(array, Proof.UNPROVED, "computed by TensorFlow", f"constant {name}")

    def _in_type(self, known: Sequence[Named], dtype: Any) -> Iterator[Named]:
        """Variables as a layer of another precision reads them: rounded to the type that it computes in."""
        for one in known:
            if one.array.dtype == dtype or one.array.dtype.kind != "f":
                yield one
            else:
                key = one.name, str(dtype)
                if key not in self._rounded:
                    with np.errstate(over="ignore"):
                        self._rounded[key] = Named(one.name, one.array.astype(dtype))
                yield self._rounded[key]


def _rounded(array: Array, known: Sequence[Named], own: Sequence[Named]) -> tuple[Proof, str, list[str]] | None:
    """The variable that `array` is, rounded to its type."""
    for one, original in zip(known, own, strict=True):
        words = transform_between(array, one.array) if one is not original else None
        if words is not None:
            rounded = f"rounded to {array.dtype.name}"
            return Proof.COMPUTED, rounded if words == "as is" else f"{rounded}, {words}", [one.name]
    return None


def _looks_like(array: Array, variable: Array) -> bool:
    """Whether most values are those of the variable or near to them, in any order: a damaged or rounded copy."""
    if array.size != variable.size or array.size <= _SMALL or variable.dtype.kind != "f":
        return False
    found, wanted = (np.sort(one, axis=None).astype(np.float64) for one in (array, variable))
    return bool(np.median(np.abs(found - wanted)) <= _ALIKE * max(float(wanted.std()), 1e-12))


def _explained(
    array: Array, known: Sequence[Named], lost: Sequence[Named]
) -> tuple[Proof, str, list[str]] | None:  # fmt: skip
    packed = packed_pieces(array, known)
    if packed is not None:
        return Proof.SOURCE, f"packed along axis {packed[0]}", packed[1]
    rows = rows_of(array, known)
    if rows is not None:
        return Proof.SOURCE, "rows in another order", rows
    normed = weight_normed(array, lost)
    if normed is not None:
        return Proof.COMPUTED, "weight norm", normed
    moved = [Named(one.name, one.array.transpose(order)) for one in lost for order in _kernel_orders(one.array.ndim)]
    scaled = next((one.name for one in moved if scaled_by_channel(array, one.array)), None)
    if scaled is not None:
        return Proof.COMPUTED, "scaled by channel", [scaled]
    norm = _folded_norm(array, lost)
    return None if norm is None else (Proof.COMPUTED, "normalization as a product and a sum", norm)


def _kernel_orders(rank: int) -> list[tuple[int, ...]]:
    """Of convolutions: (height, width, in, out) in TensorFlow, (out, in, height, width) in ONNX."""
    same = tuple(range(rank))
    if rank < 3:
        return [same, same[::-1]]
    spatial = same[: rank - 2]
    return [same, (rank - 1, rank - 2, *spatial), (rank - 2, rank - 1, *spatial)]


def _folded_norm(array: Array, lost: Sequence[Named]) -> list[str] | None:
    """Names of the scale, shift, mean and variance that `array` was computed of, with one epsilon.

    It is scale / sqrt(variance + epsilon), or shift - mean * scale / sqrt(variance + epsilon).
    """
    flat = array.reshape(-1).astype(np.float64)
    groups: dict[str, dict[str, Named]] = {}
    for one in lost:
        if one.array.size == flat.size:
            path, _, last = one.name.rpartition("/")
            groups.setdefault(path, {})[last] = one
    for group in groups.values():
        variance = _part(group, "variance")
        if variance is None:
            continue
        scale, shift, mean = (_part(group, word) for word in ("gamma", "beta", "mean"))
        gain = scale.array.astype(np.float64) if scale is not None else np.ones(flat.size)
        bias = shift.array.astype(np.float64) if shift is not None else np.zeros(flat.size)
        middle = mean.array.astype(np.float64) if mean is not None else np.zeros(flat.size)
        with np.errstate(divide="ignore", invalid="ignore"):
            for factor in (flat / gain, (bias - flat) / (middle * gain)):
                epsilon = 1 / factor**2 - variance.array
                typical = float(np.median(epsilon))
                rebuilt = 1 / np.sqrt(variance.array.astype(np.float64) + typical)
                if np.isfinite(factor).all() and typical > 0 and np.allclose(factor, rebuilt, rtol=_EPSILON_SPREAD):
                    return [one.name for one in (scale, shift, mean, variance) if one is not None]
    return None


def _part(group: Mapping[str, Named], word: str) -> Named | None:
    return next((one for name, one in group.items() if word in name), None)


def _expected(values: Array, proof: Proof, words: str, origins: str) -> ExpectedWeight:
    return ExpectedWeight(proof, words, origins, values.dtype.name, values.shape, sha256=_digest(values))


def _digest(array: Array) -> str:
    digest = hashlib.sha256()
    rows = array.reshape(1, -1) if array.ndim < 2 else array
    step = max(1, 2**21 // max(1, rows[:1].size))
    for start in range(0, len(rows), step):
        digest.update(np.ascontiguousarray(rows[start : start + step]).tobytes())
    return digest.hexdigest()
