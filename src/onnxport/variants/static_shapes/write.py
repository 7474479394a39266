"""`optimize --sizes`: graphs of a folder with static shapes, for run times that need them.

A decoder's cache is then a window of a fixed size. Each graph is compared with the one that it was made from before
it is published. It reads the weights of that graph where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.manifest import Component, Manifest
from onnxport.errors import ExportError, FolderError, UsageError, VerificationError
from onnxport.formats.json_file import read_object_if_present
from onnxport.graph.inputs import vocabulary_size
from onnxport.graph.static_shapes.static_graph import StaticGraph, make_static
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.static_axes import STATIC_AXES_KEY, StaticAxes
from onnxport.specs import Limit, Restriction, Verification
from onnxport.variants.components import converted_components
from onnxport.variants.new_folder import NewGraph, graphs_from, new_folder, with_components
from onnxport.variants.static_shapes.check import compare_static, paddable_axes, require_equal
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
        UsageError: an axis that does not exist, is static already or has no size; a size that breaks a restriction;
            or a bare graph.
        FolderError: no such folder, or it is damaged.
        ExportError: an output's size depends on the values in the inputs, or a decoder's past cannot be a window.
        VerificationError: the outputs differ from those of the graph with dynamic shapes. In every case the folder is
            left as it was.
    """
    path = Path(path).expanduser()
    if path.suffix == ".onnx" and not path.is_dir():
        raise UsageError(
            f"{path} is a single graph; --sizes works on a folder.",
            hint="Convert to a folder: `onnxport convert MODEL FOLDER`.",
        )
    return _add(open_folder(path), sizes)


def is_static(component: Component) -> bool:
    """Whether the graph has static shapes and was made from another one of its folder."""
    return component.name == f"{component.derived_from}_{SUFFIX}"


def check_again(folder: Folder, component: Component) -> Verification:
    """A graph with static shapes against the one that it was made from, as before it was published.

    Raises:
        FolderError: the file does not say what its sizes are.
    """
    base, fixed = folder.manifest.find(component.derived_from), OnnxSession(folder, component.name).static_axes
    if base is None or fixed is None:
        raise FolderError(
            f"{component.file} does not say what it was made from.",
            hint=f"Make it again: onnxport optimize {folder.path} --sizes ...",
        )
    plan = FixedPlan(base, dict(fixed.sizes), dict(fixed.requested))
    return compare_static(_pair(folder.path, folder.manifest, plan, folder.file(component)))


def _add(folder: Folder, sizes: Mapping[str, int]) -> Path:
    bases = converted_components(folder.manifest)
    if bases and not sizes:
        raise UsageError("--sizes is empty.", hint=example_command(str(folder.path), bases))
    plans = plan_sizes(bases, sizes, str(folder.path)) if bases else []
    new = graphs_from(folder, [plan.component for plan in plans], SUFFIX)
    # Weights beside a graph are those of the new one too.
    new_bytes = sum(base.size_bytes for base in bases if not base.data_files)
    with new_folder(folder, [graph.file for graph in new], new_bytes=new_bytes) as made:
        attempts = [_attempts(folder.path, plan) for plan in plans]
        made.take_rest()
        components = [
            _write(made.root, folder.manifest, plan, graph, graphs)
            for plan, graph, graphs in zip(plans, new, attempts, strict=True)
        ]
        made.hash_written()
        made.publish(with_components(folder.manifest, components))
    return folder.path / new[-1].file


def _attempts(folder: Path, plan: FixedPlan) -> list[StaticGraph]:
    """What is tried, in this order: of a decoder that has no mask, nothing says where its positions come from."""
    base = plan.component
    graph = make_static(folder / base.file, base, plan.sizes)
    if not _added(graph, base):
        return [graph]
    return [graph, make_static(folder / base.file, base, plan.sizes, positions_from_mask=True)]


def _added(graph: StaticGraph, base: Component) -> frozenset[str]:
    return frozenset({spec.name for spec in graph.inputs} - {spec.name for spec in base.inputs})


def _write(
    root: Path, manifest: Manifest, plan: FixedPlan, new: NewGraph, graphs: Sequence[StaticGraph]
) -> Component:  # fmt: skip
    """The first of the graphs whose outputs are right.

    Raises:
        VerificationError: that of the first, if none is.
    """
    failed: VerificationError | None = None
    for graph in graphs:
        try:
            return _write_one(root, manifest, plan, new, graph)
        except VerificationError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _write_one(root: Path, manifest: Manifest, plan: FixedPlan, new: NewGraph, graph: StaticGraph) -> Component:
    base, target = plan.component, root / new.file
    said = StaticAxes(
        target.name, graph.axes, plan.sizes, plan.given, frozenset(), _fill(root, base), graph.cache_axis, base.name,
        _added(graph, base),
    )  # fmt: skip
    graph.write(target, {STATIC_AXES_KEY: said.to_json()})
    pair = _pair(root, manifest, plan, target)
    said = replace(said, padded=paddable_axes(pair))
    graph.write(target, {STATIC_AXES_KEY: said.to_json()})
    verification = compare_static(pair)
    require_equal(pair, verification)
    _require_static(target)
    return new.component(
        root, verification, data_files=base.data_files, inputs=graph.inputs, outputs=graph.outputs,
        restrictions=_restrictions(plan, said, graph),
    )  # fmt: skip


def _pair(root: Path, manifest: Manifest, plan: FixedPlan, target: Path) -> GraphPair:
    embeddings = manifest.find(_EMBEDDINGS)
    over = any(spec.name == "inputs_embeds" for spec in plan.component.inputs)
    return GraphPair(
        plan, root / plan.component.file, target, vocabulary_size(root),
        root / embeddings.file if embeddings is not None and over else None,
    )  # fmt: skip


def _fill(root: Path, base: Component) -> dict[str, int]:
    """Padding as the model knows it, where a graph takes tokens."""
    config = read_object_if_present(root / "config.json")
    padding = config.get("pad_token_id")
    if not isinstance(padding, int) or padding < 0:
        return {}
    return {spec.name: padding for spec in base.inputs if spec.name in _TOKEN_INPUTS}


def _require_static(target: Path) -> None:
    """What ONNX Runtime reads in the file: static shapes of all inputs and outputs."""
    session = OnnxSession(target)
    for value in (*session.raw.get_inputs(), *session.raw.get_outputs()):
        if not all(isinstance(size, int) for size in value.shape):
            raise ExportError(
                f"{target.name}: {value.name} has the shape {value.shape}, which is not static.",
                hint="Use the graph with dynamic shapes.",
            )


def _restrictions(plan: FixedPlan, said: StaticAxes, graph: StaticGraph) -> tuple[Restriction, ...]:
    limits = []
    for axis, size in plan.sizes.items():
        reason = "asked for" if axis in plan.given else "follows from the others"
        if axis in said.padded:
            reason += "; onnxport pads smaller inputs"
        limits.append(Restriction(axis, Limit.FIXED, size, reason))
    if said.past_axis is not None:
        limits.append(
            Restriction(
                said.past_axis,
                Limit.NOTE,
                "a static cache, padded on the left",
                "attention_mask hides the padding; the outputs are the cache of the next call",
            )
        )
    if graph.data_dependent:
        limits.append(
            Restriction(
                "tensors inside",
                Limit.NOTE,
                f"{len(graph.data_dependent)} have no static shape",
                f"their sizes depend on the values of the inputs: {_some(graph.data_dependent)}",
            )
        )
    return tuple(limits)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
