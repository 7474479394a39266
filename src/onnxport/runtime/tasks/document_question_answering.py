"""The words of a page that answer a question; the caller gives the words of the page and their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UnknownPreprocessingError, UsageError
from onnxport.runtime.preprocessing.texts import EncodingSettings, Row
from onnxport.runtime.tasks.base import Prepared, at_least
from onnxport.runtime.tasks.model import TaskModel
from onnxport.runtime.tasks.scores import softmax
from onnxport.runtime.tasks.text_pipeline import TextPipeline

_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "bbox"})
_LARGEST = 1000  # places are thousandths of the page
_MOST_OVERLAP = 256
_FALLBACK_LENGTH = 512
_HIDDEN = np.float32(-10000.0)  # logit of a token that no answer may have
_EXAMPLE = 'pipeline(image=None, question="What is the total?", word_boxes=[("Total", [60, 40, 140, 60])])'


@dataclass(frozen=True)
class PageSettings:
    """Arguments of the call.

    Attributes:
        top_k: most answers.
        doc_stride: tokens by which two windows of a long page overlap; None for 256, or half a window if that is less.
        max_seq_len: tokens of a window with the question; None for the model's limit.
        max_answer_len: most tokens of an answer.
        handle_impossible_answer: an empty answer may win.
        padding: accepted, as transformers has it; padding changes no answer.
    """

    top_k: int = 1
    doc_stride: int | None = None
    max_seq_len: int | None = None
    max_answer_len: int = 15
    handle_impossible_answer: bool = False
    padding: Any = None


@dataclass(frozen=True)
class _Window:
    """One window of a page: its words, and for each token whether it may be in an answer, and the word it is of."""

    words: Sequence[str]
    allowed: NDArray[np.bool_]
    word_of: Sequence[int | None]


class DocumentQuestionAnswering(TextPipeline):
    """`pipeline(image=None, question="Who?", word_boxes=[(word, [left, top, right, bottom]), ...])`.

    Returns [{"score", "answer", "start", "end"}], best first; `start` and `end` are numbers of words. Places are
    thousandths of the page's width and height. Text recognition is the caller's: the image of the page is not read.
    Takes the three arguments, a dict with `question` and `word_boxes`, or a list of such dicts. Settings are those of
    `PageSettings`.

    Raises:
        UnknownPreprocessingError: the model reads the image too (LayoutLMv2, LayoutLMv3).
    """

    Settings = PageSettings

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        if further := set(model.inputs) - _INPUTS:
            raise UnknownPreprocessingError(f"The preprocessing of {task} with {', '.join(sorted(further))}")
        super().__init__(model, task, **settings)

    def __call__(  # type: ignore[override]
        self,
        image: Any = None,
        question: str | None = None,
        word_boxes: Any = None,
        *,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Any:
        if question is not None or word_boxes is not None:
            image = {"image": image, "question": question, "word_boxes": word_boxes}
        return super().__call__(image, batch_size=batch_size, **settings)

    def prepare(self, item: Any, settings: PageSettings) -> Prepared:
        question, words, boxes = _checked(item)
        limits = (self.texts.config.max_length, self.model.config.first_int("max_position_embeddings"))
        length = settings.max_seq_len or min((limit for limit in limits if limit), default=_FALLBACK_LENGTH)
        stride = min(length // 2, _MOST_OVERLAP) if settings.doc_stride is None else settings.doc_stride
        at_least(length, 1, "max_seq_len")
        at_least(stride, 0, "doc_stride")
        chosen = EncodingSettings(
            truncation="only_second", max_length=length, stride=stride, is_split_into_words=True
        )  # fmt: skip
        first = self.texts.encode(question.split(), words, chosen)
        encodings = [first, *first.overflowing]
        rows = [self.texts.row(one) | {"bbox": self._places(one, boxes)} for one in encodings]
        return Prepared(rows, [self._window(one, words) for one in encodings])

    def answer(self, outputs: Sequence[Row], context: Sequence[_Window], settings: PageSettings) -> Any:
        at_least(settings.top_k, 1, "top_k")
        at_least(settings.max_answer_len, 1, "max_answer_len")
        answers: list[dict[str, Any]] = []
        nothing = np.inf
        for window, output in zip(context, outputs, strict=True):
            logits = (output[name].astype(np.float32) for name in ("start_logits", "end_logits"))
            start, end = (softmax(np.where(window.allowed, one, _HIDDEN)) for one in logits)
            nothing = min(nothing, float(start[0] * end[0]))
            start[0] = end[0] = 0.0
            answers += _spans(window, start, end, settings)
        if settings.handle_impossible_answer:
            answers.append({"score": nothing, "answer": "", "start": 0, "end": 0})
        return sorted(answers, key=lambda answer: -answer["score"])[: settings.top_k]

    def _places(self, encoding: Any, boxes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of each token, (tokens, 4): its word's; at the end of a text the far corner, else the origin."""
        separator = self.texts.token_id("sep_token")
        made = np.zeros((len(encoding.ids), 4), np.int64)
        for place, (token, part, word) in enumerate(
            zip(encoding.ids, encoding.sequence_ids, encoding.word_ids, strict=True)
        ):
            if part == 1:
                made[place] = boxes[word]
            elif token == separator:
                made[place] = _LARGEST
        return made

    def _window(self, encoding: Any, words: Sequence[str]) -> _Window:
        cls = self.texts.token_id("cls_token")
        parts = zip(encoding.ids, encoding.sequence_ids, strict=True)
        allowed = np.array([part == 1 or (cls is not None and token == cls) for token, part in parts])
        return _Window(words, allowed, encoding.word_ids)


def _spans(
    window: _Window, start: NDArray[np.float32], end: NDArray[np.float32], settings: PageSettings
) -> list[dict[str, Any]]:
    """The best spans of a window. As in transformers, pairs of tokens of the same words count each for themselves."""
    scores = np.tril(np.triu(np.outer(start, end)), settings.max_answer_len - 1).ravel()
    if settings.top_k == 1:
        chosen = np.array([scores.argmax()])
    elif len(scores) <= settings.top_k:
        chosen = np.argsort(-scores)
    else:
        chosen = np.argpartition(-scores, settings.top_k)[: settings.top_k]
        chosen = chosen[np.argsort(-scores[chosen])]
    found = []
    for place in chosen:
        first, last = divmod(int(place), len(start))
        left, right = window.word_of[first], window.word_of[last]
        if window.allowed[first] and window.allowed[last] and left is not None and right is not None:
            answer = " ".join(window.words[left : right + 1])
            found.append({"score": float(scores[place]), "answer": answer, "start": left, "end": right})
    return found


def _checked(item: Any) -> tuple[str, list[str], NDArray[np.int64]]:
    """Question, words, and their places, (words, 4) int64.

    Raises:
        UsageError: one is missing or cannot be used.
    """
    question = item.get("question") if isinstance(item, Mapping) else None
    if not isinstance(question, str) or not question.strip():
        raise UsageError(f"The question is {question!r}, which is not a text.", hint=_EXAMPLE)
    given = item.get("word_boxes")
    if given is None:
        raise UsageError(
            "The words of the page and their places are missing; text recognition is not part of onnxport.",
            hint=f"Give what your text recognition found as word_boxes: {_EXAMPLE}",
        )
    try:
        pairs = [(word, np.asarray(box)) for word, box in given]
    except (TypeError, ValueError):
        pairs = []
    if not pairs:
        raise UsageError("word_boxes is not a list of words with their places.", hint=_EXAMPLE)
    for word, box in pairs:
        if not isinstance(word, str):
            raise UsageError(f"{word!r} in word_boxes is not a text.", hint=_EXAMPLE)
        if not _is_place(box):
            raise UsageError(
                f"The place of the word {word!r} is {box.tolist()}; it must be [left, top, right, bottom], whole "
                f"numbers from 0 to {_LARGEST}, in thousandths of the page.",
                hint="1000 * pixel // width, or height",
            )
    return question, [word for word, _ in pairs], np.stack([box for _, box in pairs]).astype(np.int64)


def _is_place(box: NDArray[Any]) -> bool:
    if box.shape != (4,) or box.dtype.kind not in "iuf" or not np.isfinite(box).all():
        return False
    left, top, right, bottom = box
    inside = 0 <= left <= right <= _LARGEST and 0 <= top <= bottom <= _LARGEST
    return bool(inside and np.all(box == np.floor(box)))
