"""What an onnxport folder or an ONNX file is: inputs, outputs, axes, operators, size, evidence.

A folder is described from its manifest, which needs nothing but this package. A bare graph is
read with onnx_ir; weights beside it are measured, never loaded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.artifact.folder import read_folder
from onnxport.artifact.graph_findings import require_sound
from onnxport.artifact.manifest import DATA_SUFFIX, Component, Manifest
from onnxport.errors import FolderError, MissingDependencyError
from onnxport.specs import Restriction, TensorSpec, Verification
from onnxport.system.library_errors import bad_input, first_line

# Sizes of weights beside the graph: they are not read here.
_UNREAD = frozenset({"OX006"})

if TYPE_CHECKING:
    import onnx_ir

    from onnxport.graph.stats import GraphStats


@dataclass(frozen=True)
class GraphInspection:
    """One graph.

    Attributes:
        name: its name in the folder ("model"), or the file's stem.
        file: relative to the folder; the file's name for a bare graph.
        size_bytes: the graph and the weights beside it.
        producer: who wrote the graph, or "".
        verification: the evidence on record, or None.
        missing: weight files that the graph names and that are not there.
    """

    name: str
    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: dict[str, int]
    parameters: int
    precision: str
    opset: int
    size_bytes: int
    producer: str = ""
    restrictions: tuple[Restriction, ...] = ()
    fixes: tuple[str, ...] = ()
    verification: Verification | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """A folder or a bare graph.

    Attributes:
        kind: "folder" or "graph".
        task, source, architecture: "" for a bare graph, which does not say.
        size_bytes: everything in the folder; the graph and its weights for a bare graph.
    """

    path: Path
    kind: str
    graphs: tuple[GraphInspection, ...]
    size_bytes: int
    task: str = ""
    source: str = ""
    architecture: str = ""
    versions: dict[str, str] | None = None
    notes: tuple[str, ...] = ()


def inspect(path: str | Path) -> Inspection:
    """Describe an onnxport folder or an `.onnx` file.

    Raises:
        FolderError: there is nothing at `path`, no manifest in the folder, or no ONNX graph in the file.
        MissingDependencyError: a bare graph, and onnx_ir is not installed.
    """
    path = Path(path).expanduser()
    if path.suffix == ".onnx" and not path.is_dir():
        graph = _inspect_graph(path)
        return Inspection(path, "graph", (graph,), graph.size_bytes)
    try:
        manifest = read_folder(path)
    except FolderError as error:
        raise _with_graphs_named(path, error) from error
    with bad_input(FolderError, f"{path} cannot be described", f"Check it: onnxport verify {path}"):
        return _inspect_folder(path, manifest)


def _inspect_folder(path: Path, manifest: Manifest) -> Inspection:
    graphs = tuple(_from_component(component, manifest) for component in manifest.components)
    names = [*manifest.files, "onnxport.json"]
    size = sum((path / name).stat().st_size for name in names if (path / name).is_file())
    return Inspection(
        path,
        "folder",
        tuple(_with_missing(graph, path, manifest) for graph in graphs),
        size,
        manifest.task,
        manifest.source,
        manifest.architecture,
        manifest.versions,
        manifest.notes,
    )


def _with_graphs_named(path: Path, error: FolderError) -> FolderError:
    """The same error; where the folder holds bare graphs, the hint names one."""
    graphs = sorted([*path.glob("*.onnx"), *path.glob("onnx/*.onnx")]) if path.is_dir() else []
    if not graphs or (path / "onnxport.json").exists():
        return error
    return FolderError(error.message, hint=f"It holds ONNX files: onnxport inspect {graphs[0]}")


def _from_component(component: Component, manifest: Manifest) -> GraphInspection:
    versions = [
        f"{name} {manifest.versions[name]}" for name in ("onnxport", "torch", "tf2onnx") if name in manifest.versions
    ]
    return GraphInspection(
        component.name,
        component.file,
        component.inputs,
        component.outputs,
        component.operators,
        component.parameters,
        component.precision,
        component.opset,
        component.size_bytes,
        ", ".join(versions),
        component.restrictions,
        component.fixes,
        component.verification,
    )


def _with_missing(graph: GraphInspection, folder: Path, manifest: Manifest) -> GraphInspection:
    data = next((component.data_files for component in manifest.components if component.file == graph.file), ())
    files = [graph.file, *(data or [name for name in [graph.file + DATA_SUFFIX] if name in manifest.files])]
    return replace(graph, missing=tuple(file for file in files if not (folder / file).is_file()))


def _unreadable(path: Path, reason: str) -> FolderError:
    return FolderError(
        f"{path} is not an ONNX file that can be read: {reason}.",
        hint="Copy or download the file again, or make it again: onnxport convert MODEL OUTPUT",
    )


def _inspect_graph(path: Path) -> GraphInspection:
    if not path.is_file():
        raise FolderError(f"{path} does not exist.", hint="Give a folder that onnxport wrote, or an .onnx file.")
    try:
        import onnx_ir as ir

        from onnxport.graph.stats import graph_stats
    except ImportError as error:
        raise MissingDependencyError(
            f"Reading {path.name} needs the package {error.name!r}, which is not installed.",
            hint="pip install 'onnxport[pytorch]'; folders that onnxport wrote can be inspected without it.",
        ) from error
    require_sound(path, accepted=_UNREAD)
    try:
        model = ir.load(path)
    except Exception as error:
        raise _unreadable(path, first_line(error)) from error
    if not model.graph.outputs or not model.opset_imports:
        # protobuf reads an empty file, and many that are something else, as a message without fields.
        raise _unreadable(path, "it has no graph")
    with bad_input(FolderError, f"{path} cannot be described", "Check it: onnxport verify --strict GRAPH"):
        return _described(path, model, graph_stats(model))


def _described(path: Path, model: onnx_ir.Model, stats: GraphStats) -> GraphInspection:
    sizes, missing = _weight_files(model, path)
    version = f" {model.producer_version}" if model.producer_version else ""
    return GraphInspection(
        name=path.stem,
        file=path.name,
        inputs=tuple(_spec(value) for value in model.graph.inputs if value.name not in model.graph.initializers),
        outputs=tuple(_spec(value) for value in model.graph.outputs),
        operators=stats.operators,
        parameters=stats.parameters,
        precision=_precision(model),
        opset=stats.opset,
        size_bytes=path.stat().st_size + sum(sizes.values()),
        producer=f"{model.producer_name}{version}" if model.producer_name else "",
        missing=missing,
    )


def _spec(value: onnx_ir.Value) -> TensorSpec:
    """Name, type and axes as the graph declares them; "?" for an axis without a name or size."""
    # onnx_ir has no numpy type for strings.
    element = "unknown" if value.dtype is None else "str" if value.dtype.name == "STRING" else value.dtype.numpy().name
    axes = () if value.shape is None else tuple(_axis(size) for size in value.shape)
    return TensorSpec(value.name or "", element, axes)


def _axis(size: Any) -> int | str:
    if isinstance(size, int):
        return size
    return str(size.value) if size.value is not None else "?"


def _weights(model: onnx_ir.Model) -> list[Any]:
    """Every constant tensor of the graph and its subgraphs."""
    import onnx_ir as ir

    tensors: list[Any] = []
    for graph in model.graphs():
        tensors += [value.const_value for value in graph.initializers.values() if value.const_value is not None]
        for node in graph:
            tensors += [a.value for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR]
    return tensors


def _weight_files(model: onnx_ir.Model, path: Path) -> tuple[dict[Path, int], tuple[str, ...]]:
    """Sizes of the files beside the graph, and the names of those that are not there."""
    import onnx_ir as ir

    named = {str(t.location) for t in _weights(model) if isinstance(t, ir.ExternalTensor)}
    files = {name: path.parent / name for name in sorted(named)}
    sizes = {file: file.stat().st_size for file in files.values() if file.is_file()}
    return sizes, tuple(name for name, file in files.items() if not file.is_file())


def _precision(model: onnx_ir.Model) -> str:
    """The type that most weight elements have; integers wider than a byte are indices and shapes."""
    counts: Counter[str] = Counter()
    for tensor in _weights(model):
        if tensor.dtype.name != "STRING" and (tensor.dtype.is_floating_point() or tensor.dtype.bitwidth <= 8):
            counts[tensor.dtype.numpy().name] += tensor.size
    counts.pop("bool", None)
    return counts.most_common(1)[0][0] if counts else "none"
