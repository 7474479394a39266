"""Run one ONNX graph with ONNX Runtime, with errors that tell what is wrong with an input.

numpy and onnxruntime only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxport.artifact.data_files import graph_bytes
from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.graph_findings import recorded_beside, require_sound
from onnxport.artifact.manifest import Component, Manifest
from onnxport.axes import evaluate
from onnxport.errors import FolderError, OnnxPortError, SizeError, UsageError, did_you_mean
from onnxport.runtime.execution import execution, open_session
from onnxport.runtime.mapped_weights import graph_without_weights
from onnxport.runtime.static_axes import StaticAxes, read_static_axes
from onnxport.specs import Restriction, TensorSpec
from onnxport.system.library_errors import bad_input, first_line
from onnxport.system.memory import may_pack

# ONNX Runtime's spelling of element types; what numpy lacks (bfloat16) has no entry.
_NUMPY_TYPES = {
    "float": "float32", "double": "float64", "float16": "float16", "bool": "bool",
    "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64",
    "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64",
}  # fmt: skip
_SHOW_AXES = "`onnxport inspect` shows the inputs and their axes."


class OnnxSession:
    """A loaded graph.

    Example:
        session = OnnxSession("out/bert")
        outputs = session.run({"input_ids": ids, "attention_mask": mask})

    Args:
        folder_or_file: a folder that onnxport wrote, opened already or by its path, or a single .onnx file.
        component: name of the graph in the folder ("model", "model_quantized").
        threads: threads of one operator; None: as many as the process may use processors.
        provider: where it runs: "CPU", "CUDA", "CoreML", "DirectML", "OpenVINO" or "WebGPU"; None: the CPU, or what
            `execution.running_on` says.
        map_weights: leave the weights in their file, where the system reads them page by page, instead
            of packing copies of them: loads at once and takes next to no memory, and matrix products
            on many rows are slower. None: where packed copies would take more memory than there is.

    Attributes:
        inputs, outputs: their axes.
        optional: inputs that have a default.
        maps_weights: whether the weights stay in their file.
        static_axes: of a graph with static shapes, which inputs are padded; None for a graph with dynamic shapes.

    A session may run in several threads at once. `close`, or the end of a `with` block, frees what it holds.

    Raises:
        FolderError: no such folder or file, no such component, the graph is not sound, or ONNX Runtime refuses it.
        UsageError: the installed onnxruntime does not have the provider.
    """

    def __init__(
        self,
        folder_or_file: str | Path | Folder,
        component: str = "model",
        threads: int | None = None,
        *,
        provider: str | None = None,
        map_weights: bool | None = None,
    ) -> None:
        import onnxruntime

        how = execution(provider, threads)
        self.manifest: Manifest | None = None
        self.component: Component | None = None
        if (file := _graph_file(folder_or_file)) is not None:
            self.file = file
        else:
            opened = open_folder(folder_or_file)
            self.manifest, self.component = opened.manifest, opened.component(component)
            self.file = opened.file(self.component)
        if not self.file.is_file():
            raise FolderError(f"{self.file} does not exist.", hint="Convert the model again.")
        recorded = None if self.component is None else recorded_beside(opened, self.component)
        require_sound(self.file, recorded)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised; warnings are only about optimizations
        graph: str | bytes = str(self.file)
        self.maps_weights = not may_pack(graph_bytes(self.file)) if map_weights is None else map_weights
        if self.maps_weights:
            graph = graph_without_weights(self.file) or graph
            options.add_session_config_entry("session.disable_prepacking", "1")
            folder = str(self.file.parent.resolve())
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        try:
            self._session: Any = open_session(graph, options, how)
        except OnnxPortError:
            raise
        except Exception as error:
            raise FolderError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {self.file.name}: {_short(error)}",
                hint="`onnxport verify` checks the folder; convert it again if a file is damaged.",
            ) from error
        described = self.component
        metadata = self._session.get_modelmeta().custom_metadata_map
        with bad_input(FolderError, f"{self.file.name} has damaged metadata", "Convert the model again."):
            self.static_axes: StaticAxes | None = read_static_axes(metadata, self.file.name)
        self.inputs: tuple[TensorSpec, ...] = _specs(self._session.get_inputs(), described.inputs if described else ())
        optional = self._session.get_overridable_initializers()
        self.optional: tuple[TensorSpec, ...] = _specs(optional, described.inputs if described else ())
        self.outputs: tuple[TensorSpec, ...] = _specs(
            self._session.get_outputs(), described.outputs if described else ()
        )
        self.restrictions: tuple[Restriction, ...] = described.restrictions if described else ()

    @property
    def raw(self) -> Any:
        """The onnxruntime.InferenceSession, for calls with OrtValues.

        Raises:
            UsageError: the session is closed.
        """
        session = self._session
        if session is None:
            raise UsageError(f"The session of {self.file.name} is closed.", hint="Open it again: OnnxSession(folder)")
        return session

    def close(self) -> None:
        """Free the graph and its weights. Calls that are running end as usual; later ones are refused."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        Args:
            inputs: name -> array, exactly the graph's inputs; those in `optional` may be left out.
                Integers of another width and floats of another precision are converted; other types are refused.
                A graph with static shapes also takes smaller ones where `static_axes` says so; they are padded.

        Returns:
            Every output, in the graph's order; without padding.

        Raises:
            UsageError: an input is missing, unknown, or of a type or size that the graph cannot take.
        """
        session = self.raw
        known = (*self.inputs, *self.optional)
        names = {spec.name for spec in known}
        missing = [spec.name for spec in self.inputs if spec.name not in inputs]
        if missing:
            raise UsageError(
                f"The input {missing[0]!r} is missing.", hint=f"The graph takes {', '.join(sorted(names))}."
            )
        for name in inputs:
            if name not in names:
                raise UsageError(f"The graph has no input {name!r}.", hint=did_you_mean(name, names))
        feed = {spec.name: _as_array(inputs[spec.name], spec) for spec in known if spec.name in inputs}
        static = self.static_axes
        smaller = static.sizes_of(feed) if static is not None else {}
        if static is not None:
            feed = {name: static.pad(name, array) for name, array in feed.items()}
        check_sizes([spec for spec in known if spec.name in feed], self.restrictions, feed)
        try:
            values = session.run(None, feed)
        except Exception as error:
            sizes = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in feed.items())
            raise UsageError(
                f"ONNX Runtime cannot run {self.file.name} at these sizes ({sizes}): {_short(error)}",
                hint="Other sizes may work; onnxport.json lists those that were verified.",
            ) from error
        found = {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}
        return found if static is None else static.unpad(found, smaller)


def check_sizes(
    specs: Iterable[TensorSpec], restrictions: Iterable[Restriction], arrays: Mapping[str, NDArray[Any]]
) -> dict[str, int]:
    """Compare the sizes of inputs with the recorded axes and restrictions.

    Returns:
        axis name -> size.

    Raises:
        UsageError: a rank or a static axis differs, an axis has two sizes, or a restriction is broken.
    """
    sizes: dict[str, int] = {}
    seen: dict[str, str] = {}
    composed: list[tuple[str, str, int]] = []
    for spec in specs:
        shape = arrays[spec.name].shape
        if len(shape) != len(spec.axes):
            expected = ", ".join(map(str, spec.axes))
            raise UsageError(
                f"{spec.name} has {len(shape)} axes, the graph takes {len(spec.axes)} ({expected}).", hint=_SHOW_AXES
            )
        for place, (axis, size) in enumerate(zip(spec.axes, shape, strict=True)):
            if isinstance(axis, int):
                if size != axis:
                    raise SizeError(
                        f"Axis {place} of {spec.name} is {size}, the graph takes only {axis}.", hint=_SHOW_AXES
                    )
            elif not axis.isidentifier():
                composed.append((f"axis {place} of {spec.name}", axis, size))
            elif sizes.setdefault(axis, size) != size:
                raise SizeError(f"{axis} is {sizes[axis]} in {seen[axis]} but {size} in {spec.name}.", hint=_SHOW_AXES)
            else:
                seen.setdefault(axis, spec.name)
    for place_name, expression, size in composed:
        try:
            expected_size = evaluate(expression, sizes)
        except (KeyError, ValueError):
            continue  # it has a name that is no axis of an input
        if expected_size != size:
            raise SizeError(f"{place_name} is {size}, it must be {expression} = {expected_size}.", hint=_SHOW_AXES)
    for restriction in restrictions:
        check_restriction(restriction, sizes)
    return sizes


def check_restriction(restriction: Restriction, sizes: Mapping[str, int]) -> None:
    """Raises UsageError: the size of an axis breaks the restriction."""
    if not restriction.holds(sizes):
        axis = restriction.axis
        raise SizeError(
            f"{axis} is {sizes[axis]}, it must be {restriction.rule} ({restriction.reason}).", hint=_SHOW_AXES
        )


def _graph_file(folder_or_file: str | Path | Folder) -> Path | None:
    """The path of a single graph; None for a folder."""
    if isinstance(folder_or_file, Folder):
        return None
    path = Path(folder_or_file).expanduser()
    return path if path.suffix == ".onnx" and not path.is_dir() else None


def _specs(arguments: Iterable[Any], recorded: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Specs in the order of the graph's inputs or outputs: those of the manifest, or else of the graph itself.

    Raises:
        FolderError: they have another type or number of axes than those of the graph.
    """
    known = {spec.name: spec for spec in recorded}
    specs = []
    for argument in arguments:
        element = argument.type.removeprefix("tensor(").removesuffix(")")
        axes = tuple(
            axis if isinstance(axis, (int, str)) else f"{argument.name}_axis_{place}"
            for place, axis in enumerate(argument.shape)
        )
        made = TensorSpec(argument.name, _NUMPY_TYPES.get(element, element), axes)
        spec = known.get(argument.name, made)
        require_same_type(spec, made)
        specs.append(spec)
    return tuple(specs)


def require_same_type(recorded: TensorSpec, own: TensorSpec) -> None:
    """Whether the manifest says of a tensor what the graph says.

    Raises:
        FolderError: another type or number of axes.
    """
    known = own.dtype in _NUMPY_TYPES.values()
    if known and (recorded.dtype, len(recorded.axes)) != (own.dtype, len(own.axes)):
        raise FolderError(
            f"The manifest says that {recorded.name} is {recorded.dtype} with {len(recorded.axes)} axes, and the graph "
            f"itself has {own.dtype} with {len(own.axes)}.",
            hint="Do not use this folder: onnxport does not write such a manifest.",
        )


def _as_array(value: Any, spec: TensorSpec) -> NDArray[Any]:
    """`value` as a contiguous array of the graph's type.

    Raises:
        UsageError: not numbers, or numbers of another kind (text, floats for integers).
    """
    try:
        array, wanted = np.asarray(value), np.dtype(spec.dtype)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{spec.name} cannot be given as an array of {spec.dtype}: {first_line(error)}.", hint=_SHOW_AXES
        ) from error
    if array.dtype != wanted:
        if not np.can_cast(array.dtype, wanted, casting="same_kind"):
            raise UsageError(
                f"{spec.name} is {array.dtype}, the graph takes {spec.dtype}.",
                hint=f"Give an array of numbers: {spec.name}.astype({spec.dtype!r})",
            )
        array = array.astype(wanted)
    return np.ascontiguousarray(array).reshape(array.shape)


def _short(error: BaseException) -> str:
    """ONNX Runtime's message without paths and lines of its source code."""
    text = re.sub(r"Load model from .*? failed:|\S*/\S+\.(?:cc|h):\d+\s*|\S+\.(?:cc|h):\d+ \w+ ", "", str(error))
    lines = text[text.find("[ONNXRuntimeError]") :].split() if "[ONNXRuntimeError]" in text else text.split()
    return " ".join(lines)[:300] or type(error).__name__
