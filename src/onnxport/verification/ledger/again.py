"""The ledger of a folder, run again: against the checkpoint that it was converted from, or against another one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxport.artifact.ledger import Ledger, Proof, WeightProof
from onnxport.graph.weight_history import Layout
from onnxport.verification.ledger.expected import ExpectedWeight, of_record, rearranged, rearranged_array
from onnxport.verification.ledger.prove import prove_weights, wrong_weights
from onnxport.verification.ledger.source_weights import SourceWeights, describe_origins

if TYPE_CHECKING:
    from onnxport.verification.ledger.variable import Variable
    from onnxport.weights.lazy import LazyTensor

_FROM_SOURCE = (Proof.EXACT, Proof.TRANSFORMED, Proof.SOURCE)


def prove_again(file: Path, ledger: Ledger, source: SourceWeights) -> Ledger:
    """Compare a graph with a source, by the transforms that its ledger records.

    Weights that were computed while the graph was made are not computed again, those that were computed while the model
    was loaded are (an adapter that was merged). The others are as they were, if the file has its recorded sha256.

    Args:
        file: the graph.
        ledger: of the graph, from the manifest.
        source: of the model to compare with.

    Raises:
        VerificationError: a weight is not what this source has.
    """
    known = _by_origin(source)
    expected: dict[str, ExpectedWeight] = {}
    lacking: list[str] = []
    for name, proof in ledger.weights.items():
        layouts, loading = _split(proof)
        record = known.get((proof.origins, loading))
        if proof.proof not in _FROM_SOURCE and (record is None or proof.proof is not Proof.COMPUTED):
            continue
        if record is None:
            lacking.append(f"{name} holds {proof.origins}, which this model does not have")
        else:
            expected[name] = of_record(source, rearranged(record, layouts), proof)
    if lacking:
        raise wrong_weights(file, lacking)
    return prove_weights(file, expected, source, accepted=ledger.weights.keys() - expected.keys())


def prove_variables_again(file: Path, ledger: Ledger, variables: Sequence[Variable]) -> Ledger:
    """The same for a model of TensorFlow: weights that are one variable, in another layout.

    Args:
        file: the graph.
        ledger: of the graph, from the manifest.
        variables: of the model to compare with.

    Raises:
        VerificationError: a weight is not what this model has.
    """
    known = {one.stored or f"variable {one.name}": one for one in variables}
    known |= {f"variable {one.name}": one for one in variables}
    expected: dict[str, ExpectedWeight] = {}
    lacking: list[str] = []
    for name, proof in ledger.weights.items():
        layouts, rest = _split(proof)
        if proof.proof not in _FROM_SOURCE or rest:
            continue
        variable = known.get(proof.origins)
        if variable is None:
            lacking.append(f"{name} holds {proof.origins}, which this model does not have")
            continue
        values = variable.array
        for layout in layouts:
            values = rearranged_array(values, layout)
        digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
        expected[name] = ExpectedWeight(proof.proof, proof.transform, proof.origins, values.dtype.name, values.shape,
                                        sha256=digest)  # fmt: skip
    if lacking:
        raise wrong_weights(file, lacking)
    return prove_weights(file, expected, SourceWeights({}, {}), accepted=ledger.weights.keys() - expected.keys())


def _by_origin(source: SourceWeights) -> dict[tuple[str, tuple[str, ...]], LazyTensor]:
    found: dict[tuple[str, tuple[str, ...]], LazyTensor] = {}
    for name, record in source.records.items():
        found.setdefault(describe_origins(record, name, source.reader), record)
    return found


def _split(proof: WeightProof) -> tuple[Sequence[Layout], tuple[str, ...]]:
    """(changes of layout, what loading did) of a transform in words."""
    layouts: list[Layout] = []
    loading: list[str] = []
    for word in proof.transform.split(", "):
        try:
            layouts.append(Layout.from_text(word))
        except ValueError:
            if word != "as is":
                loading.append(word)
    return layouts, tuple(loading)
