"""Many jobs at once: processes of their own, limits, resumption, and a Ray cluster that loses a node."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from onnxport.api.batch import batch
from onnxport.batch.isolated import Limits
from onnxport.batch.jobs import Job
from onnxport.batch.local import run_local
from onnxport.batch.place import open_place
from onnxport.batch.records import RECORDS_NAME, Status
from onnxport.cli.main import main
from tests.batch_functions import misbehave, write_folder
from tests.tiny import save

pytestmark = pytest.mark.integration


def test_checkpoints_become_verified_folders_and_are_not_done_twice(tmp_path, capsys):
    models, zoo = tmp_path / "models", tmp_path / "zoo"
    save("bert-text-classification", models / "labels")
    (models / "broken").mkdir()
    (models / "broken" / "config.json").write_text("{")
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text('{"model": "models/labels", "precisions": ["int8"]}\n\n{"model": "models/broken"}\n')
    assert main(["batch", str(jobs), str(zoo), "--quiet"]) == 2
    printed = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[:2] for line in printed) == [["converted", "labels"], ["failed", "broken"]]
    assert {path.name for path in (zoo / "labels" / "onnx").iterdir()} == {"model.onnx", "model_quantized.onnx"}
    assert not (zoo / "broken").exists()
    assert main(["verify", str(zoo / "labels"), "--quiet"]) == 0
    page = (zoo / "batch.html").read_text()
    assert "1 of 2 models converted" in page and "http" not in page.replace("http-equiv", "")
    written = (zoo / "labels" / "onnxport.json").stat()

    found = batch(jobs, zoo)
    assert found.skipped == ("labels",) and [record.status for record in found.records] == ["converted", "failed"]
    assert (zoo / "labels" / "onnxport.json").stat() == written
    assert main(["batch", str(jobs), str(zoo), "--quiet", "--fail-on", "never"]) == 0
    lines = [json.loads(line) for line in (zoo / RECORDS_NAME).read_text().splitlines()]
    assert Counter(line["name"] for line in lines) == {"labels": 1, "broken": 3}

    # Another job of the same name replaces the folder.
    jobs.write_text('{"model": "models/labels"}\n')
    assert batch(jobs, zoo).ok
    assert [path.name for path in (zoo / "labels" / "onnx").iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("model", "status", "attempts"),
    [
        ("abort", Status.CRASHED, 2),
        ("exit", Status.CRASHED, 2),
        ("once", Status.CONVERTED, 2),
        ("sleep", Status.TIMED_OUT, 1),
        ("memory", Status.OUT_OF_MEMORY, 1),
    ],
)
def test_a_job_that_misbehaves_harms_no_other(tmp_path, model, status, attempts):
    jobs = [Job("bad", model), Job("good", "0")]
    limits = Limits(seconds=8, memory_bytes=2**29)  # of which the imports take 360 MiB
    records = {record.name: record for record in run_local(jobs, misbehave, tmp_path / "work", limits)}
    assert (records["bad"].status, records["bad"].attempts) == (status, attempts)
    assert records["good"].status is Status.CONVERTED
    assert records["bad"].ok or records["bad"].message


def test_what_a_job_started_ends_with_it(tmp_path):
    (record,) = run_local([Job("one", "child")], misbehave, tmp_path, Limits())
    status = Path("/proc", (tmp_path / "child").read_text(), "status")
    assert record.ok
    give_up = time.monotonic() + 10
    while status.exists() and "(zombie)" not in status.read_text():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_jobs_run_side_by_side_as_far_as_there_are_workers(tmp_path):
    jobs = [Job(f"job-{number}", "2") for number in range(3)]
    assert all(record.ok for record in run_local(jobs, write_folder, tmp_path / "work", Limits(), workers=3))
    begun, ended = (sorted(float(line.split()[1]) for line in (tmp_path / name).read_text().splitlines())
                    for name in ("starts", "ends"))  # fmt: skip
    assert begun[-1] < ended[0]  # all had begun before the first one ended


def test_results_can_go_to_a_url(tmp_path):
    pytest.importorskip("fsspec")
    url = f"file://{tmp_path}/bucket/zoo"
    place = open_place(url, tmp_path / "work")
    (record,) = run_local([Job("one", "0")], write_folder, place.work, Limits())
    assert not place.is_whole("one")
    place.publish("one", place.work / "one")
    place.add(record)
    again = open_place(url, tmp_path / "elsewhere")
    assert again.is_whole("one") and again.records() == {"one": record}


@pytest.mark.sweep  # a cluster takes half a minute to start and to notice that a node is gone
@pytest.mark.timeout(600)
def test_a_ray_cluster_that_loses_a_node_loses_no_job(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from onnxport.batch.ray_cluster import run_ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    noticed = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": noticed})
    lost = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    output, starts = tmp_path / "zoo", tmp_path / "zoo" / "starts"
    output.mkdir()

    def lose_a_node():
        while not starts.exists() or len(starts.read_text().splitlines()) < 3:
            time.sleep(0.1)
        cluster.remove_node(lost, allow_graceful=False)

    loser = threading.Thread(target=lose_a_node, daemon=True)
    loser.start()
    jobs = [Job(f"job-{number}", "3") for number in range(5)]
    try:
        records = list(run_ray(jobs, write_folder, str(output), output / ".work", Limits()))
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert sorted(record.name for record in records) == [job.name for job in jobs]
    assert [record.message for record in records if not record.ok] == []
    assert all((output / job.name / "onnxport.json").is_file() for job in jobs)
    begun = Counter(line.split()[0] for line in starts.read_text().splitlines())
    assert set(begun) == {job.name for job in jobs} and max(begun.values()) == 2  # what was lost began again
