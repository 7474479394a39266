"""Sizes on the command line, and the options of `convert` that take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxport.cli.sizes import parse_size
from onnxport.errors import OnnxPortError, UsageError
from tests.unit.cli_runner import run

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9), ("500MB", 500 * 10**6), ("1.5GiB", 3 * 2**29), ("4096", 4096), ("4096B", 4096),
        ("2gb", 2 * 10**9), ("2G", 2 * 10**9), (" 2 GB ", 2 * 10**9), ("0.5kib", 512), (".5kB", 500),
        ("1TiB", 2**40), ("1.9", 1), ("0.1GB", 10**8), ("9223372036854775807", 2**63 - 1),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--shard-size") == size


@given(
    st.integers(1, 10**6), st.integers(0, 999), st.sampled_from(sorted(_POWERS)), st.sampled_from(["", "b", "ib"]),
    st.lists(st.booleans(), min_size=3, max_size=3), st.booleans(),
)  # fmt: skip
def test_any_number_and_unit(
    whole: int, thousandths: int, prefix: str, suffix: str, upper: list[bool], space: bool
) -> None:
    if not prefix and suffix == "ib":
        suffix = "b"
    unit = "".join(c.upper() if up else c for c, up in zip(prefix + suffix, upper, strict=False))
    scale = (1024 if suffix == "ib" else 1000) ** _POWERS[prefix]
    text = f"{whole}.{thousandths:03d}{' ' if space else ''}{unit}"
    exact = (whole * 1000 + thousandths) * scale // 1000
    if exact < 2**63:
        assert parse_size(text, "--x") == exact  # no error of floating point


@given(st.text(max_size=12) | st.from_regex(r"[0-9.eE+-]{1,8}[kmgtib]{0,3}", fullmatch=True))
def test_anything_else_is_a_usage_error(text: str) -> None:
    try:
        size = parse_size(text, "--memory-limit")
    except UsageError as error:
        assert error.message.startswith("--memory-limit ")
        assert repr(text) in error.message
        assert error.hint is not None and "1.5GiB" in error.hint
    else:
        assert 1 <= size < 2**63
        assert text.strip()[0] in "0123456789."


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a size"), ("GB", "not a size"), ("-2GB", "not a size"), ("2 bananas", "not a size"),
        ("1e9", "not a size"), ("1.5.1", "not a size"), ("inf", "not a size"), ("2XB", "not a size"),
        ("2iB", "not a size"), ("\N{ARABIC-INDIC DIGIT TWO}GB", "not a size"), ("1.GB", "not a size"),
        ("0", "too small"), ("0GB", "too small"), ("0.9", "too small"),
        ("9223372036854775808", "too large"), ("99999999TB", "too large"), ("9" * 5000, "too large"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        parse_size(text, "--shard-size")
    assert caught.value.hint


# ---------------------------------------------------------------- convert


@pytest.fixture
def given_options(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `convert` on the command line hands to the library."""
    seen: dict[str, Any] = {}

    def convert(*_: Any, **options: Any) -> None:
        seen.update(options)
        raise OnnxPortError("far enough")

    monkeypatch.setattr("onnxport.api.convert.convert", convert)
    return seen


def test_options_reach_the_conversion(
    given_options: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("--shard-size", "2GB", "--memory-limit=1.5GiB", "--link-weights")
    assert "far enough" in run(capsys, "convert", "a", tmp_path / "b", *words).err
    assert given_options["shard_size"] == 2 * 10**9
    assert given_options["memory_limit"] == 3 * 2**29
    assert given_options["link_weights"] is True


def test_options_that_are_not_given_are_not_passed(
    given_options: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(capsys, "convert", "a", tmp_path / "b")
    assert given_options and not given_options.keys() & {"shard_size", "memory_limit", "link_weights"}


@pytest.mark.parametrize("option", ["--shard-size", "--memory-limit"])
def test_a_wrong_size_is_told_before_anything_is_loaded(
    option: str, given_options: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    outcome = run(capsys, "convert", "a", tmp_path / "b", option, "lots")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {option} 'lots' is not a size")
    assert given_options == {}
