"""`compare`: what is different between two folders, or between two graphs?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.graph_findings import find_in_folder, refuse, require_sound
from onnxport.artifact.manifest import MANIFEST_NAME, Component
from onnxport.errors import FolderError, UsageError, did_you_mean
from onnxport.formats.graph_file import GraphFile, read_graph_file
from onnxport.graph.inputs import vocabulary_size
from onnxport.progress import Reporter, Silent
from onnxport.runtime.session import OnnxSession
from onnxport.tasks import TASKS
from onnxport.verification.comparison.layers import compare_layers, layer_names
from onnxport.verification.comparison.numbers import compare_numbers, shared_inputs
from onnxport.verification.comparison.result import Comparison, GraphComparison
from onnxport.verification.comparison.structure import folder_changes, interface_changes, operator_changes
from onnxport.verification.comparison.weights import compare_weights
from onnxport.verification.tolerance import TOLERANCES

_DEFAULT_VOCABULARY = 100


@dataclass(frozen=True)
class _Graph:
    """One side of a pair.

    Attributes:
        folder: that it is in; None for a graph file.
    """

    name: str
    file: Path
    component: Component
    folder: Folder | None


def compare(
    a: str | Path,
    b: str | Path | None = None,
    *,
    graphs: tuple[str, str] | None = None,
    reporter: Reporter | None = None,
) -> Comparison:
    """Tell what is different between two folders, two graph files, or graphs of one folder.

    Both sides run on the same inputs in ONNX Runtime; neither the source model nor a framework is needed.

    Args:
        a: a folder that onnxport wrote, or an `.onnx` file.
        b: another one. Without it, graphs of the folder `a` are compared: those that `graphs` names, or each graph
            that was made from another one with that one.
        graphs: names of a graph in `a` and of one in `b` (or both in `a`), such as ("model", "model_quantized").
            By default graphs of the same name are compared.
        reporter: told about every step.

    Returns:
        Axes, operators, weights, files and numbers that differ. `equal` is True where inputs, outputs, files and
        weights are the same, and the outputs are within the tolerance of the coarser precision.

    Raises:
        FolderError: a folder or graph is missing or damaged.
        UsageError: there is nothing to compare.

    Example:
        >>> compare("out/v1", "out/v2").equal  # doctest: +SKIP
        False
    """
    reporter = reporter or Silent()
    first = _open(a)
    second = _open(b) if b is not None else first
    pairs = _pairs(first, second, graphs, a if b is None else None)
    found = []
    for one, other in pairs:
        with reporter.step(f"Compare {one.name} with {other.name}") as step:
            found.append(result := _compare_graphs(one, other))
            errors = [output.max_rel_error for case in result.cases for output in case.outputs]
            step.done(f"largest relative error {max(errors):.2g}" if errors else "no numbers")
    changes = []
    if b is not None and isinstance(first, Folder) and isinstance(second, Folder):
        changes = folder_changes(first, second)
    alone = _alone(first, second) if graphs is None and b is not None else []
    equal = all(one.equal for one in found) and not any(change.matters for change in changes) and not alone
    return Comparison(str(a), str(a if b is None else b), equal, tuple(changes), tuple(found), tuple(alone))


def _open(path: str | Path) -> Folder | Path:
    path = Path(path).expanduser()
    if path.suffix == ".onnx" and not path.is_dir():
        if not path.is_file():
            raise FolderError(f"{path} does not exist.", hint="onnxport compare FOLDER OTHER_FOLDER")
        require_sound(path)
        return path
    folder = open_folder(path)
    refuse(path, find_in_folder(folder))
    return folder


def _pairs(
    first: Folder | Path, second: Folder | Path, graphs: tuple[str, str] | None, only: str | Path | None
) -> list[tuple[_Graph, _Graph]]:
    """The graphs that are compared.

    Raises:
        UsageError: there are none.
    """
    if graphs is not None:
        return [(_named(first, graphs[0]), _named(second, graphs[1]))]
    if only is not None:
        if not isinstance(first, Folder):
            raise UsageError(f"{only} is one graph.", hint=f"onnxport compare {only} OTHER.onnx")
        manifest = first.manifest
        derived = [(manifest.find(c.derived_from), c) for c in manifest.components]
        found = [(_of(first, base), _of(first, c)) for base, c in derived if base is not None]
        if not found:
            raise UsageError(
                f"{only} has no graph that was made from another one.", hint=f"onnxport compare {only} OTHER_FOLDER"
            )
        return found
    if isinstance(first, Folder) and isinstance(second, Folder):
        both = [name for name in first.names if name in second.names]
        if not both:
            raise UsageError(
                f"The folders have no graph of the same name: {', '.join(first.names)}; {', '.join(second.names)}.",
                hint=f"onnxport compare {first.path} {second.path} --graphs {first.names[0]} {second.names[0]}",
            )
        return [(_named(first, name), _named(second, name)) for name in both]
    return [(_single(first), _single(second))]


def _single(side: Folder | Path) -> _Graph:
    """A graph file, or the first graph of a folder."""
    return _of(side, side.manifest.components[0]) if isinstance(side, Folder) else _bare(side)


def _named(side: Folder | Path, name: str) -> _Graph:
    if isinstance(side, Path):
        raise UsageError(f"--graphs {name} is for a folder, and {side.name} is a graph.", hint="Leave --graphs out.")
    for component in side.manifest.components:
        if name in (component.name, component.file, Path(component.file).name):
            return _of(side, component)
    raise UsageError(f"{side.path} has no graph {name!r}.", hint=did_you_mean(name, side.names))


def _of(folder: Folder, component: Component) -> _Graph:
    return _Graph(component.name, folder.file(component), component, folder)


def _bare(path: Path) -> _Graph:
    """A graph file; where it lies in a folder of onnxport, with what the manifest says about it."""
    for parent in path.absolute().parents[:2]:
        if (parent / MANIFEST_NAME).is_file():
            folder = open_folder(parent)
            for component in folder.manifest.components:
                if (parent / component.file).resolve() == path.resolve():
                    return _Graph(path.name, path, component, folder)
    session, graph = OnnxSession(path), read_graph_file(path)
    component = Component(
        path.stem, path.name, graph.opset, _precision(graph), 0, (*session.inputs, *session.optional), session.outputs
    )
    return _Graph(path.name, path, component, None)


def _precision(graph: GraphFile) -> str:
    operators = {name.rpartition(".")[2] for name in graph.operators}
    if operators & {"MatMulInteger", "DynamicQuantizeLinear", "ConvInteger", "QLinearMatMul", "QuantizeLinear"}:
        return "int8"
    if "MatMulNBits" in operators:
        return "int4"
    kinds: Counter[str] = Counter()
    for weight in graph.weights.values():
        if weight.dtype.startswith("float"):
            kinds[weight.dtype] += weight.length
    return "float16" if kinds and kinds.most_common(1)[0][0] == "float16" else "float32"


def _alone(first: Folder | Path, second: Folder | Path) -> list[str]:
    """Graphs that only one of two folders has."""
    if not isinstance(first, Folder) or not isinstance(second, Folder):
        return []
    sides = ((first, second), (second, first))
    return [f"only {one.path} has {name}" for one, other in sides for name in one.names if name not in other.names]


def _compare_graphs(a: _Graph, b: _Graph) -> GraphComparison:
    sessions = _session(a), _session(b)  # which also refuse graphs that must not be read
    one, other = read_graph_file(a.file), read_graph_file(b.file)
    precision = max((a.component.precision, b.component.precision), key=_coarseness)
    same, weights = compare_weights(one, other)
    labels = {**layer_names(other), **layer_names(one)}
    weights = [replace(weight, layer=labels.get(weight.name, "")) for weight in weights]
    manifest = a.folder.manifest if a.folder is not None else b.folder.manifest if b.folder is not None else None
    task = next((task for task in TASKS if manifest is not None and task.name == manifest.task), None)
    vocabulary = min((vocabulary_size(s.folder.path) for s in (a, b) if s.folder), default=_DEFAULT_VOCABULARY)
    inputs = shared_inputs(a.component, b.component, vocabulary)
    cases = compare_numbers(sessions, inputs, precision, task.decision if task else None)
    layers, notes = [], []
    usable = [i for i, case in zip(inputs, cases, strict=True) if case.error is None]
    if usable and one.nodes:
        try:
            layers = compare_layers(
                one, other, min(usable, key=lambda i: sum(x.size for x in i.arrays.values())).arrays
            )
        except FolderError as error:
            notes.append(f"values inside the graphs were not compared: {error.message}")
    return GraphComparison(
        a.name, b.name, precision, tuple(interface_changes(a.component, b.component)),
        operator_changes(one.operators, other.operators), len(same), sum(_elements(w.shape) for w in same),
        tuple(weights), tuple(cases), tuple(layers), tuple(notes),
    )  # fmt: skip


def _session(graph: _Graph) -> OnnxSession:
    return OnnxSession(graph.folder, graph.component.name) if graph.folder is not None else OnnxSession(graph.file)


def _coarseness(precision: str) -> float:
    return TOLERANCES.get(precision, TOLERANCES["float32"])[1]


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
