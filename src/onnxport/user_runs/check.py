"""Load a staged folder as a user loads it, ask it what the source was asked, and compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.artifact.assets import changed_copies, copied_files
from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.manifest import ComparedAnswer, FolderRun
from onnxport.errors import MissingDependencyError, OnnxPortError, SizeError, UsageError
from onnxport.system.library_errors import first_line
from onnxport.user_runs.answers import answer_text, difference
from onnxport.user_runs.folders import Ask, through_arrays, through_pipeline, through_transformers
from onnxport.user_runs.inputs import CONVERSATION
from onnxport.user_runs.parts import (
    TOKENIZER_FILE,
    describe_part,
    first_difference,
    load_part,
    read_tokenizer_file,
    set_sentence_tokenizer,
)
from onnxport.user_runs.record import Answered, SourceAnswers

Arrays = Mapping[str, np.ndarray]
_SHOWN = 6  # equal answers that are kept for the report


@dataclass(frozen=True)
class Recorded:
    """One call of a graph that the source was run on.

    Attributes:
        component: name of the graph.
    """

    component: str
    name: str
    inputs: Arrays
    outputs: Arrays


@dataclass
class _Found:
    """What was compared so far."""

    inputs: int = 0
    near_ties: int = 0
    differences: list[str] = field(default_factory=list)
    run_time_differences: list[str] = field(default_factory=list)
    answers: list[ComparedAnswer] = field(default_factory=list)


def run_folder(root: Path, source: SourceAnswers, recorded: Sequence[Recorded]) -> FolderRun:
    """Compare the folder `root`, which has a manifest, with the source.

    Args:
        root: the folder.
        source: what the source answers.
        recorded: calls of graphs, for a source that has no tokenizer or processor: then the folder's user has arrays.
    """
    folder, found = open_folder(root), _Found()
    through = "onnxport.pipeline" if source.framework == "pt" else "onnxport.runtime"
    if source.answered and _reads_texts(folder, source):
        _compare_answers(folder, source, found)
    if not found.inputs:
        through = "onnxport.runtime.session.OnnxSession"
        _compare_arrays(folder, recorded, found)
    if source.origin is not None:
        rewritten = {} if source.tokenizer_file is None else {TOKENIZER_FILE: source.tokenizer_file}
        found.differences += changed_copies(source.origin, root, source.replaced, source.generation, rewritten)
    found.differences += _parts_differ(folder, source)
    found.differences += _tokenizer_file_differs(root, source)
    found.differences += _processor_files_differ(root, source)
    if source.prompt is not None:
        found.differences += _prompt_differs(folder, source.prompt)
    differences = tuple(found.differences)
    return FolderRun(
        through, found.inputs, not differences, found.near_ties, differences, tuple(found.run_time_differences),
        tuple(found.answers),
    )  # fmt: skip


def _reads_texts(folder: Folder, source: SourceAnswers) -> bool:
    """Whether the run time can encode texts: a tokenizer of Python code has no tokenizer.json, and a note says so."""
    by_itself = source.task.kind == "decoder" or (source.framework == "tf" and source.task.kind == "text")
    fast = TOKENIZER_FILE in source.parts.get("tokenizer", {})
    return fast or not by_itself or (folder.path / TOKENIZER_FILE).is_file()


def _compare_answers(folder: Folder, source: SourceAnswers, found: _Found) -> None:
    """Ask the folder."""
    second = _SecondOpinion(folder, source)
    ask = _asked(folder, source, second, found)
    if ask is None:
        return
    for answered in source.answered:
        made: Any = None
        explained = False
        try:
            made = ask(answered.call)
            told = _told(source, answered, made)
        except SizeError:  # which the manifest tells: a restriction of the graph
            continue
        except Exception as error:
            told = f"the folder fails: {first_line(error)}"
            explained = isinstance(error, UsageError)  # a setting that the run time does not have
            if explained and not second.possible:
                continue
        found.inputs += 1
        if told is not None or len(found.answers) < _SHOWN:
            texts = answer_text(answered.answer), "none" if made is None else answer_text(made)
            found.answers.append(ComparedAnswer(answered.call.shown, *texts, told is None))
        if told is None:
            continue
        shown = f"{answered.call.shown}: {told}"
        if answered.near_tie:
            found.near_ties += 1
        elif not second.agrees(answered):
            found.differences.append(shown)
        elif explained:
            found.run_time_differences.append(shown)
        else:
            found.differences.append(f"{shown} (the pipeline of transformers around the same folder gives it)")


def _told(source: SourceAnswers, answered: Answered, made: Any) -> str | None:
    """How the answer `made` differs from the source's."""
    expected = answered.answer
    if source.task.name == "feature-extraction" and isinstance(expected, dict) and isinstance(made, dict):
        # The graph may have fewer outputs than the model: those that depend on missing weights are left out.
        expected = {name: value for name, value in expected.items() if name in made} or expected
    return difference(expected, made, "result")


def _asked(folder: Folder, source: SourceAnswers, second: _SecondOpinion, found: _Found) -> Ask | None:
    """How the folder is asked; None if it cannot be."""
    try:
        if source.framework == "pt":
            return through_pipeline(folder, source.task)
        return through_arrays(folder, source.task, source.parts)
    except MissingDependencyError:  # a part that the caller gave needs it, no file
        return None
    except Exception as error:  # whatever a user would see is the finding
        told = f"The folder cannot be loaded for {source.task.name}: {first_line(error)}"
        explained = isinstance(error, OnnxPortError)
    other = second.ask()
    (found.run_time_differences if explained and other is not None else found.differences).append(told)
    return other


class _SecondOpinion:
    """transformers' pipeline over the same folder: tells a fault of the folder from a limit of the run time."""

    def __init__(self, folder: Folder, source: SourceAnswers) -> None:
        self._folder, self._source = folder, source
        self.possible = source.framework == "pt" and source.task.kind != "decoder"
        self._ask: Ask | None = None

    def ask(self) -> Ask | None:
        """That pipeline; None if it cannot be loaded."""
        if self._ask is None and self.possible:
            try:
                self._ask = through_transformers(self._folder, self._source.task)
            except Exception:  # whatever transformers makes of a broken file
                self.possible = False
        return self._ask

    def agrees(self, answered: Answered) -> bool:
        """Whether that pipeline gives what the source gave."""
        ask = self.ask()
        if ask is None:
            return False
        try:
            return _told(self._source, answered, ask(answered.call)) is None
        except SizeError:
            return True
        except Exception:
            return False


def _compare_arrays(folder: Folder, recorded: Sequence[Recorded], found: _Found) -> None:
    from onnxport.runtime.session import OnnxSession

    sessions: dict[str, Any] = {}
    for call in recorded:
        found.inputs += 1
        try:
            session = sessions.get(call.component) or OnnxSession(folder, call.component)
            sessions[call.component] = session
            outputs = session.run(call.inputs)
        except Exception as error:
            found.differences.append(f"{call.component}, {call.name}: the folder fails: {first_line(error)}")
            continue
        wanted = {name: call.outputs[name] for name in outputs if name in call.outputs}
        told = difference(wanted, {name: outputs[name] for name in wanted})
        if told is not None:
            found.differences.append(f"{call.component}, {call.name}: {told}")


def _parts_differ(folder: Folder, source: SourceAnswers) -> Iterator[str]:
    """The folder's configs, tokenizer and processors, loaded again, against the source's."""
    for name, described in source.parts.items():
        expected = described
        try:
            part = load_part(folder.path, name)
        except ImportError:
            continue
        except Exception as error:  # whatever transformers makes of a broken file
            yield f"{name} of the folder cannot be loaded: {first_line(error)}"
            continue
        if part is None:
            yield f"the folder has no {name}"
            continue
        if name == "tokenizer" and source.task.name == "feature-extraction":
            set_sentence_tokenizer(folder.path, part)
        values = describe_part(name, part)
        if name == "tokenizer" and source.task.kind == "decoder":
            # transformers' pipeline chooses the side; the files of the checkpoint say it too, and are compared.
            expected, values = ({**one, "padding_side": None} for one in (expected, values))
        told = first_difference(expected, values, name)
        if told is not None and name == "tokenizer" and source.tokenizer_again is not None:
            again = {**source.tokenizer_again, "padding_side": expected.get("padding_side")}
            told = first_difference(again, values, name) and told
        if told is not None:
            yield told


def _tokenizer_file_differs(root: Path, source: SourceAnswers) -> Iterator[str]:
    """tokenizer.json as the `tokenizers` package reads it, where it was written anew.

    transformers makes some parts of a tokenizer again, whatever the file says; users without transformers do not.
    """
    expected = source.parts.get("tokenizer", {}).get(TOKENIZER_FILE)
    file = root / TOKENIZER_FILE
    copied = source.origin is not None and TOKENIZER_FILE in copied_files(source.origin, source.replaced)
    if expected is None or copied:
        return
    try:
        told = first_difference(expected, read_tokenizer_file(file), TOKENIZER_FILE)
    except Exception as error:  # tokenizers raises nothing more special
        told = f"{TOKENIZER_FILE} cannot be loaded: {first_line(error)}"
    if told is not None:
        yield told


def _processor_files_differ(root: Path, source: SourceAnswers) -> Iterator[str]:
    """Files of the processor that are no copies, as texts."""
    for name, text in source.processor_files.items():
        file = root / name
        found = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        if found != text:
            yield first_difference(text, found, name) or f"{name} is not as the processor writes it"


def _prompt_differs(folder: Folder, expected: str) -> Iterator[str]:
    from onnxport.runtime.prompts.chat_template import render

    try:
        found = render(folder.path, CONVERSATION)
    except Exception as error:
        yield f"a conversation: the folder fails: {first_line(error)}"
        return
    if found != expected:
        yield f"a conversation: the prompt is {found!r} instead of {expected!r}"
