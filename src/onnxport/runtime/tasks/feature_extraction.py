"""Hidden states of texts, and sentence embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.preprocessing.texts import EncodingSettings, Row
from onnxport.runtime.tasks.base import Prepared
from onnxport.runtime.tasks.fill_mask import encoding_settings
from onnxport.runtime.tasks.model import TaskModel
from onnxport.runtime.tasks.sentence_modules import normalized, read_sentence_modules
from onnxport.runtime.tasks.text_pipeline import TextPipeline

SENTENCE, TOKENS = "sentence_embedding", "last_hidden_state"


@dataclass(frozen=True)
class FeatureSettings:
    """Arguments of the call.

    Attributes:
        truncation: as for the tokenizer; None cuts the texts of a sentence encoder, and no others.
        tokenize_kwargs: further arguments of the tokenizer, those of `EncodingSettings`.
        return_tensors: return an array instead of lists.
        prompt_name: name of a prompt of the model, which is put before the text.
        prompt: a text that is put before the text.
    """

    truncation: bool | str | None = None
    tokenize_kwargs: Mapping[str, Any] = field(default_factory=dict)
    return_tensors: bool | str = False
    prompt_name: str | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class _Context:
    """Tokens of the prompt that do not take part in the pooling."""

    prompt_tokens: int


class FeatureExtraction(TextPipeline):
    """`pipeline("A text.")` returns the first output of the graph as nested lists, (1, tokens, width).

    `outputs` returns all of them, and `encode` sentence embeddings, as in sentence-transformers. Settings are those of
    `FeatureSettings`.
    """

    Settings = FeatureSettings

    def __init__(self, model: TaskModel, task: str, **settings: Any) -> None:
        self.modules = read_sentence_modules(model.folder.path)
        super().__init__(model, task, **settings)

    def prepare(self, item: Any, settings: FeatureSettings) -> Prepared:
        prompt = self.modules.prompt(settings.prompt_name, settings.prompt)
        encoding = self._encoding(settings)
        row = self.texts.text_row(prompt + item if prompt else item, settings=encoding)
        skipped = 0
        if prompt and not self.modules.includes_prompt:
            skipped = self._prompt_tokens(prompt, encoding)
        return Prepared([row], _Context(skipped))

    def answer(self, outputs: Sequence[Row], context: _Context, settings: FeatureSettings) -> Any:
        first = next(iter(outputs[0].values()))[None]
        return first if settings.return_tensors else first.tolist()

    def outputs(self, text: str, **settings: Any) -> dict[str, NDArray[Any]]:
        """All outputs of the graph for one text, with an axis of one text: `sentence_embedding` is (1, width).

        Raises:
            UsageError: a setting that does not exist, or a text that cannot be used.
        """
        row = self._run([text], self._read(self.settings, settings), 1)[0]
        return {name: value[None] for name, value in row.items()}

    def encode(
        self,
        sentences: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        normalize_embeddings: bool = False,
        **settings: Any,
    ) -> NDArray[np.float32]:
        """Sentence embeddings, as `SentenceTransformer.encode`.

        Args:
            sentences: a text, or a list of texts.
            prompt_name: name of the model's prompt that is put before each text; the default prompt if neither this nor
                `prompt` is given.
            prompt: a text that is put before each text.
            batch_size: texts that run together; those of similar length do.
            normalize_embeddings: scale each embedding to length 1.
            settings: those of `FeatureSettings`.

        Returns:
            (width,) for one text, (texts, width) for a list; float32.

        Raises:
            UsageError: the graph has no sentence embedding, or a setting does not exist.
        """
        if all(spec.name != SENTENCE for spec in self.model.session.outputs):
            raise UsageError(
                f"The graph has no {SENTENCE}.", hint="Convert a sentence-transformers model, with its modules.json."
            )
        if prompt_name is None and prompt is None:
            prompt_name = self.modules.default_prompt
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        chosen = replace(self._read(self.settings, settings), prompt_name=prompt_name, prompt=prompt)
        rows = [row[SENTENCE] for row in self._run(texts, chosen, batch_size)]
        found = np.stack(rows).astype(np.float32) if rows else np.zeros((0, 0), np.float32)
        if normalize_embeddings:
            found = normalized(found)
        return np.asarray(found[0] if isinstance(sentences, str) else found)

    def _run(self, texts: Sequence[str], settings: FeatureSettings, batch_size: int) -> list[Row]:
        prepared = [self.prepare(text, settings) for text in texts]
        rows = self.model.run([one.rows[0] for one in prepared], self.padding(), batch_size)
        for one, row in zip(prepared, rows, strict=True):
            if one.context.prompt_tokens and SENTENCE in row:
                row[SENTENCE] = self.modules.pool(row[TOKENS], one.context.prompt_tokens)
        return rows

    def _encoding(self, settings: FeatureSettings) -> EncodingSettings:
        if settings.truncation is not None and "truncation" in settings.tokenize_kwargs:
            raise UsageError("truncation is given twice.", hint="Leave it out of tokenize_kwargs.")
        encoding = encoding_settings(settings.tokenize_kwargs)
        truncation = settings.truncation
        if truncation is None and self.modules.kinds and "truncation" not in settings.tokenize_kwargs:
            truncation = True
        return encoding if truncation is None else replace(encoding, truncation=truncation)

    def _prompt_tokens(self, prompt: str, encoding: EncodingSettings) -> int:
        """How many tokens a prompt takes at the beginning of a text, without the special token at its end."""
        ids = self.texts.encode(prompt, settings=encoding).ids
        ends = {self.texts.token_id(name) for name in ("sep_token", "eos_token")}
        return len(ids) - (1 if ids and ids[-1] in ends else 0)
