"""Write a finished graph and its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from onnxport.artifact.destination import check_free_space
from onnxport.errors import UsageError
from onnxport.graph.shared_weights import refer_to, shared_files, shared_weights
from onnxport.progress import Step, counted

if TYPE_CHECKING:
    from onnxport.artifact.written import WrittenModel


class Graph(Protocol):
    """What is written: `graph.build.Graph`, or any other that holds a model."""

    model: Any


@dataclass(frozen=True)
class WeightFiles:
    """Where the weights of a graph go.

    Attributes:
        external: beside the graph even if they fit into it.
        shard_bytes: most bytes of one file beside the graph; None is one file of any size.
        link: files of the checkpoint are linked, not copied, and used as they are.
    """

    external: bool = False
    shard_bytes: int | None = None
    link: bool = False


def write_graphs(
    graphs: Sequence[Graph], targets: Sequence[Path], destination: Path, files: WeightFiles, step: Step
) -> list[WrittenModel]:
    """Write the graphs of one folder; what the later ones have in common with the first is stored once.

    Args:
        targets: a file in the staging folder for each.
        destination: the folder where they will be in the end.
        files, step, raises: as for `write_graph`.
    """
    shared = [{} if files.link else shared_weights(graphs[0].model, graph.model) for graph in graphs[1:]]
    if any(shared):
        files = replace(files, external=True)
    written: list[WrittenModel] = []
    for number, (graph, target) in enumerate(zip(graphs, targets, strict=True)):
        common = shared[number - 1] if number else {}
        if common:
            refer_to(graph.model, common, written[0])
        link = shared_files(written[0]) if common else None
        written.append(write_graph(graph, target, destination / target.name, files, step, link))
    return written


def write_graph(
    graph: Graph, file: Path, destination: Path, files: WeightFiles, step: Step, shared: dict[Path, str] | None = None
) -> WrittenModel:
    """Write the graph to `file`, its weights in it, or beside it where asked for or beyond 2 GB.

    Args:
        file: in the staging folder.
        destination: where `file` will be in the end.
        step: told how many bytes are done.
        shared: files beside `file` that hold some of its weights already, with their names.

    Raises:
        UsageError: linking was asked for, and no weight is stored as the graph needs it.
        OutputError: no space, or a file cannot be linked.
        OSError: the files cannot be written.
    """
    from onnxport.artifact.layout import link_names
    from onnxport.artifact.onnxfile import needs_external, streamed_tensors, write_cost, write_model

    model, shards = graph.model, files.shard_bytes
    link = link_names(streamed_tensors(model), destination) if files.link else shared
    if files.link and not link:
        raise UsageError(
            "No weight can be used where it is: all of them are converted or transposed, or are not in safetensors "
            "files. Nothing was written.",
            hint="Leave --link-weights out.",
        )
    external = files.external or shards is not None or bool(link) or needs_external(model)
    cost = write_cost(model, external=external, shard_bytes=shards, link=link)
    check_free_space(destination, cost.written)
    file.parent.mkdir(exist_ok=True)
    report = counted(step, cost.reported)
    return write_model(model, file, external=external, shard_bytes=shards, link=link, reporter_bytes=report)
