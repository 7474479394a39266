"""Which module of the source, and which fixes, each node of a captured graph comes from."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

_SCOPES = "pkg.torch.onnx.name_scopes"  # "['', 'bert', 'bert.pooler', 'tanh']"; the last is the operator
_FIXES = "fixes"


@dataclass(frozen=True)
class NodeOrigin:
    """Where a node comes from.

    Attributes:
        module: path of the module in the source; None where that is not known.
        fixes: names of the registered fixes that made or changed it.
    """

    module: str | None
    fixes: tuple[str, ...] = ()


def node_origins(model: onnx_ir.Model) -> dict[str, NodeOrigin]:
    """The origin of each node, by the name of its first output. Before `graph.strip`, which removes what is read here.

    Args:
        model: a captured graph.
    """
    return {
        str(node.outputs[0].name): NodeOrigin(
            _module(node.metadata_props.get(_SCOPES)), tuple(filter(None, node.meta.get(_FIXES, "").split(",")))
        )
        for node in model.graph
        if node.outputs
    }


@contextmanager
def touched_by(fix: str, model: onnx_ir.Model) -> Iterator[None]:
    """Remember which nodes are new, or read other values, after the block as changed by `fix`."""
    before = {node: tuple(node.inputs) for node in model.graph}
    yield
    for node in model.graph:
        if before.get(node) != tuple(node.inputs):
            node.meta[_FIXES] = ",".join([*filter(None, node.meta.get(_FIXES, "").split(",")), fix])


def _module(scopes: str | None) -> str | None:
    if scopes is None:
        return None
    try:
        names = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return None
    if not isinstance(names, list) or len(names) < 2 or str(names[-2]).startswith("_empty"):
        return None
    return str(names[-2]).split("@")[0]
