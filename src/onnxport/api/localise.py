"""After a failed verification: is it rounding after all? Else, where do the graphs begin to differ?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from onnxport.api.capture import CapturedGraph
from onnxport.artifact.manifest import Component
from onnxport.loading.model_to_export import ModelToExport
from onnxport.specs import Difference, Verification
from onnxport.system.library_errors import first_line
from onnxport.system.timing import Stopwatch


def locate_differences(
    load_again: Callable[[], ModelToExport],
    graphs: Sequence[CapturedGraph],
    files: Sequence[Path],
    components: list[Component],
    watch: Stopwatch,
) -> list[Component]:
    """The same components; the verification of those that differ from the source says where they begin to.

    A graph that passes a second look at how far rounding moves the source there (`verification.recheck`) has passed.

    Args:
        load_again: loads the model once more; the one that was exported is released by now.
        graphs, files, components: one of each for every graph.
        watch: told about the step, if there is one.
    """
    if all(component.verification is None or component.verification.passed for component in components):
        return components
    found = []
    with watch.step("search", "Search for the first difference") as step:
        try:
            model: ModelToExport | Exception = load_again()
        except Exception as error:  # the failed verification is the result
            model = error
        for captured, file, component in zip(graphs, files, components, strict=True):
            verification = component.verification
            if verification is not None and not verification.passed:
                verification = _recheck(captured, file, verification, model)
                if not verification.passed:
                    difference = _locate(captured, file, verification, model)
                    verification = replace(verification, difference=difference)
                component = replace(component, verification=verification)
            found.append(component)
        if all(c.verification is None or c.verification.passed for c in found):
            step.done("none: it was rounding")
            return found
        differences = [c.verification.difference for c in found if c.verification and c.verification.difference]
        step.done(next((one.module or one.node for one in differences if one.node), "not found"))
    return found


def _recheck(
    captured: CapturedGraph, file: Path, verification: Verification, model: ModelToExport | Exception
) -> Verification:
    from onnxport.verification.recheck import recheck

    if isinstance(model, Exception):
        return verification
    part = next(part for part in model.parts if part.name == captured.name)
    outputs = captured.graph.signature.outputs
    axes = {spec.name: spec.axes.index("batch_size") for spec in outputs if "batch_size" in spec.axes}
    return recheck(file, part.source, captured.evidence, axes, verification)


def _locate(
    captured: CapturedGraph, file: Path, verification: Verification, model: ModelToExport | Exception
) -> Difference | None:
    from onnxport.verification.localisation.search import find_difference

    if isinstance(model, Exception):
        return Difference("", {}, note=f"the model could not be loaded again: {first_line(model)}")
    part = next(part for part in model.parts if part.name == captured.name)
    return find_difference(file, part.source, captured.evidence.single_calls, verification, captured.graph.origins)
