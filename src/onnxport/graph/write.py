"""Write a finished graph and its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from onnxport.errors import UsageError
from onnxport.graph.shared_weights import refer_to, shared_files, shared_weights
from onnxport.progress import Step, counted
from onnxport.publishing.destination import check_free_space

if TYPE_CHECKING:
    from onnxport.serialization.written_model import WrittenModel


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
    """Write the graphs of one folder; what a later one has in common with an earlier is stored once.

    Args:
        targets: a file in the staging folder for each.
        destination: the folder where they will be in the end.
        files, step, raises: as for `write_graph`.
    """
    shared = [_shared_with(graphs[:number], graph, files) for number, graph in enumerate(graphs)]
    if any(any(found) for found in shared):
        files = replace(files, external=True)
    written: list[WrittenModel] = []
    for graph, target, found in zip(graphs, targets, shared, strict=True):
        link: dict[Path, str] = {}
        for common, earlier in zip(found, written, strict=True):
            if common:
                refer_to(graph.model, common, earlier)
                link |= shared_files(earlier)
        written.append(write_graph(graph, target, destination / target.name, files, step, link or None))
    return written


def _shared_with(earlier: Sequence[Graph], graph: Graph, files: WeightFiles) -> list[dict[str, str]]:
    """For each earlier graph the weights that `graph` has in common with it, and with none before that."""
    known: set[str] = set()
    found = []
    for other in earlier:
        common = {} if files.link else shared_weights(other.model, graph.model)
        found.append({name: place for name, place in common.items() if name not in known})
        known |= common.keys()
    return found


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
    from onnxport.serialization.layout import link_names
    from onnxport.serialization.onnxfile import needs_external, streamed_tensors, write_cost, write_model

    model, shards = graph.model, files.shard_bytes
    link = link_names(streamed_tensors(model), destination) if files.link else shared
    if files.link and not link:
        raise UsageError(
            "No weight can be used where it is: all of them are converted or transposed, or are not in safetensors "
            "files.",
            hint="Leave --link-weights out.",
        )
    external = files.external or shards is not None or bool(link) or needs_external(model)
    cost = write_cost(model, external=external, shard_bytes=shards, link=link)
    check_free_space(destination, cost.written)
    file.parent.mkdir(exist_ok=True)
    report = counted(step, cost.reported)
    return write_model(model, file, external=external, shard_bytes=shards, link=link, reporter_bytes=report)
