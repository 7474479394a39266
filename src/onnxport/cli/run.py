"""`onnxport run`: a converted folder on an input, in words."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxport.cli.shell import Json, Verbose, shell_of
from onnxport.errors import MissingDependencyError, OnnxPortError, UsageError
from onnxport.system.library_errors import first_line
from onnxport.tasks import MODULE, find_task

if TYPE_CHECKING:
    from onnxport.artifact.folder import Folder
    from onnxport.cli.calls import Call
    from onnxport.cli.shell import Shell


def run(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A folder that onnxport wrote.")],
    inputs: Annotated[
        list[str],
        typer.Argument(help="A text, an image or WAV file, or an .npz file of arrays; `onnxport tasks` has examples."),
    ],
    component: Annotated[
        str, typer.Option("--component", help="The graph of the folder to run, such as model_quantized.")
    ] = "model",
    task: Annotated[
        str | None,
        typer.Option(
            "--task", "--pipeline", "-t", help="Another task that the graph serves, such as zero-shot-classification."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE of a setting of the call, such as max_new_tokens=20; may come often."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Each text is what a user says, or a JSON list of messages.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> int:
    """Run a converted model on ONNX Runtime and print what it says."""
    shell = shell_of(context, json=json, verbose=verbose)
    with shell.working():
        from onnxport.artifact.folder import open_folder
        from onnxport.cli.generate import settings_of, write_texts, writes

        opened = open_folder(folder)
        if opened.manifest.task == MODULE.name:
            return _run_arrays(shell, opened, component, inputs)
        row, chosen = find_task(task or opened.manifest.task), settings_of(settings or ())
        if writes(row, opened):
            results = _answering(write_texts, row, opened, component, inputs, chosen, chat=chat)
            new = [[text for one in result["output"] for text in one.values()] for result in results]
            document, text = {"results": results}, "\n".join(one for texts in new for one in texts)
        elif chat:
            raise UsageError("--chat is for models that go on with a text.", hint="Leave it out.")
        elif row.name == "feature-extraction" and chosen:
            raise UsageError("feature-extraction has no settings.", hint="Leave --set out.")
        elif row.name == "feature-extraction":
            from onnxport.cli import embeddings

            found = _answering(embeddings.embed, _load(opened, component, row.name), inputs)
            document, text = embeddings.document(found), "\n".join(embeddings.lines(found))
        else:
            from onnxport.cli.answers import as_document, as_lines
            from onnxport.cli.calls import calls_for

            pipeline = _load(opened, component, row.name)
            calls = calls_for(row, inputs, pipeline)
            answers = [_answering(pipeline, *call.arguments, **{**call.keywords, **chosen}) for call in calls]
            results = [{"input": c.shown, "output": as_document(a)} for c, a in zip(calls, answers, strict=True)]
            document, text = {"results": results}, _text(calls, [as_lines(answer) for answer in answers])
    if json:
        shell.write_json({"task": row.name, "component": component, **document})
    else:
        shell.write(text)
    return 0


def _run_arrays(shell: Shell, folder: Folder, component: str, files: list[str]) -> int:
    from onnxport.cli import arrays

    found = arrays.run_arrays(folder, component, files)
    if shell.json:
        results = [{"input": file, "output": outputs} for file, outputs in zip(files, found, strict=True)]
        shell.write_json({"task": folder.manifest.task, "component": component, "results": results})
    else:
        shell.write("\n".join(line for outputs in found for line in arrays.lines(outputs)))
    return 0


def _load(folder: Folder, component: str, task: str) -> Any:
    """The pipeline of a folder, around the graph that was asked for.

    Raises:
        MissingDependencyError: what prepares the inputs is not installed.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"Preparing the inputs of a model needs {' and '.join(missing)} in this version, not installed here.",
            hint='pip install "onnxport[pytorch]"; onnxport.runtime.session.OnnxSession runs the graph without it.',
        )
    from onnxport.pipelines.factory import pipeline

    if component == "model":
        return pipeline(task, model=folder)
    from onnxport.pipelines.onnx.load import load_onnx_model

    model = load_onnx_model(folder, component)
    # Where a live model was loaded from is where its tokenizer or processor is looked for.
    model.config._name_or_path = str(folder.path)
    return pipeline(task, model=model)


def _answering(function: Any, *arguments: Any, **keywords: Any) -> Any:
    """Call `function`; what third parties raise about an input is told as what it is.

    Raises:
        UsageError: the input cannot be used.
    """
    try:
        return function(*arguments, **keywords)
    except OnnxPortError:
        raise
    except Exception as error:
        raise UsageError(
            f"The model cannot be run on this input: {first_line(error)}.",
            hint="`onnxport tasks` has an example for each task.",
        ) from error


def _text(calls: list[Call], answers: list[list[str]]) -> str:
    """Only the answer for one input, the input above its answer for several."""
    if len(calls) == 1:
        return "\n".join(answers[0])
    blocks = [[call.shown, *(f"  {line}" for line in lines)] for call, lines in zip(calls, answers, strict=True)]
    return "\n".join(line for block in blocks for line in block)
