"""Two answers of a pipeline: equal for the person who reads them, or how they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# (absolute, of the scale): what a score may differ by. Numbers of graphs are judged by verification, more strictly.
# This only tells rounding from another input, another label or another rule.
_ABSOLUTE, _RELATIVE = 1e-3, 1e-2
_PIXELS = 0.01  # share of an image's pixels that may differ: edges between classes are near ties
_SCORES = ("score", "scores")
# What of an answer a person reads, in this order; the rest are places and token ids.
_WORDS = ("label", "word", "answer", "token_str", "generated_text", "translation_text", "summary_text", "text", "score")
_CANDIDATES, _TEXT = 3, 160  # that are shown; characters


def plain(answer: Any) -> Any:
    """An answer as dicts, lists, strings, numbers and numpy arrays; images as arrays."""
    if isinstance(answer, Mapping):
        return _rows_of({str(key): plain(value) for key, value in answer.items()})
    if hasattr(answer, "getbbox") and hasattr(answer, "size"):
        return np.asarray(answer)
    if hasattr(answer, "detach"):
        return answer.detach().cpu().numpy()
    if isinstance(answer, np.ndarray):
        return answer
    if hasattr(answer, "numpy"):
        return answer.numpy()
    if isinstance(answer, np.generic):
        return answer.item()
    if isinstance(answer, (list, tuple)):
        return _as_array(answer) if _is_numbers(answer) else [plain(item) for item in answer]
    return answer


def difference(expected: Any, found: Any, where: str = "") -> str | None:
    """How two plain answers differ, in words; None if they are equal for a user.

    Lists of candidates with scores may be in another order, or end with other candidates, where their scores are as
    close as rounding may bring them.

    Args:
        expected: of the source.
        found: of the folder.
        where: the place in the answer, for the words.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        return _dicts_differ(expected, found, where)
    if isinstance(expected, list) and isinstance(found, list):
        return _lists_differ(expected, found, where)
    if isinstance(expected, np.ndarray) and isinstance(found, np.ndarray):
        return _arrays_differ(expected, found, where)
    if _is_float(expected) and _is_float(found):
        expected, found = np.asarray(expected, np.float64), np.asarray(found, np.float64)
        return _arrays_differ(expected, found, where)
    return None if type(expected) is type(found) and expected == found else _told(where, expected, found)


def _dicts_differ(expected: dict[str, Any], found: dict[str, Any], where: str) -> str | None:
    if expected.keys() != found.keys():
        return _told(where, sorted(expected), sorted(found))
    if "box" in expected and isinstance(expected["box"], dict) and isinstance(found["box"], dict):
        # Whole pixels: a number near a half may be rounded either way.
        pairs = [(expected["box"].get(side), found["box"].get(side)) for side in expected["box"]]
        close = all(one is not None and other is not None and abs(one - other) <= 1 for one, other in pairs)
        if close:
            expected, found = ({**row, "box": None} for row in (expected, found))
    names = sorted(expected, key=lambda name: name in _SCORES)  # a wrong label tells more than its score
    return next((d for name in names if (d := difference(expected[name], found[name], _joined(where, name)))), None)


def _lists_differ(expected: list[Any], found: list[Any], where: str) -> str | None:
    if len(expected) == len(found):
        told = [
            d for n, (e, f) in enumerate(zip(expected, found, strict=True)) if (d := difference(e, f, f"{where}[{n}]"))
        ]
        if not told:
            return None
        if not _are_candidates(expected) or not _are_candidates(found):
            return told[0]
        return told[0] if _candidates_differ(expected, found) else None
    return _told(f"{where} (number of entries)", len(expected), len(found))


def _candidates_differ(expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> bool:
    """Whether lists with scores differ by more than the order of near ties and what is cut off at their end."""
    least = min(row["score"] for row in expected)
    left = list(found)
    for row in expected:
        match = next((other for other in left if difference(row, other) is None), None)
        if match is not None:
            left.remove(match)
        elif not _is_close(row["score"], least):
            return True
    return any(not _is_close(row["score"], least) for row in left)


def _are_candidates(rows: list[Any]) -> bool:
    """Alternatives of one question: best first."""
    if len(rows) < 2 or not all(isinstance(row, dict) and _is_float(row.get("score")) for row in rows):
        return False
    scores = [row["score"] for row in rows]
    return scores == sorted(scores, reverse=True)


def _arrays_differ(expected: np.ndarray, found: np.ndarray, where: str) -> str | None:
    if expected.shape != found.shape:
        return _told(f"{where} (shape)", list(expected.shape), list(found.shape))
    if expected.dtype.kind in "iub" and found.dtype.kind in "iub":
        far = np.abs(expected.astype(np.int64) - found.astype(np.int64)) > 1
        share = float(far.mean()) if far.size else 0.0
        return None if share <= _PIXELS else f"{where or 'the result'}: {share:.1%} of the pixels differ"
    if not expected.size:
        return None
    same = (expected == found) | (np.isnan(expected) & np.isnan(found))  # infinities are equal to themselves
    with np.errstate(invalid="ignore"):
        error = float(np.where(same, 0.0, np.abs(found - expected)).max())
    finite = np.abs(expected[np.isfinite(expected)])
    scale = float(finite.max()) if finite.size else 0.0
    if error <= _ABSOLUTE + _RELATIVE * scale:
        return None
    if expected.ndim == 0:
        return _told(where, float(expected), float(found))
    return f"{where or 'the result'} differs by {error:.3g} (largest number {scale:.3g})"


def _is_close(one: float, other: float) -> bool:
    return abs(one - other) <= _ABSOLUTE + _RELATIVE * max(abs(one), abs(other))


def _rows_of(answer: dict[str, Any]) -> dict[str, Any]:
    """{"labels": [...], "scores": [...]} with rows in the place of two lists."""
    labels, scores = answer.get("labels"), answer.get("scores")
    if not isinstance(labels, list) or not isinstance(scores, (list, np.ndarray)) or len(labels) != len(scores):
        return answer
    rows = [{"label": label, "score": float(score)} for label, score in zip(labels, scores, strict=True)]
    rest = {name: value for name, value in answer.items() if name not in ("labels", "scores")}
    return {**rest, "candidates": rows}


def _as_array(values: Sequence[Any]) -> Any:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):  # rows of several lengths
        return [plain(item) for item in values]


def _is_numbers(values: Any) -> bool:
    while isinstance(values, (list, tuple)) and values:
        values = values[0]
    return isinstance(values, float)


def _is_float(value: Any) -> bool:
    return isinstance(value, (float, np.floating))


def _joined(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _told(where: str, expected: Any, found: Any) -> str:
    return f"{where or 'the result'} is {_short(found)} instead of {_short(expected)}"


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def answer_text(answer: Any) -> str:
    """A plain answer as a short text for people.

    Example:
        >>> answer_text([{"label": "good", "score": 0.91234}, {"label": "bad", "score": 0.08766}])
        'good 0.912, bad 0.0877'
    """
    text = _text(answer)
    return text if len(text) <= _TEXT else f"{text[: _TEXT - 3]}..."


def _text(answer: Any) -> str:
    if isinstance(answer, dict):
        if "box" in answer:
            corners = answer["box"].values() if isinstance(answer["box"], dict) else answer["box"]
            rest = {key: value for key, value in answer.items() if key != "box"}
            return f"{_text(rest)} at {' '.join(map(_text, corners))}"
        known = [answer[key] for key in _WORDS if answer.get(key) is not None]
        return " ".join(_text(value) for value in known or answer.values())
    if isinstance(answer, (list, tuple)):
        more = [f"and {len(answer) - _CANDIDATES} more"] if len(answer) > _CANDIDATES else []
        return ", ".join([*(_text(one) for one in answer[:_CANDIDATES]), *more]) or "nothing"
    if isinstance(answer, np.ndarray):
        first = " ".join(_text(value) for value in answer.reshape(-1)[:_CANDIDATES].tolist())
        return f"{answer.dtype} {' x '.join(map(str, answer.shape))}: {first} ..."
    return f"{answer:.3g}" if _is_float(answer) else str(answer)
