"""Jobs of a batch: what is read from files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxport.batch.jobs import Job, read_jobs
from onnxport.batch.page import render_page
from onnxport.batch.records import RECORDS_NAME, Record, Status, append_record, read_records
from onnxport.errors import OnnxPortError, UsageError

SAME = {
    "jobs.yaml": "jobs:\n- {model: a/bert, task: fill-mask, opset: 20, precisions: [int8, int4]}\n- model: b\n",
    "jobs.json": '[{"model": "a/bert", "task": "fill-mask", "opset": 20, "precisions": "int8,int4"}, {"model": "b"}]',
    "jobs.jsonl": '{"model": "a/bert", "task": "fill-mask", "opset": 20, "precisions": "int8, int4"}\n{"model": "b"}\n',
    "jobs.csv": 'model,task,opset,precisions\na/bert,fill-mask,20,"int8,int4"\nb,,,\n',
}


@pytest.mark.parametrize("name", SAME)
def test_every_kind_of_file_says_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(SAME[name])
    assert read_jobs(tmp_path / name) == [
        Job("bert", "a/bert", {"task": "fill-mask", "opset": 20}, ("int8", "int4")),
        Job("b", "b"),
    ]


def test_a_folder_of_checkpoints_is_a_job_for_each(tmp_path: Path) -> None:
    for name, mark in (("one", "config.json"), ("two", "saved_model.pb"), ("none", "notes.txt")):
        (tmp_path / name).mkdir()
        (tmp_path / name / mark).touch()
    (tmp_path / "three.keras").touch()
    assert [job.name for job in read_jobs(tmp_path)] == ["one", "three.keras", "two"]


def test_names_are_made_unique_and_digests_follow_what_is_asked(tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_text('{"model": "x/m"}\n{"model": "y/m"}\n{"model": "x/m", "opset": 20}\n')
    first, second, third = read_jobs(tmp_path / "jobs.jsonl")
    assert [first.name, second.name, third.name] == ["m", "m-2", "m-3"]
    assert len({first.digest, second.digest, third.digest}) == 3
    assert Job("other", "x/m").digest == first.digest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"modell": "a"}', "needs a model"),
        ('{"model": "a", "taks": "fill-mask"}', "'taks'"),
        ('{"model": "a", "opset": "x"}', "no int"),
        ('{"model": "a", "allow_pickle": 3}', "no bool"),
        ('{"model": "a", "name": "../up"}', "'../up'"),
        ('{"model": "a", "name": "n"}\n{"model": "b", "name": "n"}', "'n'"),
        ('{"model": "a", "targets": 5}', "targets"),
        ("[1]", "needs a model"),
        ("{", "cannot be read"),
        ("", "no job"),
    ],
)
def test_what_cannot_be_a_job_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "jobs.jsonl").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_jobs(tmp_path / "jobs.jsonl")
    assert said in str(caught.value) and caught.value.hint


@given(st.binary(max_size=200), st.sampled_from(sorted(SAME)))
def test_any_bytes_are_jobs_or_an_error_in_words(tmp_path_factory, content: bytes, name: str) -> None:
    file = tmp_path_factory.mktemp("jobs") / name
    file.write_bytes(content)
    try:
        assert read_jobs(file)
    except OnnxPortError as error:
        assert error.hint


def test_records_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    file = tmp_path / RECORDS_NAME
    old = Record("a", "m", "1", Status.FAILED, message="no")
    new = Record("a", "m", "1", Status.CONVERTED, error_share=0.5, restrictions=("height fixed at 32",))
    for record in (old, new):
        append_record(file, record)
    with file.open("a") as lines:
        lines.write(json.dumps({"name": "b"}) + '\n{"name": "c", "status": "conv')
    assert read_records(file) == {"a": new}


def test_the_page_escapes_what_a_model_is_named() -> None:
    page = render_page([Record("<b>x</b>", "m", "1", Status.FAILED, message="<script>alert(1)</script>")], 1.0)
    assert page is not None and "<b>x" not in page and "<script>alert" not in page
