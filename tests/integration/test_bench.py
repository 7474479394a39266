"""`bench`: what is measured, over which sizes, and what is refused. Times are not asserted."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from onnxport.api.bench import bench
from onnxport.api.optimize import quantize
from onnxport.artifact.folder import open_folder
from onnxport.bench.cells import make_cells, usual_lengths
from onnxport.bench.chart import latency_chart
from onnxport.bench.measure import Timing
from onnxport.cli.main import main
from onnxport.errors import UsageError

pytestmark = pytest.mark.integration


def test_a_graph_its_variant_and_its_source_are_measured(converted, tmp_path, capsys):
    tiny = converted("bert-text-classification")
    folder = tiny.copy(tmp_path / "folder")
    quantize(folder)
    chart = tmp_path / "chart.svg"
    words = ["bench", str(folder), "--batch", "1,3", "--length", "5,9", "--seconds", "0.01", "--quiet", "--json"]
    assert main([*words, "--against", str(tiny.source), "--chart", str(chart), "--threads", "1"]) == 0
    (graph,) = json.loads(capsys.readouterr().out)["graphs"]
    arms = ["model", "model_quantized", "pt source"]
    assert list(graph["starts"]) == arms
    assert [(t["batch"], t["length"], t["arm"]) for t in graph["timings"]] == [
        (batch, length, arm) for batch in (1, 3) for length in (5, 9) for arm in arms
    ]
    for timing in graph["timings"]:
        assert 0 < timing["p50"] <= timing["p90"] <= timing["p99"] and timing["runs"] >= 9
    assert all(opened["seconds"] > 0 and opened["memory_bytes"] > 2**24 for opened in graph["starts"].values())
    dots = ElementTree.parse(chart).iter("{http://www.w3.org/2000/svg}circle")
    assert sum(1 for dot in dots if len(dot)) == len(graph["timings"])


def test_sizes_that_the_graph_does_not_take_are_refused(converted):
    folder = converted("bert-text-classification").folder
    with pytest.raises(UsageError) as caught:
        bench(folder, lengths=(65,))
    assert "64" in str(caught.value)
    with pytest.raises(UsageError):
        bench(folder, batches=(0,))
    assert usual_lengths(open_folder(folder).manifest.components[0]) == [16, 64]


@pytest.mark.sweep
def test_a_decoder_reads_prompts_and_writes_tokens(converted):
    folder = open_folder(converted("llama").folder)
    prompt, step = make_cells(folder, folder.manifest.components[0], (2,), (7,))
    assert (prompt.label, step.label) == ("prompt", "step")
    assert prompt.inputs["input_ids"].shape == (2, 7) and prompt.inputs["past_key_values.0.key"].shape[2] == 0
    assert step.inputs["input_ids"].shape == (2, 1) and step.inputs["past_key_values.0.key"].shape[2] == 7
    assert step.inputs["attention_mask"].shape == (2, 8)


def test_names_are_escaped_in_the_chart(tmp_path: Path):
    timing = Timing("<a&b>", "", 1, 8, 1e-3, 2e-3, 3e-3, 1000.0, 9, 1.0)
    assert ElementTree.fromstring(latency_chart([timing], "<x>")).tag.endswith("svg")
