"""The bar of a step that moves bytes, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.text import Text

from onnxport.cli import byte_progress
from onnxport.cli.byte_progress import ByteProgress
from onnxport.cli.console import Console, rendered, rich_console
from onnxport.progress import Reporter, Silent, Step, counted
from onnxport.system.timing import Stopwatch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """In place of the module `time`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(byte_progress, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")


def plain(stream: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_numbers_speed_and_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, progress = Clock(monkeypatch), ByteProgress()
    progress.advance(380_000_000, 9_800_000_000)
    assert progress.text() == "0.4 / 9.8 GB"  # no speed yet
    clock.now += 2
    progress.advance(1_200_000_000, 9_800_000_000)
    assert progress.text() == "1.2 / 9.8 GB, 410 MB/s, 21 s left"


def test_the_speed_is_that_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, progress = Clock(monkeypatch), ByteProgress()
    done = 0
    for _ in range(200):  # 20 s, fast
        clock.now += 0.1
        done += 100_000_000
        progress.advance(done, 10**12)
    assert "1.00 GB/s" in progress.text()
    for _ in range(150):  # 15 s, slow
        clock.now += 0.1
        done += 5_000_000
        progress.advance(done, 10**12)
    assert "50.0 MB/s" in progress.text()
    assert len(progress._samples) <= 102
    clock.now += 90  # nothing moves any more
    assert "5.00 MB/s" in progress.text()


def test_blocks_that_come_fast_cost_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, progress = Clock(monkeypatch), ByteProgress()
    for done in range(100_000):
        clock.now += 1e-5
        progress.advance(done, 10**9)
    assert len(progress._samples) < 15
    assert progress.done == 99_999


def test_a_second_part_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, progress = Clock(monkeypatch), ByteProgress()
    for done, total in ((0, 10**9), (10**9, 10**9), (0, 2 * 10**9), (10**9, 2 * 10**9)):
        progress.advance(done, total)
        clock.now += 1
    clock.now -= 1
    assert progress.text() == "1.0 / 2.0 GB, 1.00 GB/s, 1 s left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (21, "21 s"), (59.5, "1 min 0 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert byte_progress._duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (12, "12 bytes"),
        (1_500, "1.50 kB"),
        (41_000_000, "41.0 MB"),
        (410e6, "410 MB"),
        (1.2e9, "1.20 GB"),
        (999.9e6, "1.00 GB"),
        (9.999e6, "10.0 MB"),
        (0.3, "0 bytes"),
    ],
)
def test_speeds(count: float, text: str) -> None:
    assert byte_progress._short(count) == text


def test_more_than_all_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, progress = Clock(monkeypatch), ByteProgress()
    progress.advance(0, 10**9)
    clock.now += 1
    progress.advance(2 * 10**9, 10**9)
    assert progress.text() == "1.0 / 1.0 GB, 2.00 GB/s, 0 s left"


def test_little_has_no_bar() -> None:
    progress = ByteProgress()
    progress.advance(0, 99_999_999)
    assert progress.renderable(Text("Write")) is None
    progress.advance(0, 100_000_000)
    assert progress.renderable(Text("Write")) is not None


@pytest.mark.parametrize("width", [12, 30, 45, 46, 80, 200])
def test_the_line_is_one_line(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    progress = ByteProgress()
    progress.advance(5 * 10**9, 10**10)
    renderable = progress.renderable(Text("⠋ Write"))
    assert renderable is not None
    lines = rendered(rich_console(io.StringIO()), renderable).splitlines()
    assert len(lines) == 1
    assert len(lines[0]) <= width
    assert lines[0].startswith("⠋ Write")
    if width >= 30:
        assert lines[0].endswith("5.0 / 10.0 GB")
    # Without colours rich draws the finished part only.
    assert lines[0].count("━") == (12 if width >= 46 else 0)


def test_a_terminal_shows_the_bar_and_then_the_result() -> None:
    stream = Terminal()
    console = Console(stream)
    with console.step("Write") as step:
        step.advance(100_000_000, 400_000_000)
        deadline = time.monotonic() + 5
        while "100.0 / 400.0 MB" not in plain(stream) and time.monotonic() < deadline:
            time.sleep(0.05)
        step.advance(400_000_000, 400_000_000)
        step.done("400.0 MB")
    shown = plain(stream)
    assert re.search(r"Write +━+[╸ ]* +100\.0 / 400\.0 MB", shown)
    last = shown.splitlines()[-1]
    assert re.search(r"✓ Write +400\.0 MB  \d\.\d s", last)
    assert "━" not in last


def test_a_step_within_a_step_has_its_own() -> None:
    stream = Terminal()
    console = Console(stream)
    with console.step("Outer") as outer:
        outer.advance(1, 10**9)
        with console.step("Inner"):
            line = rendered(rich_console(io.StringIO()), console._spinning())
            assert "Inner" in line and "GB" not in line
        assert "0.0 / 1.0 GB" in rendered(rich_console(io.StringIO()), console._spinning())


def test_plain_output_says_nothing_extra() -> None:
    with_bytes, without = io.StringIO(), io.StringIO()
    for stream, advances in ((with_bytes, True), (without, False)):
        with Console(stream).step("Write") as step:
            for done in range(0, 10**9, 10**8) if advances else ():
                step.advance(done, 10**9)
            step.done("1.0 GB")
    pattern = r"✓ Write +1\.0 GB  \d\.\d s\n"
    assert re.fullmatch(pattern, without.getvalue())
    assert re.fullmatch(pattern, with_bytes.getvalue())


def test_silence() -> None:
    stream = Terminal()
    with Console(stream, silent=True).step("Write") as step:
        step.advance(5, 10**9)
    assert stream.getvalue() == ""
    with Silent().step("Write") as quiet_step:
        quiet_step.advance(5, 10**9)


class Recorder:
    """A reporter of somebody else."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def done(self, summary: str) -> None: ...

    def advance(self, bytes_done: int, total: int) -> None:
        self.seen.append((bytes_done, total))


def test_blocks_are_added_up() -> None:
    recorder = Recorder()
    report = counted(recorder, 60)
    for count in (10, 20, 30):
        report(count)
    assert recorder.seen == [(10, 60), (30, 60), (60, 60)]


def test_it_goes_through_a_stopwatch() -> None:
    stream = Terminal()
    console: Reporter = Console(stream)
    with Stopwatch(console).step("write", "Write") as step:
        passed: Step = step
        passed.advance(10**9, 2 * 10**9)
        assert "1.0 / 2.0 GB" in rendered(rich_console(io.StringIO()), console._spinning())  # type: ignore[attr-defined]


def test_writing_a_model_moves_the_bar(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    from onnxport.serialization.onnxfile import write_cost, write_model
    from tests.unit.graphs import model_of, tensor

    model = model_of(tensor(np.ones(3_000_000, np.float32)), tensor(np.ones(9000, np.float32), "v"))
    recorder = Recorder()
    cost = write_cost(model, external=True)
    write_model(model, tmp_path / "m.onnx", external=True, reporter_bytes=counted(recorder, cost.reported))
    assert recorder.seen[-1] == (cost.reported, cost.reported) == (12_036_000, 12_036_000)
    assert [done for done, _ in recorder.seen] == sorted({done for done, _ in recorder.seen})
    assert len(recorder.seen) == 4
