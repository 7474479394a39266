"""From a source to a finished graph: capture, repairs, names, nothing superfluous."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onnxport.graph.attention_cache import move_cache_into_attention
from onnxport.graph.last_logits import NUM_LOGITS_TO_KEEP_SPEC, axes_with_kept_logits, keep_last_logits
from onnxport.graph.naming import check_outputs, name_axes
from onnxport.graph.origins import NodeOrigin, node_origins
from onnxport.graph.shared_weights import weight_keys
from onnxport.graph.simplify import share_common_nodes, simplify
from onnxport.graph.stats import GraphStats, graph_stats
from onnxport.graph.strip import strip
from onnxport.graph.weight_history import WeightHistory, begin_history
from onnxport.graph.weight_layout import fold_weight_layout
from onnxport.specs import TensorSpec

if TYPE_CHECKING:
    from onnxport.export.signature import Signature
    from onnxport.sources.base import Source


@dataclass
class Graph:
    """A finished graph in memory.

    Attributes:
        model: the `onnx_ir.Model`, None once released.
        signature: its axes and restrictions.
        inputs: the inputs that the graph really has; one that no output depends on may be gone,
            and a decoder has `num_logits_to_keep`, which may be left out.
        fixes: names of the registered repairs that were applied.
        history: where its weights come from.
        origins: where nodes come from, by the name of their first output.
    """

    model: Any
    signature: Signature
    inputs: tuple[TensorSpec, ...]
    stats: GraphStats
    fixes: tuple[str, ...]
    history: WeightHistory
    origins: Mapping[str, NodeOrigin] = field(default_factory=dict)

    def release(self) -> None:
        """Let go of the weights.

        One by one: onnxscript's rewrite rules remember the last graph that they saw, and the list of
        its inputs remembers the weights, which torch.onnx first enters as inputs
        (`test_release.py` tells when that changes).
        """
        for graph in self.model.graphs() if self.model is not None else ():
            remembered = getattr(graph.inputs, "_ref_counter", {})
            for value in (*graph.initializers.values(), *remembered):
                value.const_value = None
        self.model = None


def build_graph(
    source: Source, signature: Signature, opset: int, *, keep_stored: bool = False, others: Sequence[Graph] = ()
) -> Graph:
    """Capture `source` and finish the graph.

    Args:
        keep_stored: leave weights in the layout of the checkpoint, so that its files can be used as they are.
        others: graphs of the same folder; weights in common stay in their layout, to be stored once.

    Raises:
        ExportError: torch cannot capture it, or the graph is not what the signature says.
    """
    from onnxport.export.capture import capture
    from onnxport.export.fixes import apply_graph_fixes
    from onnxport.export.opset import require_opset

    captured = capture(source, signature, opset)
    model, signature = captured.model, captured.signature
    history = begin_history(model, captured.variables)
    simplify(model, history=history)
    require_opset(model, opset)
    fixes = apply_graph_fixes(model)
    move_cache_into_attention(model)
    share_common_nodes(model)
    kept = frozenset().union(*(weight_keys(other.model) for other in others))
    fold_weight_layout(model, keep_stored=keep_stored, kept=kept, history=history)
    name_axes(model, signature.inputs, signature.outputs)
    check_outputs(model, signature.outputs)
    optional: tuple[TensorSpec, ...] = ()
    if keep_last_logits(model):
        optional, signature = (
            (NUM_LOGITS_TO_KEEP_SPEC,),
            replace(signature, outputs=axes_with_kept_logits(signature.outputs)),
        )
    origins = node_origins(model)
    strip(model)
    present = {value.name for value in model.graph.inputs}
    inputs = (*(spec for spec in signature.inputs if spec.name in present), *optional)
    return Graph(model, signature, inputs, graph_stats(model), fixes, history, origins)
