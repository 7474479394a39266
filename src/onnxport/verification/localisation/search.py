"""Find the first module of the source and the first node of the graph whose results differ.

1. The source runs the smallest case that failed, and what each module gives is kept. The graph runs the same case, and
   gives all of its values.
2. Values that are equal to what a module gave clear the nodes before them (`region`).
3. In the modules around the first node that is left, what each operator of the source gave is kept too. That clears
   more nodes. The first one that is left is the finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxport.formats.graph_file import GraphFile, Node, read_graph_file
from onnxport.graph.origins import NodeOrigin
from onnxport.runtime.graph_values import graph_values
from onnxport.sources.base import Arrays, ModuleOutput, Observable, Source
from onnxport.specs import CaseCheck, Difference, ModuleError, Verification
from onnxport.system.library_errors import first_line
from onnxport.verification.case import Case
from onnxport.verification.localisation.matching import Match, References, is_telling, relative_error
from onnxport.verification.localisation.region import Region

# Rounding moves values of a sound graph by up to about this, relative to their scale.
_ROUNDING = 3e-7
_LEAST, _MOST = 1e-6, 1e-3  # bounds of what counts as equal
_ALIKE = 0.3  # a value that is wrong is still nearer than this to its counterpart, as a rule
_FUSION = (
    "all values of the graph are equal to those of the source when they are read as outputs: "
    "ONNX Runtime's fusion of operators makes the difference"
)


@dataclass(frozen=True)
class _Found:
    """A value of the graph, and its counterpart in the source."""

    match: Match
    value: np.ndarray


def find_difference(
    file: Path,
    source: Source,
    cases: Sequence[Case],
    verification: Verification,
    origins: Mapping[str, NodeOrigin] | None = None,
) -> Difference | None:
    """Search for the first place where the graph in `file` computes something else than `source`.

    Args:
        file: the graph.
        source: the model, as it was before the export.
        cases: that were compared.
        verification: what came of it; the smallest case with a wrong output is searched.
        origins: where nodes come from, as far as that is known (`graph.origins.node_origins`).

    Returns:
        What was found, or why nothing was; None where no single call differs.
    """
    failed = _smallest(cases, verification)
    if failed is None:
        return None
    case, check = failed
    try:
        return _Search(file, source, case, check, origins or {}).run()
    except Exception as error:  # the failed verification is the result; a search that fails is a note on it
        return Difference(case.name, dict(case.sizes), note=f"the search failed: {first_line(error)}")


def _smallest(cases: Sequence[Case], verification: Verification) -> tuple[Case, CaseCheck] | None:
    """The failed case with the fewest input elements: its values take the least memory."""
    known = {case.name: case for case in cases}
    failed = [
        (known[check.name], check)
        for check in verification.cases
        if check.name in known and any(not output.ok for output in check.outputs)
    ]
    return min(failed, key=lambda pair: sum(value.size for value in pair[0].inputs.values()), default=None)


class _Search:
    """One search in one case.

    Attributes:
        wrong: outputs that are beyond their tolerance.
        equal: values with a smaller relative error are equal.
        kinds: path of a module of the source -> its class.
    """

    def __init__(
        self, file: Path, source: Source, case: Case, check: CaseCheck, origins: Mapping[str, NodeOrigin]
    ) -> None:
        self.file, self.source, self.case, self.check, self.origins = file, source, case, check, origins
        self.graph: GraphFile = read_graph_file(file)
        self.region = Region(self.graph)
        self.wrong = [output.name for output in check.outputs if not output.ok]
        self.equal = _equal_below(check)
        self.kinds: dict[str, str] = {}

    def run(self) -> Difference:
        if not isinstance(self.source, Observable):
            return self._nothing("the modules of this source cannot be watched")
        calls = self.source.modules(self.case.inputs)
        if not any(call.values for call in calls):
            return self._nothing("the source has no modules or layers that can be watched")
        values = self._values()
        if all(self._is_right(name, values) for name in self.wrong):
            return self._nothing(_FUSION)
        outputs = [(place, value) for place, call in enumerate(calls) for value in call.values]
        references = References([value for _, value in outputs], moved=self.source.framework == "tf")
        found = {
            name: _Found(Match(outputs[match.index][0], match.error), value)
            for name, value in values.items()
            if (match := references.nearest(value)) is not None
        }
        right = {name for name, one in found.items() if one.match.error <= self.equal and is_telling(one.value)}
        right -= set(self.wrong)
        if not right:
            return self._nothing("no value of the graph is equal to what a module of the source gives")
        suspects = self.region.suspects(self.wrong, right)
        errors = self._errors(calls, values, found)
        if not suspects:
            return self._nothing(_FUSION, errors)
        first, last = self._window(suspects, found, right, calls)
        operators = self.source.operators(self.case.inputs, first, last)
        self.kinds = {call.module: call.kind for call in calls}
        return self._finding(suspects, values, found, right, operators, calls[last], errors)

    def _values(self) -> Arrays:
        """All values of the graph, but those that are computed from weights alone: they are as large as weights."""
        weights = self.graph.weights
        computed = [node for node in self.graph.nodes if not node.reads or any(n not in weights for n in node.reads)]
        names = [name for node in computed for name in node.outputs if name]
        values: Arrays = {}
        for group in graph_values(self.file, self.case.inputs, names):
            values |= group
        return values

    def _is_right(self, name: str, values: Arrays) -> bool:
        """Whether an output is equal to the source's when all values of the graph are read."""
        found, wanted = values.get(name), self.case.outputs.get(name)
        if found is None or wanted is None or found.shape != wanted.shape:
            return False
        return relative_error(found, wanted) <= self.equal

    def _errors(
        self, calls: Sequence[ModuleOutput], values: Arrays, found: Mapping[str, _Found]
    ) -> tuple[ModuleError, ...]:
        """The error after each module that has a counterpart in the graph: the value that is nearest to its output."""
        best: dict[int, float] = {}
        for one in found.values():
            if is_telling(one.value):
                place = one.match.index
                best[place] = min(one.match.error, best.get(place, float("inf")))
        last = {calls[place].module: place for place in sorted(best)}
        return tuple(
            ModuleError(path, calls[place].kind, best[place])
            for path, place in sorted(last.items(), key=lambda item: item[1])
        )

    def _window(
        self, suspects: Sequence[int], found: Mapping[str, _Found], right: set[str], calls: Sequence[ModuleOutput]
    ) -> tuple[int, int]:
        """Calls of modules between which the operators of the source are watched."""
        inside = set(suspects)
        border = [
            name
            for place in suspects
            for name in self.graph.nodes[place].reads
            if name in right and self.region.producers.get(name) not in inside
        ]
        places = sorted(found[name].match.index for name in border)
        # What the first suspects read decides: values of earlier modules are read again much later.
        first = places[0] if places else -1
        if any(name in self.graph.inputs for name in self.graph.nodes[suspects[0]].reads):
            first = -1
        # A tensor that several modules pass on has one array.
        matched = {id(value) for name in right for value in calls[found[name].match.index].values}
        latest = places[-1] if places else -1
        later = range(latest + 1, len(calls))
        last = next((at for at in later if not any(id(value) in matched for value in calls[at].values)), len(calls) - 1)
        return first, last

    def _finding(
        self, suspects: Sequence[int], values: Arrays, found: Mapping[str, _Found], right: set[str],
        operators: Sequence[ModuleOutput], call: ModuleOutput, errors: tuple[ModuleError, ...],
    ) -> Difference:  # fmt: skip
        references = References([value for one in operators for value in one.values])
        near = {
            name: match
            for place in suspects
            for name in self.graph.nodes[place].outputs
            if name in values and (match := references.nearest(values[name])) is not None
        }
        good = {name for name, match in near.items() if match.error <= self.equal}
        strong = {name for name in good if is_telling(values[name])}
        left = [
            place
            for place in self.region.suspects(self.wrong, right | strong)
            if not any(name in good for name in self.graph.nodes[place].outputs)
        ] or list(suspects)
        shapes = {value.shape for one in operators for value in one.values}
        place = self._first(left, values, right | strong, shapes)
        node = self.graph.nodes[place]
        value = next(name for name in node.outputs if name)
        before = [found[name].match.error for name in node.reads if name in right]
        before += [near[name].error for name in node.reads if name in strong]
        operator, error = self._counterpart(node, values, operators)
        if not operators and value in found:
            error = found[value].match.error
        after = self._output_error() if error is None else error
        origin = self.origins.get(value, NodeOrigin(None))
        module = self._module(place) or operator or call
        return Difference(
            self.case.name, dict(self.case.sizes), module.module, module.kind, node.name, node.operator, value,
            tuple(values[value].shape) if value in values else (), max(before, default=0.0), after, origin.fixes,
            self._note(error is None, len(left)), errors,
        )  # fmt: skip

    def _first(self, left: Sequence[int], values: Arrays, right: set[str], shapes: set[tuple[int, ...]]) -> int:
        """Of the nodes that are left, the first one of which it is certain: it makes other numbers from right ones.

        Nodes that build masks and sizes may have no counterpart in the source, and be right.
        """
        for place in left:
            node = self.graph.nodes[place]
            given = [values[name] for name in node.outputs if name in values]
            if any(value.dtype.kind == "f" and is_telling(value) for value in given) and any(
                name in right and values[name].dtype.kind == "f" for name in node.reads
            ):
                return place
            if any(value.shape in shapes and value.dtype.kind in "fb" and value.size > 1 for value in given):
                return place
            if any(value.dtype.kind == "f" for value in given) and not any(
                name in self.region.producers for name in node.reads
            ):
                return place  # a table
        return left[0]

    def _module(self, place: int) -> ModuleOutput | None:
        """The module that a node belongs to: as the export said, or that of its weights."""
        node = self.graph.nodes[place]
        value = next((name for name in node.outputs if name), "")
        origin = self.origins.get(value)
        if origin is not None and origin.module in self.kinds:
            return ModuleOutput(origin.module, self.kinds[origin.module], ())
        following = [self.graph.nodes[at] for at in self._readers(place)]
        bias = [one for one in following if one.operator == "Add" and node.operator == "MatMul"]
        for name in (*node.inputs, *(name for one in bias for name in one.inputs)):
            owner = name.rpartition(".")[0]
            if owner and owner in self.kinds and name in self.graph.weights and self._reads_of(name) == 1:
                return ModuleOutput(owner, self.kinds[owner], ())
        return None

    def _counterpart(
        self, node: Node, values: Arrays, operators: Sequence[ModuleOutput]
    ) -> tuple[ModuleOutput | None, float | None]:
        """Of the operators after those that gave what the node reads: (the one that gives the nearest array, error).

        Where none is near, it is the first one with another result of the same shape, and there is no error.
        """
        given = [values[name] for name in node.reads if name in values]
        later = operators[1 + max((_last_equal(value, operators, self.equal) for value in given), default=-1) :]
        value = next((values[name] for name in node.outputs if name in values), None)
        if value is None:
            return None, None
        outputs = [(one, array) for one in later for array in one.values]
        match = References([array for _, array in outputs]).nearest(value)
        if match is not None and match.error < _ALIKE:
            return outputs[match.index][0], match.error
        alike = [array for array in given if array.size == value.size]
        for one, array in outputs:
            if array.shape == value.shape and all(relative_error(read, array) > self.equal for read in alike):
                return one, None
        return None, None

    def _reads_of(self, weight: str) -> int:
        """How many nodes read a weight: equal weights of several modules are one, with the name of the first."""
        return sum(weight in node.reads for node in self.graph.nodes)

    def _readers(self, place: int) -> list[int]:
        given = set(self.graph.nodes[place].outputs)
        return [at for at, node in enumerate(self.graph.nodes) if given.intersection(node.reads)]

    def _output_error(self) -> float:
        return max((output.max_rel_error for output in self.check.outputs if not output.ok), default=0.0)

    def _note(self, alone: bool, left: int) -> str:
        if not alone or left < 2:
            return ""
        return f"the first of {left} nodes without a counterpart in the source; the error is that of the output"

    def _nothing(self, why: str, errors: tuple[ModuleError, ...] = ()) -> Difference:
        return Difference(self.case.name, dict(self.case.sizes), note=why, modules=errors)


def _last_equal(value: np.ndarray, operators: Sequence[ModuleOutput], equal: float) -> int:
    """Position of the last operator that gave `value`; -1 where none did."""
    if not is_telling(value):
        return -1
    places = (
        at
        for at in reversed(range(len(operators)))
        for array in operators[at].values
        if array.size == value.size and relative_error(value, array) <= equal
    )
    return next(places, -1)


def _equal_below(check: CaseCheck) -> float:
    """The relative error below which values count as equal: between what rounding does and the error to be explained.

    Both are known as orders of magnitude only, so it is their geometric mean.
    """
    wrong = [output for output in check.outputs if not output.ok]
    rounding = [_ROUNDING]
    rounding += [output.source_error / output.scale for output in wrong if output.source_error and output.scale]
    error = min((output.max_rel_error for output in wrong if np.isfinite(output.max_rel_error)), default=1.0)
    return float(np.clip((max(rounding) * max(error, _ROUNDING)) ** 0.5, _LEAST, _MOST))
