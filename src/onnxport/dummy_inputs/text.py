"""Texts, text pairs, and multiple choices: token ids of an exact length."""

from __future__ import annotations

import copy
import inspect
from typing import Any, ClassVar

import numpy as np

from onnxport.dummy_inputs.base import Arrays, DynamicDim, Sizes

WORDS = (
    "the a of to in it is was on for with as at by from river stone light winter garden music paper train "
    "city small old new good first people water house night morning letter answer question open close read "
    "write walk London Paris Ada Berlin Monday seven two hundred bright green quickly never always because"
).split()

_UNLIMITED = 1_000_000  # tokenizers without a limit have a limit of 1e30


class TextInputGenerator:
    """Makes rows of tokens.

    Args:
        tokenizer: tokenizer of the pipeline; if it is None, ids are drawn from the whole vocabulary.
        config: config of the model, for its limits.
        kind: "text", "text-pair" or "choices".
        accepts: parameter names of the model's forward, or None for all; other outputs of the tokenizer are dropped.
        batch: name of the batch axis.
        image_processor: makes the page image of document models.
    """

    can_pad = True
    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(
        self,
        tokenizer: Any,
        config: Any,
        kind: str = "text",
        accepts: frozenset[str] | None = None,
        batch: str = "batch_size",
        image_processor: Any = None,
    ) -> None:
        if tokenizer is not None and tokenizer.pad_token is None and tokenizer.eos_token is not None:
            tokenizer = copy.deepcopy(tokenizer)  # the source's is compared with the folder's
            tokenizer.pad_token = tokenizer.eos_token
        self.tokenizer, self.config, self.kind, self.accepts, self.batch = tokenizer, config, kind, accepts, batch
        self.image_processor = image_processor
        limit = _length_limit(tokenizer, config)
        dims = [DynamicDim(batch, 2, (3, 5)), DynamicDim("sequence_length", 11, (17, 29, 7), limit).clipped()]
        if kind == "choices":
            dims.insert(1, DynamicDim("num_choices", 3, (4, 2)))
        self.dims = tuple(dims)

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        rows, choices = sizes[self.batch], sizes.get("num_choices", 1)
        length = sizes["sequence_length"]
        rng = np.random.default_rng([seed, rows, length, choices])
        count = rows * choices
        if self.tokenizer is None:
            arrays = self._random(count, length, rng, padded)
        else:
            arrays = self._tokenized(count, length, rng, padded)
        arrays = {name: value for name, value in arrays.items() if self._takes(name)}
        if "bbox" not in arrays and self.accepts and "bbox" in self.accepts:
            arrays["bbox"] = _boxes(count, length, rng)
        if choices > 1 or self.kind == "choices":
            arrays = {name: value.reshape(rows, choices, *value.shape[1:]) for name, value in arrays.items()}
        if self.image_processor is not None and self.accepts and "pixel_values" in self.accepts:
            arrays["pixel_values"] = self._document_image(rows, rng)
        return arrays

    def _takes(self, name: str) -> bool:
        return self.accepts is None or name in self.accepts

    def _tokenized(self, count: int, length: int, rng: np.random.Generator, padded: bool) -> Arrays:
        # Every row is truncated to its own length and then padded. A word may be several tokens, so the number of words
        # alone would leave no padding.
        rows = [self._row(size, rng) for size in _lengths(count, length, padded)]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        encoded = self.tokenizer.pad(
            columns, padding="max_length", max_length=length, return_attention_mask=True, return_tensors="np"
        )
        arrays = {name: np.asarray(value) for name, value in encoded.items()}
        mask = arrays["attention_mask"]
        if "attention_mask" not in self.tokenizer.model_input_names:
            arrays.pop("attention_mask")
        arrays = {name: value.astype(np.int64) for name, value in arrays.items()}
        return self._with_random_ids(arrays, mask, rng)

    def _row(self, length: int, rng: np.random.Generator) -> dict[str, list[Any]]:
        """Return one row of exactly `length` tokens: each word is at least one token, so there are enough words."""
        options: dict[str, Any] = {"truncation": True, "max_length": length, "return_attention_mask": True}
        if length < self.tokenizer.num_special_tokens_to_add(pair=self.kind != "text"):
            options["add_special_tokens"] = False  # they are never cut
        words = [str(word) for word in rng.choice(WORDS, size=max(length, 1))]
        if "boxes" in inspect.signature(type(self.tokenizer).__call__).parameters:
            encoded = self.tokenizer(words, boxes=_boxes(1, len(words), rng)[0].tolist(), **options)
        elif self.kind == "text":
            if self.tokenizer.mask_token:
                words.insert(1, self.tokenizer.mask_token)
            encoded = self.tokenizer(" ".join(words), **options)
        else:
            second = " ".join(rng.choice(WORDS, size=max(length, 1)))
            encoded = self.tokenizer(" ".join(words), second, **options)
        return dict(encoded)

    def _with_random_ids(self, arrays: Arrays, mask: np.ndarray, rng: np.random.Generator) -> Arrays:
        """Replace ordinary tokens of odd rows, and of a single row, by random ids, from the whole vocabulary.

        The second half of these rows is of another token type, whatever the task, if the model has types.
        """
        ids = arrays["input_ids"].copy()
        special = np.isin(ids, self.tokenizer.all_special_ids)
        ordinary = np.setdiff1d(
            np.arange(min(len(self.tokenizer), vocabulary_of(self.config))), special_tokens(self.tokenizer)
        )
        if len(ordinary):
            odd = _odd(len(ids)) & ~special & (mask == 1)
            ids[odd] = rng.choice(ordinary, size=int(odd.sum()))
        arrays["input_ids"] = ids
        self._vary_types(arrays)
        return arrays

    def _vary_types(self, arrays: Arrays) -> None:
        """Make the second half of odd rows, and of a single row, the second of a pair."""
        types = arrays.get("token_type_ids")
        if types is not None and types.ndim == 2 and _token_types(self.config) > 1:
            second = np.arange(types.shape[1]) >= (types.shape[1] + 1) // 2
            arrays["token_type_ids"] = np.where(_odd(len(types)) & second, 1, types)

    def _random(self, count: int, length: int, rng: np.random.Generator, padded: bool) -> Arrays:
        high = vocabulary_of(self.config)
        arrays = {"input_ids": rng.integers(min(5, high - 1), high, (count, length), dtype=np.int64)}
        mask = np.zeros((count, length), np.int64)
        for row, size in enumerate(_lengths(count, length, padded)):
            mask[row, :size] = 1
        pad = getattr(self.config, "pad_token_id", None)
        if pad is not None:
            arrays["input_ids"][mask == 0] = pad
        arrays["attention_mask"] = mask
        if _token_types(self.config) > 1:
            arrays["token_type_ids"] = np.zeros((count, length), np.int64)
        self._vary_types(arrays)
        return arrays

    def _document_image(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        """Return the image of a document. The boxes are random too, so no text recognition is run."""
        from onnxport.dummy_inputs.image import random_image

        images = [random_image(200, 160, rng) for _ in range(rows)]
        encoded = self.image_processor(images, apply_ocr=False, return_tensors="np")
        return np.asarray(encoded["pixel_values"], np.float32)


def _length_limit(tokenizer: Any, config: Any) -> int | None:
    """Return the largest number of tokens: the limit of the tokenizer or of the position table."""
    limits = [getattr(tokenizer, "model_max_length", None) if tokenizer is not None else None]
    text_config = getattr(config, "text_config", None) or config
    limits.append(getattr(text_config, "max_position_embeddings", None))
    known = [int(limit) for limit in limits if isinstance(limit, (int, float)) and 0 < limit < _UNLIMITED]
    return min(known) if known else None


def vocabulary_of(config: Any) -> int:
    """Return the number of tokens of a model.

    Args:
        config: its config.
    """
    text_config = getattr(config, "text_config", None) or config
    return int(getattr(text_config, "vocab_size", None) or 100)


def special_tokens(tokenizer: Any) -> np.ndarray:
    """Return the ids of special and added tokens.

    Args:
        tokenizer: a tokenizer of transformers.
    """
    return np.asarray(sorted(set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)), np.int64)


def _token_types(config: Any) -> int:
    """Return the number of token types; 0 where the model has none, or several per token (TAPAS)."""
    text_config = getattr(config, "text_config", None) or config
    types = getattr(text_config, "type_vocab_size", None)
    return types if isinstance(types, int) else 0


def _odd(rows: int) -> np.ndarray:
    """Return (rows, 1): true for odd rows, and for a single row."""
    return np.asarray((np.arange(rows) % 2 == 1) | (rows == 1))[:, None]


def _lengths(count: int, length: int, padded: bool) -> list[int]:
    """Return row lengths; if padded, rows after the first have 2/5 of the length."""
    return [length if row == 0 or not padded else max(1, length * 2 // 5) for row in range(count)]


def _boxes(count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Return word boxes (x0, y0, x1, y1) with x0 < x1 and y0 < y1, in thousandths of the page."""
    low = rng.integers(0, 500, (count, length, 2))
    return np.concatenate([low, low + rng.integers(1, 500, (count, length, 2))], -1).astype(np.int64)
