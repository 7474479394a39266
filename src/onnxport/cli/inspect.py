"""`onnxport inspect`: show what a folder or a graph contains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from onnxport.cli.options import FolderOrGraph, Json, Verbose
from onnxport.cli.shell import shell_of

if TYPE_CHECKING:
    from onnxport.api.inspect import Inspection


def inspect(
    context: typer.Context,
    path: FolderOrGraph,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Show what a folder or a graph contains.

    Inputs, outputs and their axes, operators, parameters, precision, opset, size, and how it was verified.
    """
    shell = shell_of(context, json=json, verbose=verbose)
    from onnxport.api.inspect import inspect as inspect_path

    with shell.working():
        found = inspect_path(path)
    if json:
        shell.write_json(found)
        return 0
    from onnxport.cli.tables import bytes_text, facts_table, restrictions_table, tensors_table, verification_table

    shell.write(_heading(found, bytes_text(found.size_bytes)))
    for graph in found.graphs:
        tables = [tensors_table(graph.name, graph.inputs, graph.outputs)]
        if graph.restrictions:
            tables.append(restrictions_table(graph.restrictions))
        tables.append(facts_table(graph))
        if graph.verification is not None:
            tables.append(verification_table("verified", graph.verification))
        shell.write_table(*tables)
        for name in graph.missing:
            shell.tell(f"warning: {name} is missing, so the graph cannot be loaded")
    return 0


def _heading(found: Inspection, size: str) -> str:
    if found.kind == "graph":
        return f"{found.path}: ONNX graph, {size}"
    lines = [f"{found.path}: {found.architecture} from {found.source}, {found.task}, {size}"]
    lines += [f"note: {note}" for note in found.notes]
    return "\n".join(lines)
