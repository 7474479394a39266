"""Steps and notes on stderr: a live line on a terminal, and one plain line for each finished step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from onnxport.cli.byte_bar import SHOWN_FROM_BYTES, ByteBar

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import RenderableType
    from rich.live import Live

_TITLE_WIDTH = 22
_PIPE_WIDTH = 200  # of tables that go into a file or a pipe


def rich_console(stream: TextIO) -> RichConsole:
    """A rich console on `stream`, which respects NO_COLOR, FORCE_COLOR, COLUMNS and TERM=dumb."""
    from rich.console import Console as RichConsole

    console = RichConsole(file=stream, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    return console


def rendered(console: RichConsole, *renderables: RenderableType) -> str:
    """Tables as text with `console`'s width and colours, without spaces at the ends of lines."""
    with console.capture() as text:
        for renderable in renderables:
            console.print(renderable)
    return "\n".join(line.rstrip() for line in text.get().rstrip().splitlines())


class Console:
    """A `Reporter` (onnxport.progress).

    Args:
        stream: usually stderr. It is kept, because `sys.stderr` is redirected while libraries run.
        silent: show nothing.
        check: called before and after every step; raises KeyboardInterrupt for a signal that a library swallowed.
    """

    def __init__(self, stream: TextIO, *, silent: bool = False, check: Callable[[], None] | None = None) -> None:
        self._rich = rich_console(stream)
        self._silent = silent
        self._check = check or (lambda: None)
        self._running: list[_Step] = []
        self._live: Live | None = None
        can_mark = _can_encode(stream, "✓✗⠋")
        self._marks = {True: "✓" if can_mark else "ok", False: "✗" if can_mark else "failed"}
        self._spinner = "dots" if can_mark else "line"

    def step(self, title: str) -> _Step:
        """A context manager: shows `title` while its block runs, then a line with its result and its time."""
        return _Step(title, self)

    def note(self, text: str) -> None:
        """Show a line that the user should read."""
        self._print(("note: ", "yellow"), (text, ""))

    def print(self, *renderables: RenderableType) -> None:
        """Show tables."""
        if not self._silent and renderables:
            text = rendered(self._rich, *renderables)
            _ignoring_closed(lambda: self._rich.out(text, highlight=False))

    def begin(self, step: _Step) -> None:
        """Called by a step."""
        self._check()
        self._running.append(step)
        self._start_spinner()

    def finish(self, step: _Step, ok: bool) -> None:
        """Called by a step."""
        self._running.remove(step)
        if not self._running:
            self._stop_spinner()
        indent = "  " * len(self._running)
        self._print(
            (indent + self._marks[ok] + " ", "green" if ok else "red"),
            (step.title.ljust(_TITLE_WIDTH - len(indent)), "" if ok else "red"),
            (" " + step.summary if step.summary else "", ""),
            (f"  {step.seconds():.1f} s", "dim"),
        )
        if ok:
            self._check()

    def _print(self, *parts: tuple[str, str]) -> None:
        if self._silent:
            return
        from rich.text import Text

        text = Text.assemble(*parts)
        _ignoring_closed(lambda: self._rich.print(text, soft_wrap=True))

    def _start_spinner(self) -> None:
        if self._silent or self._live is not None or not self._rich.is_terminal or self._rich.is_dumb_terminal:
            return
        from rich.live import Live

        # Streams are redirected by `output_capture.quiet` already; rich must not do it a second time.
        self._live = Live(
            console=self._rich,
            get_renderable=self.live_line,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def _stop_spinner(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            _ignoring_closed(live.stop)

    def bar(self, title: str, total: int) -> ByteBar | None:
        """The bar of a step that moves `total` bytes; None for few bytes, and where there is no live line."""
        if self._live is None or total < SHOWN_FROM_BYTES:
            return None
        return ByteBar(title, total, self._rich, self._spinner)

    def live_line(self) -> RenderableType:
        """The line of the innermost running step, drawn eight times a second on a terminal."""
        from rich.spinner import Spinner
        from rich.text import Text

        if not self._running:
            return Text("")
        step = self._running[-1]
        if step.bar is not None:
            return step.bar.renderable()
        frames = Spinner(self._spinner).frames
        frame = frames[int(time.monotonic() * 10) % len(frames)]
        return Text.assemble((frame + " ", "cyan"), step.title, (f"  {step.seconds():.0f} s", "dim"))


class _Step:
    """A running step, and the context manager around it."""

    def __init__(self, title: str, console: Console) -> None:
        self.title = title
        self.summary = ""
        self.bar: ByteBar | None = None
        self._console = console
        self._since = time.perf_counter()

    def __enter__(self) -> _Step:
        self._since = time.perf_counter()
        self._console.begin(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._console.finish(self, exc[0] is None)

    def done(self, summary: str) -> None:
        """Set the short result at the end of the line."""
        self.summary = summary

    def advance(self, bytes_done: int, total: int) -> None:
        """Tell how many bytes are done; a terminal shows a bar."""
        if self.bar is None:
            self.bar = self._console.bar(self.title, total)
        if self.bar is not None:
            self.bar.advance(bytes_done, total)

    def seconds(self) -> float:
        """Since the step began."""
        return time.perf_counter() - self._since


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _ignoring_closed(write: Callable[[], object]) -> None:
    """Write; if nobody reads the messages any more (`2>&1 | head`), the work still goes on."""
    try:
        write()
    except (OSError, ValueError):
        return
