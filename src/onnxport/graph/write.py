"""Write finished graphs and their weights into the staging folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from onnxport.errors import UsageError
from onnxport.graph.shared_weights import refer_to_written, shared_files, shared_weights
from onnxport.progress import Step, counted
from onnxport.publishing.destination import check_free_space

if TYPE_CHECKING:
    from onnxport.serialization.written_model import WrittenModel


class Graph(Protocol):
    """What is written: `api.build_graph.Graph`, or any other object with a `model`."""

    model: Any


@dataclass(frozen=True)
class WeightFiles:
    """How weights are stored.

    Attributes:
        external: store them in a file beside the graph, also below 2 GB.
        shard_bytes: largest size of one weights file in bytes; None is one file of any size.
        link: use the checkpoint's files, linked and unchanged, instead of a copy.
        taken: names that no file of weights may have: those of the graph that is replaced. It uses them until then.
    """

    external: bool = False
    shard_bytes: int | None = None
    link: bool = False
    taken: frozenset[str] = frozenset()


def write_graphs(
    graphs: Sequence[Graph], targets: Sequence[Path], destination: Path, files: WeightFiles, step: Step
) -> list[WrittenModel]:
    """Write the graphs of one folder; weights that a later graph shares with an earlier one are stored once.

    Args:
        graphs: the graphs.
        targets: a file in the staging folder for each graph.
        destination: the final folder.
        files: how weights are stored.
        step: receives the number of bytes written.

    Returns:
        The files and weights that were written, for each graph.

    Raises:
        UsageError: see `write_graph`.
        OutputError: see `write_graph`.
        OSError: see `write_graph`.
    """
    shared = [_shared_with(graphs[:number], graph, files) for number, graph in enumerate(graphs)]
    if any(any(found) for found in shared):
        files = replace(files, external=True)
    written: list[WrittenModel] = []
    for graph, target, found in zip(graphs, targets, shared, strict=True):
        link: dict[Path, str] = {}
        for common, earlier in zip(found, written, strict=True):
            if common:
                refer_to_written(graph.model, common, earlier)
                link |= shared_files(earlier)
        written.append(write_graph(graph, target, destination / target.name, files, step, link or None))
    return written


def _shared_with(earlier: Sequence[Graph], graph: Graph, files: WeightFiles) -> list[dict[str, str]]:
    """Return, for each earlier graph, the weights that `graph` shares with it and with none before it."""
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
    """Write a graph to `file`. Weights are in it, or beside it if asked for or above 2 GB.

    Args:
        graph: the graph.
        file: path in the staging folder.
        destination: final path of `file`.
        files: how weights are stored.
        step: receives the number of bytes written.
        shared: files beside `file` that already hold some of its weights, with their names.

    Returns:
        The files and weights that were written.

    Raises:
        UsageError: linking was asked for, and no weight is stored as the graph needs it.
        OutputError: there is not enough space, or a file cannot be linked.
        OSError: a file cannot be written.
    """
    from onnxport.serialization.layout import link_names
    from onnxport.serialization.onnxfile import needs_external, streamed_tensors, write_cost, write_model

    model, shards = graph.model, files.shard_bytes
    link = link_names(streamed_tensors(model), destination, files.taken) if files.link else shared
    if files.link and not link:
        raise UsageError(
            "--link-weights has no effect: every weight is cast, transposed or computed, or is not in a safetensors "
            "file.",
            hint="Omit --link-weights.",
        )
    external = files.external or shards is not None or bool(link) or needs_external(model)
    cost = write_cost(model, external=external, shard_bytes=shards, link=link)
    check_free_space(destination, cost.written)
    file.parent.mkdir(exist_ok=True)
    report = counted(step, cost.reported)
    return write_model(
        model, file, external=external, shard_bytes=shards, link=link, reporter_bytes=report, taken=files.taken
    )
