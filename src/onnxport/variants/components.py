"""Which graphs of a folder can a variant be made from, and what checking it needs to know."""

from __future__ import annotations

from onnxport.artifact.folder import Folder
from onnxport.artifact.manifest import Component, Manifest
from onnxport.errors import TaskError
from onnxport.graph.inputs import verified_sizes, vocabulary_size
from onnxport.runtime.sequence_generation import DECODER, ENCODER
from onnxport.tasks import find_task
from onnxport.variants.fused import NAME as FUSED_NAME
from onnxport.variants.weight_only_check import GraphUnderTest


def converted_components(manifest: Manifest) -> list[Component]:
    """The float32 graphs as they were converted, without what was made from them."""
    return [component for component in manifest.converted() if component.precision == "float32"]


def weight_only_bases(manifest: Manifest) -> list[Component]:
    """The graphs whose weights alone can be quantized: those as they were converted, and a fused decoder.

    Dynamic int8 leaves out the fused one: the places behind the tokens of its sorted rows hold arbitrary values, and
    these would count in the scales of all.
    """
    fused = [component for component in manifest.components if component.name == FUSED_NAME]
    return [*converted_components(manifest), *fused]


def encoder_of(manifest: Manifest, decoder: Component) -> Component | None:
    """The converted graph whose outputs the decoder of an encoder-decoder takes; None for any other graph."""
    return manifest.find(ENCODER) if manifest.origin(decoder).name == DECODER else None


def graph_under_test(folder: Folder, component: Component) -> GraphUnderTest:
    """What `check_rounded` must know of a float32 graph of a folder."""
    encoder = encoder_of(folder.manifest, component)
    try:
        decision = find_task(folder.manifest.task).decision
    except TaskError:  # a plain module
        decision = None
    return GraphUnderTest(
        folder.file(component), component.inputs, component.outputs, verified_sizes(component),
        vocabulary_size(folder.path), decision, (folder.file(encoder), encoder.inputs) if encoder else None,
    )  # fmt: skip
