"""`onnxport run`: run a converted folder on texts, images, sound or arrays."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from onnxport.cli import options
from onnxport.cli.options import Json, Verbose
from onnxport.cli.shell import shell_of
from onnxport.errors import FolderError, MissingDependencyError, UsageError
from onnxport.system.library_errors import bad_input
from onnxport.tasks import MODULE, Task, find_task

if TYPE_CHECKING:
    from onnxport.artifact.folder import Folder
    from onnxport.cli.calls import Call


@dataclass(frozen=True)
class _Request:
    """What to run.

    Attributes:
        component: name of the graph.
        settings: arguments of the call, such as max_new_tokens.
        chat: the inputs are messages.
    """

    folder: Folder
    component: str
    inputs: Sequence[str]
    settings: dict[str, Any]
    chat: bool


@dataclass(frozen=True)
class _Answer:
    """The outputs as a document for --json, and as text."""

    document: dict[str, Any]
    text: str


def run(
    context: typer.Context,
    folder: options.Folder,
    inputs: options.Inputs,
    component: options.Component = "model",
    task: options.Task = None,
    settings: options.Settings = None,
    chat: options.Chat = False,
    memory_limit: options.MemoryLimit = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Run a converted model with ONNX Runtime, and print its outputs."""
    shell = shell_of(context, json=json, verbose=verbose, memory_limit=memory_limit)
    with shell.working():
        from onnxport.artifact.folder import open_folder
        from onnxport.cli.generate import settings_of

        request = _Request(open_folder(folder), component, inputs, settings_of(settings or ()), chat)
        recorded = request.folder.manifest.task
        if recorded == MODULE.name:
            name, answer = MODULE.name, _run_arrays(request)
        else:
            row = find_task(task or recorded)
            name, answer = row.name, _run_task(row, request)
    if json:
        shell.write_json({"task": name, "component": component, **answer.document})
    else:
        shell.write(answer.text)
    return 0


def _run_task(task: Task, request: _Request) -> _Answer:
    from onnxport.cli.generate import generates_from_texts

    if generates_from_texts(task, request.folder):
        return _run_texts(task, request)
    if request.chat:
        raise UsageError(f"--chat needs a text-generation model; the task is {task.name}.", hint="Leave --chat out.")
    if task.name == "feature-extraction":
        return _run_embeddings(task, request)
    return _run_pipeline(task, request)


def _run_arrays(request: _Request) -> _Answer:
    """Of a plain module, whose inputs are files of arrays."""
    from onnxport.cli import arrays

    found = arrays.run_arrays(request.folder, request.component, request.inputs)
    results = [{"input": file, "output": outputs} for file, outputs in zip(request.inputs, found, strict=True)]
    return _Answer({"results": results}, "\n".join(line for outputs in found for line in arrays.lines(outputs)))


def _run_texts(task: Task, request: _Request) -> _Answer:
    """Of a model that generates text from text, without transformers."""
    from onnxport.cli.generate import generate_texts

    results = _answering(
        generate_texts, task, request.folder, request.component, request.inputs, request.settings, chat=request.chat
    )
    texts = [text for result in results for one in result["output"] for text in one.values()]
    return _Answer({"results": results}, "\n".join(texts))


def _run_embeddings(task: Task, request: _Request) -> _Answer:
    from onnxport.cli import embeddings

    if request.settings:
        raise UsageError("feature-extraction has no settings.", hint="Leave --set out.")
    pipeline = _load(request.folder, request.component, task.name)
    found = _answering(embeddings.embed, pipeline, request.inputs)
    return _Answer(embeddings.document(found), "\n".join(embeddings.lines(found)))


def _run_pipeline(task: Task, request: _Request) -> _Answer:
    """Of any other model, with transformers' pipeline for the task."""
    from onnxport.cli.answers import as_document, as_lines
    from onnxport.cli.calls import calls_for

    pipeline = _load(request.folder, request.component, task.name)
    calls = calls_for(task, request.inputs, pipeline)
    answers = [_answering(pipeline, *call.arguments, **{**call.keywords, **request.settings}) for call in calls]
    results = [{"input": c.shown, "output": as_document(a)} for c, a in zip(calls, answers, strict=True)]
    return _Answer({"results": results}, _text(calls, [as_lines(answer) for answer in answers]))


def _load(folder: Folder, component: str, task: str) -> Any:
    """The pipeline for a folder, with the graph that was asked for.

    Raises:
        MissingDependencyError: the packages that prepare the inputs are not installed.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"{' and '.join(missing)} must be installed to prepare the inputs of {task}.",
            hint='pip install "onnxport[pytorch]"; onnxport.runtime.session.OnnxSession runs the graph without it.',
        )
    with bad_input(FolderError, f"{folder.path} cannot be loaded", f"onnxport verify {folder.path}"):
        from onnxport.pipelines.factory import pipeline

        if component == "model":
            return pipeline(task, model=folder)
        from onnxport.pipelines.onnx.load import load_onnx_model

        model = load_onnx_model(folder, component)
        # transformers looks for tokenizer and processor where the model was loaded from.
        model.config._name_or_path = str(folder.path)
        return pipeline(task, model=model)


def _answering(function: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call `function`; an error of a library is a UsageError about the input.

    Raises:
        UsageError: the input cannot be used.
    """
    hint = "`onnxport tasks` shows an example for each task."
    with bad_input(UsageError, "The model cannot run on this input", hint):
        return function(*arguments, **keywords)


def _text(calls: list[Call], answers: list[list[str]]) -> str:
    """For one input the answer alone; for several each input above its answer."""
    if len(calls) == 1:
        return "\n".join(answers[0])
    blocks = [[call.shown, *(f"  {line}" for line in lines)] for call, lines in zip(calls, answers, strict=True)]
    return "\n".join(line for block in blocks for line in block)
