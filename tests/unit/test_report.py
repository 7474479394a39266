"""The report: what it shows, what it escapes, and where it is written."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser

import pytest

from onnxport import write_report
from onnxport.artifact.folder import write_manifest
from onnxport.errors import FolderError, OutputError, UsageError
from onnxport.report.render import render_report
from onnxport.report.scale import LogScale
from onnxport.report.words import DASH, TIMES, share_text, shorten
from tests.unit.cli_runner import run
from tests.unit.report_samples import ATTACK, failed_manifest, hostile_manifest, sample_manifest


class Page(HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "small"
    path.mkdir()
    (path / "config.json").write_text("{}")
    write_manifest(path, sample_manifest())
    return path


def test_what_is_shown():
    page = Page(render_report(sample_manifest(), "small-t5"))
    for shown in (
        "Verified", "8 / 8", "T5ForConditionalGeneration", f"past_key_values.N.key {TIMES} 6",
        "from encoder_model", "61.0 MB", "98.7 %", "at most 512", "LayerNormalization", "1.32.0",
        "onnxport verify small-t5 --against example/small-t5", "decoder.extra.weight",
    ):  # fmt: skip
        assert shown in page.text, shown
    assert "differ" not in page.text.lower().replace("beyond", "")


def test_a_failed_verification_is_told_first():
    page = Page(render_report(failed_manifest(), "broken", published=False))
    headings = [i for i, (tag, _) in enumerate(page.tags) if tag == "h2"]
    assert page.tags[headings[0]][1]["id"].startswith("difference")
    for shown in ("Differs from the source", "Not published", "bert.encoder.layer.2.intermediate", "Gelu", "0 / 5"):
        assert shown in page.text, shown


def test_nothing_of_a_manifest_becomes_markup():
    text = render_report(hostile_manifest(), ATTACK)
    page = Page(text)
    assert ATTACK in "".join(page.texts)
    known = {tag for tag, _ in Page(render_report(sample_manifest(), "a")).tags}
    known |= {tag for tag, _ in Page(render_report(failed_manifest(), "a")).tags}
    assert {tag for tag, _ in page.tags} <= known
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "49" not in re.sub(r"[\d.]{3,}", "", "".join(page.texts))  # no template in a text is run


def test_nothing_is_loaded_or_run():
    for manifest in (sample_manifest(), failed_manifest()):
        page = Page(render_report(manifest, "a"))
        assert not any(tag in ("script", "link", "iframe", "object", "embed", "img") for tag, _ in page.tags)
        assert not any(name in ("src", "href", "action") for _, attributes in page.tags for name in attributes)


def test_headings_tables_and_pictures_have_names():
    page = Page(render_report(sample_manifest(), "a"))
    tags = page.tags
    assert [tag for tag, _ in tags].count("h1") == 1
    assert [tag for tag, _ in tags].count("table") == [tag for tag, _ in tags].count("caption")
    for tag, attributes in tags:
        if tag == "svg" and attributes.get("role") == "img":
            assert attributes["aria-label"]
        if tag == "section":
            assert attributes["aria-labelledby"] in {one.get("id") for _, one in tags}
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_equal_manifests_give_equal_pages():
    assert render_report(sample_manifest(), "a") == render_report(sample_manifest(), "a")


def test_the_file_lies_beside_the_folder(folder, capsys):
    written = write_report(folder)
    assert written == folder.with_name("small.html")
    assert "onnxport" in written.read_text()[:600]
    assert write_report(folder) == written  # a report is replaced
    outcome = run(capsys, "report", folder, "-o", folder.with_name("other.html"))
    assert (outcome.code, outcome.out.strip()) == (0, str(folder.with_name("other.html")))


def test_what_is_not_overwritten(folder):
    mine = folder.with_name("mine.html")
    mine.write_text("<p>mine</p>")
    with pytest.raises(OutputError):
        write_report(folder, mine)
    assert mine.read_text() == "<p>mine</p>"
    with pytest.raises(UsageError):
        write_report(folder, folder / "report.html")  # its files are on record
    with pytest.raises(UsageError):
        write_report(folder, folder.with_name("report.txt"))
    with pytest.raises(FolderError):
        write_report(folder.with_name("absent"))


def test_log_scale():
    scale = LogScale.around([0.5, 3e-8, 0.0, float("inf")], low=-3, high=0)
    assert (scale.low, scale.high) == (-8, 0)
    assert scale.place(0.0) == scale.place(1e-12) < scale.place(1e-4) < scale.place(1.0) == scale.place(float("inf"))
    assert scale.place(1e-4) == pytest.approx(50.0)
    assert len(scale.ticks()) <= 6


def test_shares_are_not_rounded_up():
    assert (share_text(1.0), share_text(0.99996), share_text(None)) == ("100 %", "99.9 %", DASH)


def test_shortened_names_keep_both_ends():
    assert shorten("past_key_values.11.decoder.key", 20).endswith("er.key")
    assert len(shorten("a" * 99, 20)) == 20


def test_answers_side_by_side():
    from dataclasses import replace

    from onnxport.artifact.manifest import ComparedAnswer, FolderRun

    equal, other = ("'a fine day'", "good 0.91", "good 0.91", True), (ATTACK, "a", ATTACK, False)
    answers = ComparedAnswer(*equal), ComparedAnswer(*other)
    run = FolderRun("onnxport.pipeline", 7, False, 1, ("'x': label is 'a' instead of 'b'",), answers)
    page = Page(render_report(replace(sample_manifest(), folder_run=run), "a"))
    for shown in ("7 real inputs", "onnxport.pipeline", "good 0.91", "Other answers", "Differs from", ATTACK):
        assert shown in page.text, shown
    assert len([tag for tag, attributes in page.tags if tag == "tr" and attributes.get("class") == "failed"]) == 1


def test_answers_as_text():
    from onnxport.user_runs.answers import answer_text

    box = {"label": "cat", "score": 0.987654, "box": {"xmin": 1, "ymin": 2, "xmax": 30, "ymax": 40}}
    assert answer_text([box]) == "cat 0.988 at 1 2 30 40"
    assert answer_text({"score": 0.5, "start": 3, "end": 9, "answer": "Berlin"}) == "Berlin 0.5"
    assert answer_text([{"label": str(n), "score": 0.1} for n in range(9)]).endswith("and 6 more")
    assert answer_text("a" * 500).endswith("...") and len(answer_text("a" * 500)) == 160
    assert answer_text([]) == "nothing"
