"""Inputs from lines, the objects in them, and what --save writes."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from onnxport.cli.calls import calls_for, record_call
from onnxport.cli.line_inputs import count_lines, is_lines, read_lines
from onnxport.cli.save import Saver
from onnxport.errors import OutputError, UsageError
from onnxport.tasks import find_task


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
