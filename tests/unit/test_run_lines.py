"""Inputs from lines, the objects in them, and what --save writes."""

from __future__ import annotations

import io
import json
import sys
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxport.cli.calls import calls_for, record_call
from onnxport.cli.line_inputs import count_lines, is_lines, read_lines
from onnxport.cli.run_lines import run_lines
from onnxport.cli.save import Saver
from onnxport.errors import OutputError, UsageError
from onnxport.tasks import TASKS, find_task


def test_which_inputs_are_lines(tmp_path: Path) -> None:
    for name in ("a.txt", "a.JSONL", "a.png"):
        (tmp_path / name).write_text("x")
    assert is_lines(["-"]) and is_lines([str(tmp_path / "a.txt")]) and is_lines([str(tmp_path / "a.JSONL")])
    assert not any(
        is_lines(inputs) for inputs in (["absent.txt"], [str(tmp_path / "a.png")], ["-", "-"], ["a text"], [])
    )


def test_lines_of_a_file_and_of_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '\ufeffA text.\r\n\n{"text": "a", "text_pair": "b"}\n{not json\n'
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    expected = ["A text.", {"text": "a", "text_pair": "b"}, "{not json"]
    assert list(read_lines(str(tmp_path / "a.txt"))) == expected
    assert count_lines(str(tmp_path / "a.txt")) == 3
    monkeypatch.setattr(sys, "stdin", io.StringIO(text.removeprefix("\ufeff")))
    assert list(read_lines("-")) == expected and count_lines("-") is None
    assert not sys.stdin.closed
    (tmp_path / "a.jsonl").write_text('"A text."\n{not json\n')
    lines = read_lines(str(tmp_path / "a.jsonl"))
    assert next(lines) == "A text."
    with pytest.raises(UsageError, match="line 2"):
        next(lines)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        list(read_lines(str(tmp_path / "b.txt")))


def test_objects_become_calls(tmp_path: Path) -> None:
    pair = {"text": "a", "text_pair": "b"}
    assert record_call(find_task("text-classification"), pair, None).arguments == (pair,)
    call = record_call(find_task("zero-shot-classification"), {"text": "a", "candidate_labels": ["x"]}, None)
    assert (call.arguments, call.keywords) == (("a",), {"candidate_labels": ["x"]})
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    record = {"image": str(tmp_path / "a.png"), "candidate_labels": ["x"]}
    call = record_call(find_task("zero-shot-image-classification"), record, None)
    assert call.arguments[0].size == (4, 3) and call.keywords == {"candidate_labels": ["x"]}
    with pytest.raises(UsageError, match="no input"):
        record_call(find_task("fill-mask"), {"sentence": "a"}, None)


# A line for each row of the table of tasks, and the call that it becomes.
PHOTO, SPEECH, LABELS = "photo.png", "speech.wav", {"candidate_labels": ["x", "y"]}
TEXT: dict[str, Any] = {"text": "a"}
PAGE = {"question": "Who?", "word_boxes": [["Ada", [1, 2, 3, 4]]]}
MARKED = {"input_points": [[1, 2]]}
LINES: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    **{task.name: (TEXT | {"top_k": 2}, ("a",), {"top_k": 2}) for task in TASKS if task.kind == "text"},
    **{task.name: ({"image": PHOTO}, ("image",), {}) for task in TASKS if task.kind == "image"},
    **{task.name: ({"audio": SPEECH}, ("sound",), {}) for task in TASKS if task.kind == "audio"},
    **{
        name: (TEXT | more, (TEXT | more,), {})
        for name, more in (
            ("text-classification", {"text_pair": "b"}), ("next-sentence-prediction", {"text_pair": "b"}),
            ("multiple-choice", {"choices": ["b", "c"]}),
        )
    },
    "question-answering": ({"question": "Who?", "context": "Ada."}, ({"question": "Who?", "context": "Ada."},), {}),
    "document-question-answering": (PAGE, (PAGE,), {}),
    "zero-shot-classification": (TEXT | LABELS, ("a",), LABELS),
    "zero-shot-image-classification": ({"image": PHOTO} | LABELS, ("image",), LABELS),
    "zero-shot-object-detection": ({"image": PHOTO, "threshold": 0} | LABELS, ("image",), LABELS | {"threshold": 0}),
    "text-generation": ([{"role": "user", "content": "a"}], ([{"role": "user", "content": "a"}],), {}),
    "video-classification": ([PHOTO, PHOTO], ([PHOTO, PHOTO],), {}),
    "mask-generation": ({"image": PHOTO} | MARKED, ("image",), MARKED),
    "time-series-forecasting": ([[1.0, 2.0], [3.0, 4.0]], ([[1.0, 2.0], [3.0, 4.0]],), {}),
    "image-text-to-text": (
        {"image": PHOTO, "text": "What?", "max_new_tokens": 3}, (["image"],),
        {"text": "<image>\nWhat?", "return_full_text": False, "max_new_tokens": 3},
    ),
}  # fmt: skip


class _Pipeline:
    """Says how it was called, as `run_lines` calls a pipeline."""

    feature_extractor = SimpleNamespace(sampling_rate=16_000)
    processor = SimpleNamespace(marker="<image>")

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        # As a text, which is written as it is.
        return json.dumps({"arguments": self._plain(arguments), "keywords": keywords})

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Image.Image):
            return "image"
        if isinstance(value, dict) and "raw" in value:
            return "sound"
        return [self._plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _run(task: str, lines: list[Any], settings: dict[str, Any]) -> list[dict[str, Any]]:
    out = io.StringIO()
    Path("lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    shell = SimpleNamespace(write=lambda text: out.write(text + "\n"), stderr=io.StringIO(), stdout=out)
    run_lines(find_task(task), _Pipeline(), "lines.jsonl", settings, shell)  # type: ignore[arg-type]
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    return [row | {"output": json.loads(row["output"])} for row in rows]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 3)).save(PHOTO)
    with wave.open(SPEECH, "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes(bytes(400))


@pytest.mark.parametrize("task", [task.name for task in TASKS])
def test_a_line_for_every_task(files: None, task: str) -> None:
    line, arguments, keywords = LINES[task]
    wanted = json.loads(json.dumps({"arguments": arguments, "keywords": keywords}))
    assert _run(task, [line] * 2, {}) == [{"input": line, "output": wanted}] * 2


def test_what_is_the_same_for_all_lines_is_a_setting(files: None) -> None:
    [row] = _run("zero-shot-classification", ["a"], {**LABELS, "multi_label": True})
    assert row["output"] == {"arguments": ["a"], "keywords": {**LABELS, "multi_label": True}}
    [row] = _run("mask-generation", [PHOTO], MARKED)
    assert row["output"] == {"arguments": ["image"], "keywords": MARKED}
    [row] = _run("image-text-to-text", [PHOTO], {"text": "What?"})
    assert row["output"]["arguments"] == [["image"]] and row["output"]["keywords"]["text"] == "<image>\nWhat?"
    for task, line in (("zero-shot-classification", "a"), ("image-text-to-text", {"text": "a"}), ("fill-mask", [1])):
        with pytest.raises(UsageError):
            _run(task, [line], {})


def test_a_model_with_one_label_takes_a_query_and_documents() -> None:
    config = SimpleNamespace(labels={0: "LABEL_0"})
    reranker = SimpleNamespace(model=SimpleNamespace(config=config))
    calls = calls_for(find_task("text-classification"), ["query", "one", "two"], reranker)
    assert [call.arguments[0] for call in calls] == [
        {"text": "query", "text_pair": "one"}, {"text": "query", "text_pair": "two"}
    ]  # fmt: skip
    assert [call.shown for call in calls] == ["one", "two"]
    config.labels = {0: "bad", 1: "good"}
    assert len(calls_for(find_task("text-classification"), ["a", "b", "c"], reranker)) == 3


def test_images_and_arrays_are_saved(tmp_path: Path) -> None:
    saver = Saver(tmp_path / "made" / "here")
    answer = [{"label": "a cat/dog", "score": None, "mask": Image.new("L", (5, 4), 255)}]
    [found] = saver.save(answer, "0")
    assert Path(found["mask"]).name == "0-0-a_cat_dog-mask.png" and Image.open(found["mask"]).size == (5, 4)
    depth = saver.save({"predicted_depth": np.ones((3, 2), np.float32), "score": 0.5}, "1")
    assert np.load(depth["predicted_depth"]).shape == (3, 2) and depth["score"] == 0.5
    assert np.load(saver.save([[[0.0, 1.0]]], "2")).shape == (1, 1, 2)
    assert saver.save([{"label": "x", "score": 0.1}], "3") == [{"label": "x", "score": 0.1}]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        Saver(tmp_path / "file" / "here")
