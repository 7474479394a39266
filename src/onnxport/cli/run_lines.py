"""`onnxport run` on a file of lines or on stdin: one JSON document a line, with a progress bar on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from onnxport.cli.answers import as_document
from onnxport.cli.calls import calls_for, record_call
from onnxport.cli.console import rich_console
from onnxport.cli.documents import plain
from onnxport.cli.line_inputs import STDIN, count_lines, read_lines
from onnxport.cli.shell import Shell
from onnxport.errors import UsageError
from onnxport.system.library_errors import first_line
from onnxport.tasks import Task

_TOGETHER = 64  # lines that are read before they run, so that those of similar length share a batch
_BATCH = 8
# What a list on a line of JSON is, by the kind of the task.
_LISTS = {"decoder": "messages", "image-in-text": "messages", "video": "frames", "series": "values"}
# Inputs beside the main one that may be the same for all lines, by task.
_FURTHER = {
    "zero-shot-classification": "candidate_labels", "zero-shot-image-classification": "candidate_labels",
    "zero-shot-object-detection": "candidate_labels", "mask-generation": "input_points", "image-text-to-text": "text",
}  # fmt: skip


def run_lines(task: Task, pipeline: Any, source: str, settings: Mapping[str, Any], shell: Shell) -> None:
    """Run a pipeline on every line, and write `{"input": ..., "output": ...}` for each.

    Args:
        task: what the lines are inputs of.
        pipeline: of the task.
        source: a file, or `-` for stdin.
        settings: arguments of the call. `batch_size` is 8 unless it is among them; on stdin it is 1, so that every
            line is answered at once.
        shell: where the documents go.

    Raises:
        UsageError: a line cannot be used; those before it have been written.
    """
    done, together = 0, _TOGETHER
    if source == STDIN:
        together = max(1, int(settings.get("batch_size") or 1))
    with _bar(shell, count_lines(source)) as advance:
        lines = read_lines(source)
        while items := list(islice(lines, together)):
            for item, answer in zip(items, _answers(task, pipeline, items, settings, done), strict=False):
                shell.write(json.dumps(plain({"input": item, "output": as_document(answer)}), ensure_ascii=False))
                advance(1)
            done += len(items)


def _answers(
    task: Task, pipeline: Any, items: Sequence[Any], settings: Mapping[str, Any], before: int
) -> Iterator[Any]:
    if task.kind in ("text", "decoder") and all(isinstance(item, str) for item in items):
        try:
            yield from _together(pipeline, list(items), settings)
        except Exception:  # one of them: find it, and give the answers before it
            yield from _one_by_one(task, pipeline, items, settings, before)
    else:
        yield from _one_by_one(task, pipeline, items, settings, before)


def _together(pipeline: Any, texts: list[str], settings: Mapping[str, Any]) -> list[Any]:
    arguments = {"batch_size": _BATCH, **settings}
    if _embeds(pipeline):
        return list(pipeline.encode(texts, **arguments))
    # A generator: some pipelines answer to one text otherwise than to a list of one.
    return list(pipeline(iter(texts), **arguments))


def _one_by_one(
    task: Task, pipeline: Any, items: Sequence[Any], settings: Mapping[str, Any], before: int
) -> Iterator[Any]:
    for number, item in enumerate(items, before + 1):
        try:
            if isinstance(item, str) and task.kind in ("text", "decoder"):
                yield from _together(pipeline, [item], settings)
                continue
            call = _call(task, pipeline, _as_record(task, item, settings))
            rest = {name: value for name, value in settings.items() if name != _FURTHER.get(task.name)}
            yield pipeline(*call.arguments, **{**rest, **call.keywords})
        except Exception as error:
            message = error.message if isinstance(error, UsageError) else f"{first_line(error)}."
            hint = error.hint if isinstance(error, UsageError) else "`onnxport tasks` shows an example for each task."
            raise UsageError(f"Input {number}: {message}", hint=hint) from error


def _as_record(task: Task, item: Any, settings: Mapping[str, Any]) -> Any:
    """A list, and a text whose further inputs are settings (`--set candidate_labels=...`), as an object."""
    if isinstance(item, list) and task.kind in _LISTS:
        return {_LISTS[task.kind]: item}
    further = _FURTHER.get(task.name, "")
    if isinstance(item, str) and further in settings:
        return {"image" if task.kind.startswith("image") else "text": item, further: settings[further]}
    return item


def _call(task: Task, pipeline: Any, item: Any) -> Any:
    if isinstance(item, Mapping):
        return record_call(task, item, pipeline)
    if not isinstance(item, str):
        raise UsageError(f"{item!r} is neither a text nor a JSON object.", hint='{"text": "I love it."}')
    return calls_for(task, [item], pipeline)[0]


def _embeds(pipeline: Any) -> bool:
    """Whether the answer is a sentence embedding."""
    session: Any = getattr(getattr(pipeline, "model", None), "session", None)
    return hasattr(pipeline, "encode") and any(spec.name == "sentence_embedding" for spec in session.outputs)


@contextmanager
def _bar(shell: Shell, total: int | None) -> Iterator[Any]:
    """A progress bar on stderr, if that is a terminal and the documents go elsewhere; yields what advances it."""
    console = rich_console(shell.stderr)
    if not console.is_terminal or console.is_dumb_terminal or getattr(shell.stdout, "isatty", bool)():
        yield lambda count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    with bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
