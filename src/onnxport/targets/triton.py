"""A model repository for the Triton inference server: one model for each graph of a folder.

    OUTPUT/NAME/config.pbtxt
    OUTPUT/NAME/1/model.onnx     and its data files
    OUTPUT/NAME_tokenizer, NAME_text   of a graph that takes tokens: see triton_text.py

The graphs are the folder's own. `config.pbtxt` is made from their named axes; where the package tritonclient is
installed, Triton's own message reads it.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

from onnxport.artifact.data_files import files_read_by
from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.graph_findings import find_in_folder, refuse
from onnxport.artifact.hashes import check_files, require_unchanged
from onnxport.artifact.manifest import Component
from onnxport.errors import UsageError, VerificationError
from onnxport.publishing.destination import check_free_space
from onnxport.publishing.staging import stage
from onnxport.runtime.graph_choice import choose_graphs
from onnxport.runtime.session import OnnxSession
from onnxport.system.memory import memory_limit
from onnxport.targets.triton_config import TritonModel, config_text
from onnxport.targets.triton_text import takes_tokens, write_text_models

NAME = "triton"
CONFIG_NAME = "config.pbtxt"
_VERSION = "1"
_MODEL = "model"


def write_triton(folder: str | Path, component: str = _MODEL, output: str | Path | None = None) -> Path:
    """Write a model repository for Triton of a folder that onnxport wrote; the latter stays as it is.

    Example:
        write_triton("out/encoder", output="out/repository")

    Args:
        folder: any folder with graphs.
        component: "model" for all converted graphs; "model_quantized" for the variants with that suffix.
        output: the repository; it must not exist, or be empty.

    Returns:
        The repository.

    Raises:
        UsageError: no output, no such graph, or a graph has a type of numbers that Triton does not have.
        FolderError: no such folder, or it is damaged.
        OutputError: the output cannot be written.
        VerificationError: config.pbtxt does not describe a graph; nothing was written.
    """
    if output is None:
        raise UsageError(
            "A model repository of Triton is another folder.", hint=f"onnxport target {NAME} FOLDER OUTPUT"
        )
    source, output = open_folder(folder), Path(output).expanduser()
    parts = _components(source, component)
    files = {part.name: _files(source, part) for part in parts}
    needed = {file for beside in files.values() for file in beside}
    check_free_space(output, sum(file.stat().st_size for file in needed))
    check_files(source.path, source.manifest)
    refuse(source.path, find_in_folder(source))
    placed: dict[Path, Path] = {}  # a data file that two graphs read is stored once
    digests: dict[str, str] = {}
    with memory_limit(), stage(output) as staging:
        models = [_model(source, part) for part in parts]
        for part, model in zip(parts, models, strict=True):
            version = staging.path / model.name / _VERSION
            version.mkdir(parents=True)
            for file in files[part.name]:
                _place(file, version / file.name, placed)
                digests[f"{model.name}/{_VERSION}/{file.name}"] = source.manifest.files[
                    file.relative_to(source.path).as_posix()
                ]
            config = version.parent / CONFIG_NAME
            config.write_text(config_text(model), encoding="utf-8", newline="\n")
            _check(model, config, version / model.file)
        if (takes := takes_tokens(source, models)) is not None:
            digests |= write_text_models(source, takes, staging.path)
            for config in staging.path.glob(f"{takes.name}_*/{CONFIG_NAME}"):
                read_config(config)
        staging.publish(lambda: require_unchanged(staging.path, digests))
    return output


def read_config(file: Path) -> Any:
    """`config.pbtxt` as Triton's message ModelConfig; None where tritonclient is not installed.

    Raises:
        VerificationError: it is no such message.
    """
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        return None
    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise VerificationError(f"Triton cannot read {file.name} of {file.parent.name}: {error}.") from error


def can_read_config() -> bool:
    """Whether tritonclient is installed, whose message reads config.pbtxt."""
    try:
        from tritonclient.grpc import model_config_pb2  # noqa: F401
    except ImportError:
        return False
    return True


def _components(folder: Folder, component: str) -> list[Component]:
    """The graphs that are asked for.

    Raises:
        UsageError: there is none of that name.
    """
    names = [part.name for part in folder.manifest.converted()]
    chosen = choose_graphs(folder.path, folder.names, names, component)
    return [part for name in chosen if (part := folder.manifest.find(name)) is not None]


def _files(folder: Folder, part: Component) -> list[Path]:
    """The graph and the data files that it reads."""
    graph = folder.path / part.file
    return [graph, *files_read_by(graph)]


def _model(folder: Folder, part: Component) -> TritonModel:
    base = re.sub(r"[^A-Za-z0-9_.-]+", "_", folder.path.resolve().name) or _MODEL
    with OnnxSession(folder.path / part.file) as session:
        inputs, outputs = session.inputs, session.outputs
    name = base if part.name == _MODEL else f"{base}_{part.name.removeprefix(f'{_MODEL}_')}"
    return TritonModel(name, Path(part.file).name, part, inputs, outputs)


def _place(source: Path, target: Path, placed: dict[Path, Path]) -> None:
    """A copy; of a file that was copied before a hard link, where the file system has them."""
    before = placed.setdefault(source, target)
    if before != target:
        try:
            os.link(before, target)
        except OSError:
            pass
        else:
            return
    shutil.copyfile(source, target)


def _check(model: TritonModel, config: Path, graph: Path) -> None:
    """The graph loads from the repository, and Triton's message says of it what the graph says of itself.

    Raises:
        VerificationError: they do not agree.
    """
    with OnnxSession(graph) as session:
        found = {spec.name: spec for spec in (*session.inputs, *session.outputs)}
    message = read_config(config)
    if message is None:
        return
    for tensor in (*message.input, *message.output):
        axes: list[Any] = list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims)
        spec = found.pop(tensor.name, None)
        own = () if spec is None else spec.axes[1:] if message.max_batch_size else spec.axes
        if spec is None or [axis if isinstance(axis, int) else -1 for axis in own] != axes:
            raise VerificationError(
                f"{CONFIG_NAME} of {model.name} says {tensor.name} {axes}, and the graph {list(own)}."
            )
    if found:
        raise VerificationError(f"{CONFIG_NAME} of {model.name} lacks {', '.join(sorted(found))}.")


def summary(root: Path) -> str:
    """What was written into the repository `root`, and what read its configs."""
    count = len(list(root.glob(f"*/{CONFIG_NAME}")))
    models = f"{count} model{'s' if count != 1 else ''}"
    if can_read_config():
        return f"{models}, configs read as Triton's ModelConfig"
    return f"{models}; configs were not read: pip install 'onnxport[triton]'"
