"""Extractive question answering: the span of a context that answers a question.

Long contexts are cut into overlapping windows of tokens; every window is scored, and the best
spans of all of them are returned as characters of the context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers.pipelines.base import ChunkPipeline

from onnxport.errors import UsageError
from onnxport.pipelines.inputs import accepted_inputs
from onnxport.runtime.tasks.question_answering import checked_example, pair_up
from onnxport.runtime.tasks.spans import Window, best_spans

_MAX_TOKENS = 384  # what the usual models were trained on, however long they can read
_OVERLAP = 128
_NO_LIMIT = 1_000_000  # tokenizers without a limit say 1e30


class QuestionAnsweringPipeline(ChunkPipeline):
    """`nlp(question="Who?", context="Ada did.")` gives {"score", "start", "end", "answer"}.

    Takes question and context as keywords (strings, or lists of the same length), a dict with
    both, or a list of such dicts. `start` and `end` are characters of the context. Arguments of
    the call or of the constructor:

        top_k: number of answers; a list of dicts is returned for more than one. Default 1.
        doc_stride: tokens by which two windows overlap. Default 128, at most half a window.
        max_seq_len: tokens in a window with the question. Default 384 or the model's limit.
        max_question_len: tokens of the question that are kept. Default 64.
        max_answer_len: tokens of an answer at most. Default 15.
        handle_impossible_answer: an empty answer may win. Default False.
        align_to_words: an answer begins and ends with whole words. Default True.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        topk: int | None = None,
        doc_stride: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        max_answer_len: int | None = None,
        handle_impossible_answer: bool | None = None,
        align_to_words: bool | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        top_k = topk if top_k is None else top_k
        if unknown:
            raise UsageError(f"Question answering has no parameter {sorted(unknown)[0]!r}.")
        numbers = {"top_k": top_k, "max_seq_len": max_seq_len, "max_answer_len": max_answer_len}
        for name, number in (numbers | {"max_question_len": max_question_len}).items():
            if number is not None and number < 1:
                raise UsageError(f"{name} must be at least 1, not {number}.")
        if doc_stride is not None and doc_stride < 0:
            raise UsageError(f"doc_stride must be at least 0, not {doc_stride}.")
        before = {"doc_stride": doc_stride, "max_seq_len": max_seq_len, "max_question_len": max_question_len}
        after = {
            "top_k": top_k,
            "max_answer_len": max_answer_len,
            "handle_impossible_answer": handle_impossible_answer,
            "align_to_words": align_to_words,
        }
        return (
            {name: value for name, value in before.items() if value is not None},
            {},
            {name: value for name, value in after.items() if value is not None},
        )

    def __call__(
        self,
        inputs: Any = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        if question is not None or context is not None:
            if inputs is not None or question is None or context is None:
                raise UsageError("Give both question= and context=, or a dict with both.")
            inputs = pair_up(question, context)
        if isinstance(inputs, Sequence) and not isinstance(inputs, str):
            return super().__call__([checked_example(item) for item in inputs], **kwargs)
        return super().__call__(checked_example(inputs), **kwargs)

    def preprocess(
        self,
        example: Mapping[str, str],
        doc_stride: int | None = None,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
        **_: Any,
    ) -> Iterator[dict[str, Any]]:
        """Tokenize into windows; every item has input tensors of shape (1, tokens) and a Window."""
        tokenizer = self.tokenizer
        if not tokenizer.is_fast:
            raise UsageError(f"{type(tokenizer).__name__} does not tell where its tokens lie in the text.")
        question = self._cut_question(example["question"], max_question_len)
        # Room for context in a window: what question and special tokens leave of it.
        taken = len(tokenizer(question, add_special_tokens=False)["input_ids"])
        taken += tokenizer.num_special_tokens_to_add(pair=True)
        length = max_seq_len or min(_MAX_TOKENS, self._longest_input())
        room = length - taken
        if room < 1:
            raise UsageError(
                f"The question takes {taken} tokens of {length}: no room for the context.",
                hint="Raise max_seq_len or lower max_question_len.",
            )
        stride = min(_OVERLAP, room // 2) if doc_stride is None else doc_stride
        if stride >= room:
            raise UsageError(
                f"doc_stride {stride} leaves no progress: {room} tokens of context fit into a window.",
                hint="Lower doc_stride or raise max_seq_len.",
            )
        context_second = tokenizer.padding_side == "right"
        pair = (question, example["context"]) if context_second else (example["context"], question)
        encoded = tokenizer(
            *pair,
            truncation="only_second" if context_second else "only_first",
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        names = accepted_inputs(self.model, encoded)
        count = len(encoded["input_ids"])
        for index in range(count):
            tensors = {name: _row(encoded[name][index]) for name in names}
            window = self._window(encoded, index, 1 if context_second else 0, example["context"])
            yield {**tensors, "window": window, "is_last": index == count - 1}

    def _forward(self, model_inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        window, is_last = model_inputs.pop("window"), model_inputs.pop("is_last")
        outputs = self.model(**model_inputs)
        return {"start": outputs["start_logits"], "end": outputs["end_logits"], "window": window, "is_last": is_last}

    def postprocess(
        self,
        model_outputs: list[dict[str, Any]],
        top_k: int = 1,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
        **_: Any,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        scored = [
            (item["window"], self._unpadded(item, "start"), self._unpadded(item, "end")) for item in model_outputs
        ]
        answers = best_spans(
            scored,
            top_k=top_k,
            max_answer_len=max_answer_len,
            impossible=handle_impossible_answer,
            whole_words=align_to_words,
        )
        return answers[0] if top_k == 1 else answers

    def _unpadded(self, item: Mapping[str, Any], name: str) -> np.ndarray:
        """Scores of a window's own tokens, float64: batching pads the shorter windows."""
        scores: np.ndarray = item[name][0].float().numpy().astype(np.float64)
        size = len(item["window"].tokens)
        return scores[-size:] if self.tokenizer.padding_side == "left" else scores[:size]

    def _cut_question(self, question: str, limit: int) -> str:
        offsets = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return question if len(offsets) <= limit else question[: offsets[limit - 1][1]]

    def _longest_input(self) -> int:
        limits = [self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", None)]
        return min((int(limit) for limit in limits if limit and 0 < limit < _NO_LIMIT), default=_MAX_TOKENS)

    def _window(self, encoded: Any, index: int, sequence: int, context: str) -> Window:
        """Which tokens are context, and which characters each of them stands for."""
        encoding = encoded.encodings[index]
        inside = [place == sequence for place in encoded.sequence_ids(index)]
        tokens: list[tuple[int, int]] = []
        words: list[tuple[int, int]] = []
        for place, offsets in enumerate(encoded["offset_mapping"][index]):
            span = (int(offsets[0]), int(offsets[1]))
            word = encoding.token_to_word(place) if inside[place] else None
            whole = encoding.word_to_chars(word, sequence) if word is not None else None
            tokens.append(span)
            words.append(span if whole is None else (int(whole[0]), int(whole[1])))
        ids = encoded["input_ids"][index]
        cls = self.tokenizer.cls_token_id
        null = ids.index(cls) if cls is not None and cls in ids else None
        return Window(context, tuple(inside), tuple(tokens), tuple(words), null)


def _row(values: Sequence[int]) -> Any:
    import torch

    return torch.tensor([values], dtype=torch.int64)
