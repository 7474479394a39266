"""What loading a SavedModel would do beside computing: found before TensorFlow loads anything.

A SavedModel is a program. Its operators are held against a list of those that only compute (tensorflow_operators.txt),
in the graph and in all functions. Operators that read and write checkpoints are there in every SavedModel, for its own
saver. They are accepted where nothing but the saver leads to them: TensorFlow 2 never runs them, and TensorFlow 1 runs
the node that restores, with a prefix that TensorFlow gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from onnxport.formats.protobuf_wire import Buffer
from onnxport.formats.saved_model_graph import Node, SavedGraph, node_of, read_saved_model

_LIST = Path(__file__).with_name("tensorflow_operators.txt")
_READERS = frozenset({"RestoreV2", "Restore", "RestoreSlice"})
_WRITERS = frozenset({"SaveV2", "Save", "SaveSlices", "MergeV2Checkpoints"})
# Printing writes where an attribute says.
_PLACES = ("output_stream", "debug_urls")
_HARMLESS = frozenset({b"stderr", b"stdout", b"log(info)", b"log(warning)", b"log(error)", b""})
# The name of an operator of TensorFlow; functions have another form ("__inference_serve_12").
_OPERATOR_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")


@cache
def known_operators() -> frozenset[str]:
    """The operators that a SavedModel may have."""
    lines = _LIST.read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def reaching_operators(data: Buffer) -> list[str]:
    """Operators of a SavedModel that reach out of it, sorted; files outside its folder as "the asset NAME".

    Args:
        data: the content of saved_model.pb.

    Raises:
        ValueError: the content is damaged.
    """
    graphs = read_saved_model(data)
    by_objects = len(graphs) == 1 and graphs[0].has_objects  # how TensorFlow decides what it runs
    return sorted({name for graph in graphs for name in _reaching(graph, by_objects=by_objects)})


def _reaching(graph: SavedGraph, *, by_objects: bool) -> Iterable[str]:
    for node in graph.all_nodes():
        yield from (name for name in node.operators if not _is_known(name, graph))
        if any(not node.strings.get(place, set()) <= _HARMLESS for place in _PLACES):
            yield from node.operators
    for asset in graph.assets:
        if asset.startswith("/") or re.search(r"[\\:\0]", asset) or ".." in asset.split("/"):
            yield f"the asset {asset!r}"
    yield from _misused_savers(graph, by_objects=by_objects)


def _is_known(name: str, graph: SavedGraph) -> bool:
    if name in known_operators() or name in _READERS or name in _WRITERS:
        return True
    return name in graph.functions and not _OPERATOR_NAME.fullmatch(name)


def _misused_savers(graph: SavedGraph, *, by_objects: bool) -> Iterable[str]:
    """Operators for checkpoints that something else than the saver leads to."""
    functions = _saving_functions(graph)
    tainted: dict[str, set[str]] = {}
    for node in graph.nodes:
        if used := _saving(node, functions):
            tainted.setdefault(node.name, set()).update(used)
    if by_objects:
        for name in graph.object_functions & functions.keys():
            yield from functions[name]
        return  # TensorFlow 2 runs no node of the graph
    yield from _in_reach(graph, tainted, graph.mentioned)
    yield from _not_of_the_prefix(graph, functions)


def _saving_functions(graph: SavedGraph) -> dict[str, set[str]]:
    """Functions that read or write checkpoints, themselves or in functions that they call, with the operators."""
    found: dict[str, set[str]] = {}
    grown = True
    while grown:
        grown = False
        for name, nodes in graph.functions.items():
            used = {operator for node in nodes for operator in _saving(node, found)}
            if used != found.get(name, set()):
                found[name], grown = used, True
    return found


def _saving(node: Node, functions: dict[str, set[str]]) -> set[str]:
    used = node.operators & (_READERS | _WRITERS)
    for name in (*node.functions, *node.operators):
        used = used | functions.get(name, set())
    return used


def _in_reach(graph: SavedGraph, tainted: dict[str, set[str]], roots: Iterable[str]) -> Iterable[str]:
    """Tainted nodes that the nodes `roots` depend on."""
    for name in _ancestors(graph, roots, stop=""):
        yield from tainted.get(name, ())


def _not_of_the_prefix(graph: SavedGraph, functions: dict[str, set[str]]) -> Iterable[str]:
    """What the node that restores depends on, beside reading the prefix that TensorFlow feeds."""
    reached = _ancestors(graph, [graph.saver.restore], stop=graph.saver.filename)
    for node in graph.nodes:
        if node.name not in reached or not (used := _saving(node, functions)):
            continue
        # The first input is the prefix; data inputs stand before control inputs.
        fed = bool(node.inputs) and node.inputs[0] in (graph.saver.filename, f"{graph.saver.filename}:0")
        if not (used <= _READERS and node.operators <= _READERS and fed):
            yield from used


def _ancestors(graph: SavedGraph, roots: Iterable[str], stop: str) -> set[str]:
    """Names of `roots` and of the nodes that they depend on; what is behind `stop`, which is fed, does not count."""
    inputs: dict[str, list[str]] = {}
    for node in graph.nodes:
        inputs.setdefault(node.name, []).extend(map(node_of, node.inputs))
    found: set[str] = set()
    left = [name for name in roots if name]
    while left:
        name = left.pop()
        if name in found or name == stop:
            continue
        found.add(name)
        left += inputs.get(name, ())
    return found
