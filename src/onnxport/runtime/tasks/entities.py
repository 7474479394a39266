"""From the scores of tokens to entities: words, groups, and windows of a long text put together.

The strategies are those of transformers' token-classification pipeline (pipelines/token_classification.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRATEGIES = ("none", "simple", "first", "average", "max")
Entity = dict[str, Any]


@dataclass(frozen=True)
class Token:
    """One token of a text that is not special.

    Attributes:
        index: its place among all tokens.
        word: its spelling.
        scores: (classes,) probabilities.
        start, end: its characters.
        is_subword: it continues the word of the token before it.
    """

    index: int
    word: str
    scores: NDArray[np.float32]
    start: int
    end: int
    is_subword: bool


def entities_of(
    tokens: Sequence[Token], strategy: str, label: Callable[[int], str], join: Callable[[Sequence[str]], str]
) -> list[Entity]:
    """The entities of a text.

    Args:
        tokens: of the text.
        strategy: one of `STRATEGIES`.
        label: the name of a class.
        join: the text of several tokens.
    """
    if strategy in ("none", "simple"):
        found = [
            {**_labelled(token.scores, label), "index": token.index, "word": token.word, **_span([token])}
            for token in tokens
        ]
    else:
        found = [_word(word, strategy, label, join) for word in _words(tokens)]
    return found if strategy == "none" else _grouped(found, join)


def without_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    """Of entities that overlap, where two windows share tokens, the longest and then the one with the best score."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda one: int(one["start"])):
        last = kept[-1] if kept else None
        if last is None or not last["start"] <= entity["start"] < last["end"]:
            kept.append(entity)
        elif (_size(entity), entity["score"]) > (_size(last), last["score"]):
            kept[-1] = entity
    return kept


def _size(entity: Entity) -> int:
    return int(entity["end"]) - int(entity["start"])


def _labelled(scores: NDArray[np.float32], label: Callable[[int], str]) -> Entity:
    best = int(scores.argmax())
    return {"entity": label(best), "score": float(scores[best])}


def _span(tokens: Sequence[Token]) -> Entity:
    return {"start": tokens[0].start, "end": tokens[-1].end}


def _words(tokens: Sequence[Token]) -> list[list[Token]]:
    words: list[list[Token]] = []
    for token in tokens:
        if words and token.is_subword:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _word(
    tokens: Sequence[Token], strategy: str, label: Callable[[int], str], join: Callable[[Sequence[str]], str]
) -> Entity:
    """A word with one label: that of its first token, of its surest token, or of the average."""
    if strategy == "first":
        scores = tokens[0].scores
    elif strategy == "max":
        scores = max(tokens, key=lambda token: float(token.scores.max())).scores
    else:
        scores = np.nanmean(np.stack([token.scores for token in tokens]), axis=0)
    return {**_labelled(scores, label), "word": join([token.word for token in tokens]), **_span(tokens)}


def _grouped(entities: Sequence[Entity], join: Callable[[Sequence[str]], str]) -> list[Entity]:
    """Neighbours of one kind put together: an entity goes on until a "B-" or another tag."""
    groups: list[list[Entity]] = []
    for entity in entities:
        begins, tag = _tag(entity["entity"])
        if groups and tag == _tag(groups[-1][-1]["entity"])[1] and not begins:
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return [
        {
            "entity_group": group[0]["entity"].split("-", 1)[-1],
            "score": float(np.nanmean(np.array([entity["score"] for entity in group], np.float32))),
            "word": join([entity["word"] for entity in group]),
            "start": group[0]["start"],
            "end": group[-1]["end"],
        }
        for group in groups
    ]


def _tag(name: str) -> tuple[bool, str]:
    """Whether an entity begins here, and its tag; a name without "B-" or "I-" continues."""
    return name.startswith("B-"), name[2:] if name.startswith(("B-", "I-")) else name
