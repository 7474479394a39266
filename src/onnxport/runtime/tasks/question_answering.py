"""The span of a context that answers a question; long contexts are cut into windows that overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.texts import EncodingSettings, Row
from onnxport.runtime.tasks.base import Prepared, at_least
from onnxport.runtime.tasks.spans import Window, best_spans
from onnxport.runtime.tasks.text_pipeline import TextPipeline

_MAX_TOKENS = 384  # what the usual models were trained on, however long they can read
_OVERLAP = 128
_PLAIN = EncodingSettings(add_special_tokens=False)
_LIMITS = ("top_k", "max_seq_len", "max_answer_len", "max_question_len")


@dataclass(frozen=True)
class AnswerSettings:
    """Arguments of the call.

    Attributes:
        top_k: number of answers; a list for more than one.
        doc_stride: tokens by which two windows overlap; None for 128, or half a window if that is less.
        max_seq_len: tokens of a window with the question; None for 384 or the model's limit.
        max_question_len: tokens of the question that are kept.
        max_answer_len: most tokens of an answer.
        handle_impossible_answer: an empty answer may win.
        align_to_words: an answer begins and ends with whole words.
    """

    top_k: int = 1
    doc_stride: int | None = None
    max_seq_len: int | None = None
    max_question_len: int = 64
    max_answer_len: int = 15
    handle_impossible_answer: bool = False
    align_to_words: bool = True


class QuestionAnswering(TextPipeline):
    """`pipeline(question="Who?", context="Ada did.")` returns {"score", "start", "end", "answer"}.

    Takes question and context as keywords (strings, or lists of the same length), a dict with both, or a list of such
    dicts. `start` and `end` are characters of the context. Settings are those of `AnswerSettings`.
    """

    Settings = AnswerSettings
    aliases: ClassVar[Mapping[str, str]] = {"topk": "top_k"}

    def __call__(
        self,
        inputs: Any = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        **settings: Any,
    ) -> Any:
        if question is not None or context is not None:
            if inputs is not None or question is None or context is None:
                raise UsageError("A question and a context are needed, or a dict with both.", hint=_EXAMPLE)
            inputs = pair_up(question, context)
        return super().__call__(inputs, batch_size=batch_size, **settings)

    def prepare(self, item: Any, settings: AnswerSettings) -> Prepared:
        for name in _LIMITS:
            if getattr(settings, name) is not None:
                at_least(getattr(settings, name), 1, name)
        example = checked_example(item)
        question = self._cut_question(example["question"], settings.max_question_len)
        length, stride = self._window_sizes(question, settings)
        context_second = self.texts.side == "right"
        pair = (question, example["context"]) if context_second else (example["context"], question)
        encoding = self.texts.encode(
            *pair,
            EncodingSettings(
                truncation="only_second" if context_second else "only_first", max_length=length, stride=stride
            ),
        )
        encodings = [encoding, *encoding.overflowing]
        windows = [self._window(one, int(context_second), example["context"]) for one in encodings]
        return Prepared([self.texts.row(one) for one in encodings], windows)

    def answer(self, outputs: Sequence[Row], context: Sequence[Window], settings: AnswerSettings) -> Any:
        scored = [
            (window, output["start_logits"].astype(np.float64), output["end_logits"].astype(np.float64))
            for window, output in zip(context, outputs, strict=True)
        ]
        answers = best_spans(
            scored,
            top_k=settings.top_k,
            max_answer_len=settings.max_answer_len,
            impossible=settings.handle_impossible_answer,
            whole_words=settings.align_to_words,
        )
        return answers[0] if settings.top_k == 1 else answers

    def _window_sizes(self, question: str, settings: AnswerSettings) -> tuple[int, int]:
        """Tokens of a window, and tokens by which two windows overlap.

        Raises:
            UsageError: no room for the context, or windows that do not advance.
        """
        taken = len(self.texts.encode(question, settings=_PLAIN).ids) + self.texts.special_tokens(pair=True)
        length = settings.max_seq_len or min(_MAX_TOKENS, self._longest_input())
        room = length - taken
        if room < 1:
            raise UsageError(
                f"The question takes {taken} tokens of {length}: no room for the context.",
                hint="Raise max_seq_len or lower max_question_len.",
            )
        stride = min(_OVERLAP, room // 2) if settings.doc_stride is None else settings.doc_stride
        at_least(stride, 0, "doc_stride")
        if stride >= room:
            raise UsageError(
                f"doc_stride {stride} leaves no progress: {room} tokens of context fit into a window.",
                hint="Lower doc_stride or raise max_seq_len.",
            )
        return length, stride

    def _longest_input(self) -> int:
        limits = (self.texts.config.max_length, self.model.config.first_int("max_position_embeddings"))
        return min((limit for limit in limits if limit), default=_MAX_TOKENS)

    def _cut_question(self, question: str, limit: int) -> str:
        offsets = self.texts.encode(question, settings=_PLAIN).offsets
        return question if len(offsets) <= limit else question[: offsets[limit - 1][1]]

    def _window(self, encoding: Any, sequence: int, context: str) -> Window:
        """Which tokens are context, and which characters each of them stands for."""
        inside = tuple(place == sequence for place in encoding.sequence_ids)
        words: list[tuple[int, int]] = []
        for place, span in enumerate(encoding.offsets):
            word = encoding.token_to_word(place) if inside[place] else None
            words.append(span if word is None else encoding.word_to_chars(word, sequence) or span)
        cls = self.texts.token_id("cls_token")
        null = encoding.ids.index(cls) if cls is not None and cls in encoding.ids else None
        return Window(context, inside, tuple(encoding.offsets), tuple(words), null)


_EXAMPLE = 'pipeline(question="Who wrote it?", context="Ada wrote it.")'


def pair_up(question: str | Sequence[str], context: str | Sequence[str]) -> Any:
    """One dict, or a list of dicts where there are several questions or contexts.

    Raises:
        UsageError: several of both, but not equally many.
    """
    questions = [question] if isinstance(question, str) else list(question)
    contexts = [context] if isinstance(context, str) else list(context)
    if len(questions) != len(contexts) and 1 not in (len(questions), len(contexts)):
        raise UsageError(
            f"{len(questions)} questions and {len(contexts)} contexts cannot be paired.", hint="Give equally many."
        )
    size = max(len(questions), len(contexts))
    questions = questions * size if len(questions) == 1 else questions
    contexts = contexts * size if len(contexts) == 1 else contexts
    pairs = [{"question": one, "context": other} for one, other in zip(questions, contexts, strict=True)]
    return pairs[0] if isinstance(question, str) and isinstance(context, str) else pairs


def checked_example(item: Any) -> dict[str, str]:
    """A question and a context that are not empty.

    Raises:
        UsageError: one is missing, empty or not a text.
    """
    if not isinstance(item, Mapping) or not {"question", "context"} <= set(item):
        raise UsageError("A question and a context are needed.", hint=_EXAMPLE)
    for name in ("question", "context"):
        if not isinstance(item[name], str) or not item[name].strip():
            raise UsageError(f"The {name} is {item[name]!r}, which is not a text.", hint=_EXAMPLE)
    return {"question": item["question"], "context": item["context"]}
