"""The bar of a step that moves bytes, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest

from onnxport.cli.byte_bar import SHOWN_FROM_BYTES, ByteBar
from onnxport.cli.console import Console, rendered, rich_console
from onnxport.progress import Reporter, Silent, Step, counted
from onnxport.system.timing import Stopwatch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")


def plain(stream: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def line_of(bar: ByteBar) -> str:
    return rendered(rich_console(io.StringIO()), bar.renderable())


def test_bytes_speed_and_remaining_time() -> None:
    clock = Clock()
    bar = ByteBar("Write", 9_800_000_000, rich_console(io.StringIO()), clock=clock)
    bar.advance(400_000_000, 9_800_000_000)
    assert line_of(bar).endswith("0.4/9.8 GB ? -:--:--")  # no speed yet
    clock.now += 2
    bar.advance(1_200_000_000, 9_800_000_000)
    assert line_of(bar).endswith("1.2/9.8 GB 400.0 MB/s 0:00:22")


def test_the_speed_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    bar, done = ByteBar("Write", 10**12, rich_console(io.StringIO()), clock=clock), 0
    for _ in range(100):  # 20 s, fast
        clock.now += 0.2
        done += 120_000_000
        bar.advance(done, 10**12)
    assert "600.0 MB/s" in line_of(bar)
    for _ in range(75):  # 15 s, slow
        clock.now += 0.2
        done += 10_000_000
        bar.advance(done, 10**12)
    assert "50.0 MB/s" in line_of(bar)


def test_blocks_that_come_fast_are_not_all_updates() -> None:
    """rich keeps 1000 updates; without a limit those of many small blocks would be the last milliseconds."""
    clock = Clock()
    bar = ByteBar("Write", 10**9, rich_console(io.StringIO()), clock=clock)
    for done in range(100_000):
        clock.now += 1e-5
        bar.advance(done, 10**9)
    (task,) = bar._bar.tasks
    assert len(task._progress) < 15
    bar.advance(10**9, 10**9)
    assert task.completed == 10**9  # the last block always is one


def test_a_second_part_begins_again() -> None:
    clock = Clock()
    bar = ByteBar("Write", 10**9, rich_console(io.StringIO()), clock=clock)
    for done, total in ((1, 10**9), (10**9, 10**9), (1, 2 * 10**9), (8 * 10**8 + 1, 2 * 10**9)):
        bar.advance(done, total)
        clock.now += 1
    assert line_of(bar).endswith("0.8/2.0 GB 800.0 MB/s 0:00:02")


def test_more_than_all_is_all() -> None:
    bar = ByteBar("Write", 10**9, rich_console(io.StringIO()))
    bar.advance(2 * 10**9, 10**9)
    assert "1.0/1.0 GB" in line_of(bar)


@pytest.mark.parametrize("width", [12, 30, 45, 60, 80, 200])
def test_the_line_is_one_line(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    bar = ByteBar("Write", 10**10, rich_console(io.StringIO()))
    bar.advance(5 * 10**9, 10**10)
    (line,) = line_of(bar).splitlines()
    assert len(line) <= width
    if width >= 80:
        assert " Write " in line and "5.0/10.0 GB" in line
        assert line.count("━") == 12  # without colours rich draws the finished part only


def test_few_bytes_have_no_bar() -> None:
    console = Console(Terminal())
    with console.step("Write") as step:
        step.advance(0, SHOWN_FROM_BYTES - 1)
        assert "Write  0 s" in rendered(rich_console(io.StringIO()), console.live_line())
        step.advance(0, SHOWN_FROM_BYTES)
        assert "0.0/100.0 MB" in rendered(rich_console(io.StringIO()), console.live_line())


def test_only_a_terminal_has_a_bar() -> None:
    for stream in (io.StringIO(), Terminal()):
        with Console(stream).step("Write") as step:
            step.advance(0, 10**9)
            assert (step.bar is not None) == stream.isatty()


def test_a_terminal_shows_the_bar_and_then_the_result() -> None:
    stream = Terminal()
    console = Console(stream)
    with console.step("Write") as step:
        step.advance(100_000_000, 400_000_000)
        deadline = time.monotonic() + 5
        while "100.0/400.0 MB" not in plain(stream) and time.monotonic() < deadline:
            time.sleep(0.05)
        step.advance(400_000_000, 400_000_000)
        step.done("400.0 MB")
    shown = plain(stream)
    assert re.search(r"Write +━+[╸ ]* +100\.0/400\.0 MB", shown)
    last = shown.splitlines()[-1]
    assert re.search(r"✓ Write +400\.0 MB  \d\.\d s", last)
    assert "━" not in last


def test_a_step_within_a_step_has_its_own() -> None:
    stream = Terminal()
    console = Console(stream)
    with console.step("Outer") as outer:
        outer.advance(1, 10**9)
        with console.step("Inner"):
            line = rendered(rich_console(io.StringIO()), console.live_line())
            assert "Inner" in line and "GB" not in line
        assert "0.0/1.0 GB" in rendered(rich_console(io.StringIO()), console.live_line())


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
        assert "1.0/2.0 GB" in rendered(rich_console(io.StringIO()), console.live_line())  # type: ignore[attr-defined]


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
