"""The weights of a model's graphs: recorded before the export, expected after it, proved in the written files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from onnxport.artifact.ledger import Ledger
from onnxport.graph.weight_history import WeightHistory
from onnxport.verification.ledger.source_weights import SourceWeights

if TYPE_CHECKING:
    from onnxport.export.signature import Signature
    from onnxport.loading.model_to_export import ModelToExport
    from onnxport.verification.ledger.expected import ExpectedWeight
    from onnxport.verification.ledger.variable import Variable


class FinishedGraph(Protocol):
    """A graph that is ready to be written: `api.build_graph.Graph`."""

    model: Any
    history: WeightHistory
    signature: Signature


@dataclass(frozen=True)
class GraphWeights:
    """What the weights of one graph must be.

    Attributes:
        expected: by the name of the initializer.
        source: reads the checkpoint.
        used: names of the parameters and buffers that the graph holds.
        unused: parameters that no graph of the model holds -> why.
    """

    expected: Mapping[str, ExpectedWeight]
    source: SourceWeights
    used: frozenset[str] = frozenset()
    unused: Mapping[str, str] = field(default_factory=dict)

    def prove(self, file: Path, advance: Callable[[int], None] | None = None) -> Ledger:
        """Compare the graph that was written to `file`.

        Raises:
            VerificationError: a weight is not what it must be.
            FolderError: bytes are missing.
        """
        from onnxport.verification.ledger.prove import prove_weights

        return prove_weights(file, self.expected, self.source, advance)


def record_weights(to_export: ModelToExport) -> list[SourceWeights | Sequence[Variable]]:
    """The weights of each part's source, before anything is run or exported.

    Raises:
        VerificationError: a parameter does not hold the tensor of its name, or what the class of the model makes of
            its config is not as it should be.
    """
    from onnxport.verification.configured_state import require_as_configured
    from onnxport.verification.ledger.source_weights import record_source
    from onnxport.verification.ledger.tensorflow_weights import record_variables

    if to_export.source.framework != "pt":
        return [record_variables(cast("Any", part.source).variables, to_export.files) for part in to_export.parts]
    origins = to_export.weight_origins.again()
    if origins.model is not None:
        require_as_configured(origins.model)
    known: dict[int, SourceWeights] = {}
    for part in to_export.parts:  # several graphs of one model
        model = cast("Any", part.source).model
        if id(model) not in known:
            known[id(model)] = record_source(model, origins)
    return [known[id(cast("Any", part.source).model)] for part in to_export.parts]


def expect_weights(
    to_export: ModelToExport, sources: Sequence[SourceWeights | Sequence[Variable]], graphs: Sequence[FinishedGraph]
) -> list[GraphWeights]:
    """What the weights of each graph must be.

    Args:
        to_export: the model, still in memory.
        sources: what `record_weights` gave.
        graphs: the finished graphs.

    Raises:
        VerificationError: the export changed a weight of the model, or lost one, or a normalization's epsilon.
        CheckpointError: a live module has parameters that no output depends on.
    """
    from onnxport.verification.ledger.epsilons import require_epsilons
    from onnxport.verification.ledger.expected import Expectations
    from onnxport.verification.ledger.source_weights import unchanged
    from onnxport.verification.ledger.tensorflow_weights import expect_variables

    found: list[GraphWeights] = []
    checked: set[int] = set()
    for part, source, graph in zip(to_export.parts, sources, graphs, strict=True):
        if not isinstance(source, SourceWeights):
            expected, held = expect_variables(source, graph.model, graph.history)
            found.append(GraphWeights(expected, SourceWeights({}, {}), frozenset(held)))
            continue
        if id(source) not in checked:
            checked.add(id(source))
            unchanged(source, cast("Any", part.source).model)
        expectations = Expectations(source, graph.history)
        require_epsilons(graph.model, expectations, cast("Any", part.source).model)
        expected = expectations.of_graph(graph.model)
        found.append(GraphWeights(expected, source.without_memory(), frozenset(expectations.used(expected))))
    pytorch = to_export.source.framework == "pt"
    unused = _unused(to_export, found, graphs) if pytorch else _unused_variables(sources, found)
    return [replace(one, unused=unused) for one in found]


def _unused_variables(
    sources: Sequence[SourceWeights | Sequence[Variable]], weights: Sequence[GraphWeights]
) -> dict[str, str]:
    """Variables whose values no graph holds: computed into other weights, or read by no output."""
    names = {one.name for source in sources if not isinstance(source, SourceWeights) for one in source}
    held = {name for one in weights for name in one.used}
    told = {one.origins for graph in weights for one in graph.expected.values()}
    inside = {name for name in names if any(f"variable {name}" in text.split(" and ") for text in told)}
    return dict.fromkeys(sorted(names - held - inside), "computed into other weights, or no output depends on it")


def _unused(
    to_export: ModelToExport, weights: Sequence[GraphWeights], graphs: Sequence[FinishedGraph]
) -> dict[str, str]:
    """Parameters of the model that no graph holds -> why."""
    from onnxport.verification.ledger.unused_parameters import (
        NOT_AN_OUTPUT,
        NOT_READ,
        read_parameters,
        require_no_influence,
        require_used,
    )

    models = [cast("Any", part.source).model for part in to_export.parts]
    tables = [dict(model.named_parameters(remove_duplicate=False)) for model in models]
    # By identity: a part may be a module of another part's model, under other names.
    held = {id(table[name]) for table, one in zip(tables, weights, strict=True) for name in one.used & table.keys()}
    read = {id(t[n]) for t, graph in zip(tables, graphs, strict=True) for n in graph.history.read & t.keys()}
    found: dict[str, str] = {}
    known = set(held)
    for model, table in {id(model): (model, table) for model, table in zip(models, tables, strict=True)}.values():
        names = {id(parameter): name for name, parameter in reversed(table.items()) if id(parameter) not in known}
        known |= names.keys()
        found |= {
            name: "merged with an equal weight, or its result is not used" for one, name in names.items() if one in read
        }
        left = sorted(name for one, name in names.items() if one not in read)
        if not left:
            continue
        parts = zip(to_export.parts, models, graphs, strict=True)
        runs = [(part.source, graph.signature.sample) for part, own, graph in parts if own is model]
        for source, sample in runs:
            require_no_influence(source, model, left, sample)
        if to_export.pipeline is None and not to_export.allow_unused:
            require_used(left, to_export.architecture)
        seen = read_parameters(runs, {name: table[name] for name in left})
        found |= {name: NOT_AN_OUTPUT if name in seen else NOT_READ for name in left}
    return found
