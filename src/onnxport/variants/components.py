"""Which graphs of a folder can a variant be made from, and what checking it needs to know."""

from __future__ import annotations

from pathlib import Path

from onnxport.artifact.manifest import Component, Manifest
from onnxport.errors import TaskError
from onnxport.graph.inputs import verified_sizes, vocabulary_size
from onnxport.tasks import find_task
from onnxport.variants.fused import NAME as FUSED_NAME
from onnxport.variants.weight_only_check import GraphUnderTest


def float_components(manifest: Manifest) -> list[Component]:
    """The graphs as they were converted, without what was made from them."""
    names = [component.name for component in manifest.components]
    return [
        component
        for component in manifest.components
        if component.precision == "float32" and not any(component.name.startswith(f"{name}_") for name in names)
    ]


def rounded_bases(manifest: Manifest) -> list[Component]:
    """The graphs whose weights can be rounded: those as they were converted, and a decoder that is fused.

    Dynamic int8 has none of the fused one: in its sorted rows what lies behind the tokens means nothing, and would
    be in the scales of all.
    """
    fused = [component for component in manifest.components if component.name == FUSED_NAME]
    return [*float_components(manifest), *fused]


def graph_under_test(folder: Path, manifest: Manifest, component: Component) -> GraphUnderTest:
    """What `check_rounded` must know of a float32 graph of a folder."""
    bases = float_components(manifest)
    encoder = bases[0] if len(bases) > 1 and component.name != bases[0].name else None
    try:
        decision = find_task(manifest.task).decision
    except TaskError:  # a plain module
        decision = None
    return GraphUnderTest(
        folder / component.file, component.inputs, component.outputs, verified_sizes(component),
        vocabulary_size(folder), decision, (folder / encoder.file, encoder.inputs) if encoder else None,
    )  # fmt: skip
