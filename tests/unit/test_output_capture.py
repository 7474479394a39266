"""Captured output: of the calling thread alone, or of the process; and everything is put back."""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings

import pytest

from onnxport.system.output_capture import capture_process, capture_thread


def _say(text: str, logger: logging.Logger) -> None:
    print(f"{text} on stdout")
    print(f"{text} on stderr", file=sys.stderr)
    logger.warning("%s logged", text)
    warnings.warn(f"{text} warned", stacklevel=1)


def test_only_the_calling_thread_is_captured(capsys: pytest.CaptureFixture[str]) -> None:
    logger, log = logging.getLogger("library"), io.StringIO()
    handler = logging.StreamHandler(log)
    logger.addHandler(handler)
    inside, said = threading.Event(), threading.Event()
    captured = []

    def library_call() -> None:
        with capture_thread() as buffer:
            inside.set()
            assert said.wait(10)
            _say("the library", logger)
            captured.append(buffer.getvalue())

    shown: list[str] = []
    thread = threading.Thread(target=library_call)
    before = sys.stdout, sys.stderr, warnings.showwarning
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_, **__: shown.append(str(message))  # type: ignore[assignment]
            thread.start()
            assert inside.wait(10)
            _say("the user", logger)
            said.set()
            thread.join(10)
    finally:
        logger.removeHandler(handler)
    out = capsys.readouterr()
    assert out.out == "the user on stdout\n" and out.err == "the user on stderr\n"
    assert log.getvalue() == "the user logged\n" and shown == ["the user warned"]
    assert captured == ["the library on stdout\nthe library on stderr\n"]
    assert before == (sys.stdout, sys.stderr, warnings.showwarning) and not handler.filters


def test_blocks_overlap_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    def work(number: int, found: dict[int, str]) -> None:
        for _ in range(50):
            with capture_thread() as outer, capture_thread() as inner:
                print(number)
            found[number] = outer.getvalue() + inner.getvalue()

    before, found = sys.stdout, {}
    threads = [threading.Thread(target=work, args=(number, found)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {number: f"{number}\n" for number in range(8)}
    assert sys.stdout is before and capsys.readouterr().out == ""


def test_a_stream_that_another_library_has_put_there_stays() -> None:
    before, theirs = sys.stdout, io.StringIO()
    try:
        with capture_thread():
            sys.stdout = theirs
        assert sys.stdout is theirs
    finally:
        sys.stdout = before


def test_a_handler_made_inside_is_not_silent_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    with capture_thread() as buffer:
        handler = logging.StreamHandler()  # binds the stream of that moment
        logger = logging.getLogger("late")
        logger.addHandler(handler)
        logger.warning("during")
    logger.warning("after")
    logger.removeHandler(handler)
    assert buffer.getvalue() == "during\n" and capsys.readouterr().err == "after\n"


def test_a_process_is_captured_in_all_threads(capsys: pytest.CaptureFixture[str]) -> None:
    with capture_process() as buffer:
        thread = threading.Thread(target=print, args=("a thread",))
        thread.start()
        thread.join(10)
        with capture_thread() as inner:
            print("a call")
        assert inner is buffer
        logging.getLogger("library").error("not shown")
    assert buffer.getvalue() == "a thread\na call\n" and capsys.readouterr() == ("", "")
