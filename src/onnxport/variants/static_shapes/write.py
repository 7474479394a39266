"""`optimize --sizes`: graphs of a folder in which every axis is a number, for what takes no other.

A decoder's cache is then a window of a fixed size. Each graph is compared with the one that it was made from before
it is published, and reads that one's weights where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onnxport.artifact.add_components import add_components, link_rest
from onnxport.artifact.data_files import graph_bytes
from onnxport.artifact.folder import read_folder
from onnxport.artifact.hashes import check_files
from onnxport.artifact.manifest import MANIFEST_NAME, Component, Manifest
from onnxport.errors import ExportError, FolderError, UsageError, VerificationError
from onnxport.formats.json_file import read_object
from onnxport.graph.inputs import vocabulary_size
from onnxport.graph.static_shapes.fix import FixedGraph, fix_graph
from onnxport.graph.stats import file_operators
from onnxport.publishing.staging import stage
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.static_axes import FIXED_KEY, FixedAxes
from onnxport.specs import Restriction, Verification
from onnxport.system.memory import memory_limit
from onnxport.variants.static_shapes.check import check_fixed, paddable_axes
from onnxport.variants.static_shapes.pair import GraphPair
from onnxport.variants.static_shapes.plan import FixedPlan, example_command, plan_sizes

SUFFIX = "fixed"
_EMBEDDINGS = "embed_tokens"
_TOKEN_INPUTS = ("input_ids", "decoder_input_ids")


def fix_sizes(path: str | Path, sizes: Mapping[str, int]) -> Path:
    """Store `onnx/<graph>_fixed.onnx` for every graph of a folder that has these axes.

    Args:
        path: a folder that onnxport wrote.
        sizes: axis -> size, for every free axis of the inputs; "GRAPH.axis" is for one graph alone. What an
            encoder reads may be said as the decoder calls it (`encoder_sequence_length`).

    Returns:
        The file that was written; of several the last, which is the decoder's.

    Raises:
        UsageError: an axis that does not exist, is not free or has no size; a size that breaks a restriction; or a
            bare graph.
        FolderError: no such folder, or it is damaged.
        ExportError: an output's size depends on what is in the inputs, or a decoder's past cannot be a window.
        VerificationError: the numbers differ from those of the graph that takes any size. Nothing was written in
            any case.
    """
    folder = Path(path).expanduser()
    if folder.suffix == ".onnx" and not folder.is_dir():
        raise UsageError(
            f"{folder} is a single graph; sizes are fixed in a folder.",
            hint="Convert to a folder: `onnxport convert MODEL FOLDER`.",
        )
    with memory_limit():
        return _add(folder, read_folder(folder), sizes)


def is_fixed(component: Component, manifest: Manifest) -> bool:
    """Whether the graph is one of fixed sizes, made from another of the folder."""
    return base_of(component, manifest) is not None


def base_of(component: Component, manifest: Manifest) -> Component | None:
    """The graph that takes any size, of one of fixed sizes; None for any other graph."""
    return next((one for one in manifest.components if f"{one.name}_{SUFFIX}" == component.name), None)


def check_again(folder: Path, manifest: Manifest, component: Component) -> Verification:
    """A graph of fixed sizes against the one that it was made from, as before it was published.

    Raises:
        VerificationError: the numbers differ.
        FolderError: the file does not say what its sizes are.
    """
    base = base_of(component, manifest)
    fixed = OnnxSession(folder, component.name).fixed
    if base is None or fixed is None:
        raise FolderError(
            f"{component.file} does not say what it was made from.", hint="Make it again with `onnxport optimize`."
        )
    plan = FixedPlan(base, dict(fixed.sizes), dict(fixed.given))
    return check_fixed(_pair(folder, manifest, plan, folder / component.file))


def _add(folder: Path, manifest: Manifest, sizes: Mapping[str, int]) -> Path:
    from onnxport.variants.components import float_components

    check_files(folder, manifest)
    bases = float_components(manifest)
    if not bases:
        raise FolderError(f"{folder} has no float32 graph to start from.")
    if not sizes:
        raise UsageError("There are no sizes.", hint=example_command(str(folder), bases))
    plans = plan_sizes(bases, sizes, str(folder))
    files = [_file(plan.component) for plan in plans]
    # First: onnx refuses to read weights once they have a second name.
    graphs = [_graphs(folder, plan) for plan in plans]
    with stage(folder, overwrite=True) as staging:
        link_rest(folder, staging.path, {MANIFEST_NAME, *files})
        made = [_write(staging.path, manifest, plan, graph) for plan, graph in zip(plans, graphs, strict=True)]
        add_components(staging.path, manifest, made, folder.resolve().name)
        staging.publish()
    return folder / files[-1]


def _file(base: Component) -> str:
    file = Path(base.file)
    return file.with_name(f"{file.stem}_{SUFFIX}.onnx").as_posix()


def _graphs(folder: Path, plan: FixedPlan) -> list[FixedGraph]:
    """What is tried, in this order: of a decoder that has no mask, nothing says where its positions come from."""
    base = plan.component
    graph = fix_graph(folder / base.file, base, plan.sizes)
    if not _added(graph, base):
        return [graph]
    return [graph, fix_graph(folder / base.file, base, plan.sizes, count_places=True)]


def _added(graph: FixedGraph, base: Component) -> frozenset[str]:
    return frozenset({spec.name for spec in graph.inputs} - {spec.name for spec in base.inputs})


def _write(root: Path, manifest: Manifest, plan: FixedPlan, graphs: Sequence[FixedGraph]) -> Component:
    """The first of the graphs whose numbers are right.

    Raises:
        VerificationError: that of the first, if none is.
    """
    failed: VerificationError | None = None
    for graph in graphs:
        try:
            return _write_one(root, manifest, plan, graph)
        except VerificationError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _write_one(root: Path, manifest: Manifest, plan: FixedPlan, graph: FixedGraph) -> Component:
    base, target = plan.component, root / _file(plan.component)
    said = FixedAxes(
        target.name, graph.axes, plan.sizes, plan.given, frozenset(), _fill(root, base), graph.window, base.name,
        _added(graph, base),
    )  # fmt: skip
    graph.write(target, {FIXED_KEY: said.dumped()})
    pair = _pair(root, manifest, plan, target)
    said = replace(said, padded=paddable_axes(pair))
    graph.write(target, {FIXED_KEY: said.dumped()})
    verification = check_fixed(pair)
    _require_numbers(target, graph)
    return replace(
        base, name=f"{base.name}_{SUFFIX}", file=_file(base), verification=verification,
        operators=file_operators(target), size_bytes=graph_bytes(target), weights_checksum=None,
        inputs=graph.inputs, outputs=graph.outputs, restrictions=_restrictions(plan, said, graph),
    )  # fmt: skip


def _pair(root: Path, manifest: Manifest, plan: FixedPlan, target: Path) -> GraphPair:
    embeddings = next((one for one in manifest.components if one.name == _EMBEDDINGS), None)
    over = any(spec.name == "inputs_embeds" for spec in plan.component.inputs)
    return GraphPair(
        plan, root / plan.component.file, target, vocabulary_size(root),
        root / embeddings.file if embeddings is not None and over else None,
    )  # fmt: skip


def _fill(root: Path, base: Component) -> dict[str, int]:
    """Padding as the model knows it, where a graph takes tokens."""
    config = read_object(root / "config.json") if (root / "config.json").is_file() else {}
    padding = config.get("pad_token_id")
    if not isinstance(padding, int) or padding < 0:
        return {}
    return {spec.name: padding for spec in base.inputs if spec.name in _TOKEN_INPUTS}


def _require_numbers(target: Path, graph: FixedGraph) -> None:
    """What ONNX Runtime reads in the file: a number for every axis of every input and output."""
    session = OnnxSession(target)
    for value in (*session.raw.get_inputs(), *session.raw.get_outputs()):
        if not all(isinstance(size, int) for size in value.shape):
            raise ExportError(
                f"{target.name}: {value.name} came out as {value.shape}.",
                hint="Use the graph that takes any size.",
            )


def _restrictions(plan: FixedPlan, said: FixedAxes, graph: FixedGraph) -> tuple[Restriction, ...]:
    limits = []
    for axis, size in plan.sizes.items():
        reason = "asked for" if axis in plan.given else "follows from the others"
        if axis in said.padded:
            reason += "; the run time fills up what is smaller"
        limits.append(Restriction(axis, f"fixed at {size}", reason))
    if said.window is not None:
        limits.append(
            Restriction(
                said.window,
                "a window, unused places on the left",
                "attention_mask hides them; the outputs are the last places, and the next call's past",
            )
        )
    if graph.unsettled:
        limits.append(
            Restriction(
                "tensors inside",
                f"{len(graph.unsettled)} are not of a fixed size",
                f"they depend on what is in the inputs: {_some(graph.unsettled)}",
            )
        )
    return tuple(limits)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
