"""`onnxport run`: run a converted folder on texts, images, sound or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from onnxport.cli import options
from onnxport.cli.line_inputs import is_lines
from onnxport.cli.options import Json, Verbose
from onnxport.cli.shell import Shell, shell_of
from onnxport.errors import FolderError, UsageError
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
        save: folder for images and arrays of the answers, or None.
    """

    folder: Folder
    component: str
    inputs: Sequence[str]
    settings: dict[str, Any]
    chat: bool
    save: Path | None = None


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
    save: options.Save = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
    memory_limit: options.MemoryLimit = None,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Run a converted model with ONNX Runtime, and print its outputs."""
    shell = shell_of(context, json=json, verbose=verbose, memory_limit=memory_limit)
    with shell.working(), _running_on(provider, threads):
        from onnxport.artifact.folder import open_folder
        from onnxport.cli.generate import settings_of

        request = _Request(open_folder(folder), component, inputs, settings_of(settings or ()), chat, save)
        recorded = request.folder.manifest.task
        if recorded != MODULE.name and is_lines(inputs):
            return _run_lines(find_task(task or recorded), request, shell)
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


def _running_on(provider: str | None, threads: int | None) -> AbstractContextManager[None]:
    """For sessions that are opened in the block."""
    if provider is None and threads is None:
        return nullcontext()
    from onnxport.runtime.execution import running_on

    return running_on(provider, threads)


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


def _run_lines(task: Task, request: _Request, shell: Shell) -> int:
    """Of lines in a file or on stdin: a JSON document for each."""
    from onnxport.cli.run_lines import run_lines

    if request.chat or request.save is not None:
        raise UsageError("--chat and --save take inputs one by one.", hint="Leave them out, or give the inputs.")
    run_lines(task, _load(request.folder, request.component, task.name), request.inputs[0], request.settings, shell)
    return 0


def _run_embeddings(task: Task, request: _Request) -> _Answer:
    from onnxport.cli import embeddings
    from onnxport.cli.save import Saver

    pipeline = _load(request.folder, request.component, task.name)
    found = _answering(embeddings.embed, pipeline, request.inputs, request.settings)
    if request.save is not None:
        for number, item in enumerate(found):
            Saver(request.save).save(item.outputs, str(number))
    return _Answer(embeddings.document(found), "\n".join(embeddings.lines(found)))


def _run_pipeline(task: Task, request: _Request) -> _Answer:
    """Of any other model, with the pipeline of the task."""
    from onnxport.cli.answers import as_document, as_lines
    from onnxport.cli.calls import calls_for
    from onnxport.cli.save import Saver

    pipeline = _load(request.folder, request.component, task.name)
    calls = calls_for(task, request.inputs, pipeline)
    answers = [_answering(pipeline, *call.arguments, **{**call.keywords, **request.settings}) for call in calls]
    if request.save is not None:
        saver = Saver(request.save)
        answers = [saver.save(answer, str(number)) for number, answer in enumerate(answers)]
    results = [{"input": c.shown, "output": as_document(a)} for c, a in zip(calls, answers, strict=True)]
    return _Answer({"results": results}, _text(calls, [as_lines(answer) for answer in answers]))


def _load(folder: Folder, component: str, task: str) -> Any:
    """The pipeline for a folder, with the graph that was asked for.

    Raises:
        UnknownPreprocessingError: transformers, which prepares the inputs, is not installed.
    """
    with bad_input(FolderError, f"{folder.path} cannot be loaded", f"onnxport verify {folder.path}"):
        from onnxport.pipelines.converted import open_converted

        return open_converted(folder, task, component=component)


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
