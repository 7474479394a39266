"""Labels of the tokens of a text, and the entities that they form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.texts import EncodingSettings, Row
from onnxport.runtime.tasks.base import Prepared, at_least
from onnxport.runtime.tasks.entities import STRATEGIES, Entity, Token, entities_of, without_overlaps
from onnxport.runtime.tasks.scores import softmax
from onnxport.runtime.tasks.text_pipeline import TextPipeline


@dataclass(frozen=True)
class EntitySettings:
    """Arguments of the call.

    Attributes:
        aggregation_strategy: "none" (every token), "simple", "first", "average" or "max".
        ignore_labels: labels that are left out.
        stride: a text longer than the model's limit is cut into windows that overlap by this many tokens. None cuts
            off what is too long.
        offset_mapping: (start, end) of each token, instead of the tokenizer's.
        is_split_into_words: an input is a list of words.
        delimiter: stands between the words, in the characters of the answer.
    """

    aggregation_strategy: str = "none"
    ignore_labels: Sequence[str] = ("O",)
    stride: int | None = None
    offset_mapping: Any = None
    is_split_into_words: bool = False
    delimiter: str | None = None


@dataclass(frozen=True)
class _Context:
    """One text: its windows, and for a list of words the first character of each word."""

    text: str
    encodings: Sequence[Any]
    word_starts: Sequence[int] | None


class TokenClassification(TextPipeline):
    """`pipeline("Ada lives in London.")` returns a list of entities, with their characters in the text.

    Without `aggregation_strategy` an entity is a token: {"entity", "score", "index", "word", "start", "end"}. With it,
    neighbours are put together: {"entity_group", "score", "word", "start", "end"}. Settings are those of
    `EntitySettings`.
    """

    Settings = EntitySettings

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **settings: Any) -> Any:
        words = settings.get("is_split_into_words", self.settings.is_split_into_words)
        if words and isinstance(inputs, (list, tuple)) and not all(isinstance(one, (list, tuple)) for one in inputs):
            inputs = [inputs]
        return super().__call__(inputs, batch_size=batch_size, **settings)

    def prepare(self, item: Any, settings: EntitySettings) -> Prepared:
        strategy = _strategy(settings)
        longest = self.texts.config.max_length
        if settings.stride is not None:
            at_least(settings.stride, 0, "stride")
            if strategy == "none" or (longest is not None and settings.stride >= longest):
                raise UsageError(
                    f"stride={settings.stride} needs an aggregation strategy, and windows longer than it "
                    f"(aggregation_strategy={strategy!r}, {longest} tokens).",
                    hint='aggregation_strategy="simple"',
                )
        text, starts = item, None
        if settings.is_split_into_words:
            text, starts = _joined(item, " " if settings.delimiter is None else settings.delimiter)
        encoding = self.texts.encode(
            item,
            settings=EncodingSettings(
                truncation=True, stride=settings.stride or 0, is_split_into_words=settings.is_split_into_words
            ),
        )
        windows = [encoding] if settings.stride is None else [encoding, *encoding.overflowing]
        return Prepared([self.texts.row(window) for window in windows], _Context(text, windows, starts))

    def answer(self, outputs: Sequence[Row], context: _Context, settings: EntitySettings) -> list[Entity]:
        strategy = _strategy(settings)
        found: list[Entity] = []
        for encoding, output in zip(context.encodings, outputs, strict=True):
            tokens = self._tokens(encoding, softmax(output["logits"]), context, settings)
            entities = entities_of(tokens, strategy, self.model.config.label, self.texts.join)
            found += [
                one for one in entities if one.get("entity", one.get("entity_group")) not in settings.ignore_labels
            ]
        return without_overlaps(found) if len(outputs) > 1 else found

    def _tokens(self, encoding: Any, scores: Any, context: _Context, settings: EntitySettings) -> list[Token]:
        offsets = encoding.offsets if settings.offset_mapping is None else _offsets(settings.offset_mapping)
        unknown = self.texts.token_id("unk_token")
        # A tokenizer that marks the pieces of words; of others a piece is what has no space before it.
        marks = getattr(self.texts.tokenizer.model, "continuing_subword_prefix", None)
        tokens = []
        for index, special in enumerate(encoding.special_tokens_mask):
            if special:
                continue
            start, end = offsets[index]
            if context.word_starts is not None and encoding.word_ids[index] is not None:
                first = context.word_starts[encoding.word_ids[index]]
                start, end = start + first, end + first
            word, shown = self.texts.tokenizer.id_to_token(encoding.ids[index]), context.text[start:end]
            if marks:
                is_subword = len(word) != len(shown)
            else:
                is_subword = start > 0 and " " not in context.text[start - 1 : start + 1]
            if encoding.ids[index] == unknown:
                word, is_subword = shown, False
            tokens.append(Token(index, word, scores[index], start, end, is_subword))
        return tokens


def _strategy(settings: EntitySettings) -> str:
    """The strategy in lower case.

    Raises:
        UsageError: there is no such strategy.
    """
    name = str(settings.aggregation_strategy or "none").lower()
    if name not in STRATEGIES:
        raise UsageError(f"aggregation_strategy={name!r} is not known.", hint=f"Use {', '.join(STRATEGIES)}.")
    return name


def _joined(words: Any, delimiter: str) -> tuple[str, list[int]]:
    """The text of a list of words, and the first character of each.

    Raises:
        UsageError: not a list of words.
    """
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise UsageError("is_split_into_words needs a list of words.", hint='["Ada", "lives", "in", "London"]')
    starts, place = [], 0
    for word in words:
        starts.append(place)
        place += len(word) + len(delimiter)
    return delimiter.join(words), starts


def _offsets(given: Any) -> Any:
    """The (start, end) of the tokens of one text, from a list of them or of such lists."""
    return given[0] if given and isinstance(given[0], list) else given
