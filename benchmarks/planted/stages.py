"""Where a conversion stops: functions of onnxport, and what faults get in their hands there."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Protocol

from benchmarks.planted.fault import Fault

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


# The model of the graph that a fault is planted in: weights that were folded are found by its numbers.
current: dict[str, Any] = {}


@dataclass
class Written:
    """What was written: the folder of a conversion, and the records of its graphs and weights.

    Attributes:
        folder: of the graphs.
        models: `WrittenModel` of each graph; faults replace them.
        graphs: in memory.
    """

    folder: Path
    models: list[Any]
    graphs: list[Any] = field(default_factory=list)


@contextmanager
def silence() -> Iterator[None]:
    """What libraries print goes nowhere, in C too; FAULTS_VERBOSE=1 shows it."""
    if "FAULTS_VERBOSE" in os.environ:
        yield
        return
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        for stream, saved in zip((1, 2), kept, strict=True):
            os.dup2(saved, stream)
            os.close(saved)
        os.close(nowhere)


class Stops(Protocol):
    """A conversion that stops at the stages.

    Attributes:
        faults: that are planted in it, each in a fork.
        planted: the fault of this process.
        parts: the parts of the loaded model.
        built: number of graphs that were built.
    """

    faults: Sequence[Fault]
    planted: Fault | None
    parts: Sequence[Any]
    built: int

    def at(self, stage: str, where: Any, part: int | None = None) -> None:
        """Plant what belongs to a stage."""

    def enter(self, fault: Fault) -> bool:
        """Whether this is the process in which `fault` is to be planted."""


def wrappers(conversion: Stops) -> Iterator[tuple[Any, str, Wrap]]:
    """(module or class, name, how its function is wrapped)."""
    import onnxport.api.capture
    import onnxport.api.optimize
    import onnxport.api.publish
    import onnxport.artifact.assets
    import onnxport.graph.quantization.quantize
    import onnxport.loading.model_to_export
    import onnxport.loading.weights
    import onnxport.variants.weight_only
    from onnxport.publishing.staging import Staging

    at = conversion.at
    yield onnxport.loading.model_to_export, "load_model_to_export", _after(lambda made: _loaded(conversion, made))
    if hasattr(onnxport.loading.weights, "trace_origins"):
        yield onnxport.loading.weights, "trace_origins", _before(lambda model: at("loading", model))
    yield onnxport.api.capture, "build_graph", _building(conversion)
    yield onnxport.api.publish, "write_graphs", _written(conversion)
    yield onnxport.artifact.assets, "write_assets", _copied(conversion)
    yield (
        onnxport.api.publish,
        "write_manifest",
        _around(lambda root: at("verified", root), lambda root: at("sealed", root)),
    )
    yield Staging, "publish", _before(lambda staging: at("staged", staging.path))
    # Where a graph differs is searched after a fault was found, and costs more than all before.
    if importlib.util.find_spec("onnxport.api.localise") is not None:
        yield importlib.import_module("onnxport.api.localise"), "locate_differences", _without_search
    for owner in (onnxport.graph.quantization.quantize, onnxport.api.optimize, onnxport.variants.weight_only):
        for name in ("quantize_dynamic", "write_weight_only"):
            if hasattr(owner, name):
                yield owner, name, _quantized(conversion)


def _without_search(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return arguments[3] if len(arguments) > 3 else named["components"]

    return call


def _after(look: Callable[[Any], None]) -> Wrap:
    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            made = function(*arguments, **named)
            look(made)
            return made

        return call

    return wrap


def _before(look: Callable[[Any], None]) -> Wrap:
    """For a function whose first argument is looked at."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(first: Any, *arguments: Any, **named: Any) -> Any:
            look(first)
            return function(first, *arguments, **named)

        return call

    return wrap


def _around(before: Callable[[Path], None], after: Callable[[Path], None]) -> Wrap:
    """For a function whose first argument is a folder."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(root: Any, *arguments: Any, **named: Any) -> Any:
            before(Path(root))
            made = function(root, *arguments, **named)
            after(Path(root))
            return made

        return call

    return wrap


def _loaded(conversion: Stops, made: Any) -> None:
    import onnxport.loading.weights

    conversion.parts = made.parts
    if not hasattr(onnxport.loading.weights, "trace_origins"):
        conversion.at("loading", made.parts[0].source.model)
    conversion.at("loaded", made)


def _building(conversion: Stops) -> Wrap:
    """The exporter sees a changed model; the finished graph is changed."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(source: Any, *arguments: Any, **named: Any) -> Any:
            part = conversion.built
            conversion.built += 1
            with ExitStack() as changed:
                for fault in conversion.faults:
                    if fault.stage == "exporter" and fault.part == part and conversion.enter(fault):
                        changed.enter_context(fault.plant(source))
                        break
                graph = function(source, *arguments, **named)
            current["source"] = source
            conversion.at("graph", graph.model, part)
            return graph

        return call

    return wrap


def _written(conversion: Stops) -> Wrap:
    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(graphs: Any, targets: Any, *arguments: Any, **named: Any) -> Any:
            models = function(graphs, targets, *arguments, **named)
            found = Written(Path(targets[0]).parent, list(models), [graph.model for graph in graphs])
            conversion.at("written", found)
            conversion.at("disk", found)
            return found.models

        return call

    return wrap


def _copied(conversion: Stops) -> Wrap:
    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(pipeline: Any, origin: Any, folder: Path, *arguments: Any, **named: Any) -> Any:
            made = function(pipeline, origin, folder, *arguments, **named)
            conversion.at("copied", Path(folder))
            return made

        return call

    return wrap


def _quantized(conversion: Stops) -> Wrap:
    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(source: Any, target: Any, *arguments: Any, **named: Any) -> Any:
            made = function(source, target, *arguments, **named)
            # Only in the fork of the fault: see `Conversion._quantize`.
            fault = conversion.planted
            if fault is None or fault.stage != "quantized":
                return made
            first = Path(target[0] if isinstance(target, (list, tuple)) else target)
            if not isinstance(made, list):
                fault.plant(Written(first.parent, []))
                return made
            found = Written(first.parent, made)
            fault.plant(found)
            return found.models

        return call

    return wrap
