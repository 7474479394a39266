"""Language tokens of multilingual translators (NLLB, mBART-50, M2M100).

One stands in the source text, and one begins the translation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxport.errors import UsageError, did_you_mean
from onnxport.formats.json_file import read_object_if_present

# "en_XX", "eng_Latn", "__en__"
_LANGUAGE = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]{1,3}|__[a-z]{2,3}__")
_LISTS = ("extra_special_tokens", "additional_special_tokens")


class Languages:
    """The languages of a tokenizer.

    Args:
        folder: has a tokenizer_config.json.
        tokenizer: the tokenizer of the `tokenizers` package.

    Attributes:
        ids: language, in the model's own spelling ("eng_Latn", "en_XX") -> its token; empty for a tokenizer without
            languages.
        source, target: the defaults in tokenizer_config.json, or None.
    """

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        file = folder / "tokenizer_config.json"
        config: dict[str, Any] = read_object_if_present(file)
        self.source, self.target = config.get("src_lang"), config.get("tgt_lang")
        names = [name for key in _LISTS for name in config.get(key) or () if isinstance(name, str)]
        found = {name: tokenizer.token_to_id(name) for name in names if _LANGUAGE.fullmatch(name)}
        self.ids: dict[str, int] = {} if self.source is None else {n: i for n, i in found.items() if i is not None}

    def token(self, name: str) -> int:
        """The token of a language.

        Raises:
            UsageError: the model does not have it.
        """
        token = self.ids.get(name, self.ids.get(f"__{name}__"))
        if token is None:
            raise UsageError(
                f"The model has no language {name!r}.",
                hint=did_you_mean(name, self.ids) if self.ids else "Leave src_lang and tgt_lang out.",
            )
        return token

    def source_replacements(self, source: str | None) -> Mapping[int, int]:
        """For `FolderTokenizer.encode`: every language token that the tokenizer adds -> the token of `source`."""
        if source is None:
            return {}
        token = self.token(source)
        return dict.fromkeys(self.ids.values(), token)

    def first_token(self, target: str | None, forced_bos: int | None, start: int | None) -> int | None:
        """The token that a translation into `target` begins with.

        Args:
            forced_bos, start: `forced_bos_token_id` and `decoder_start_token_id` of the settings.

        Raises:
            UsageError: there is no target language.
        """
        if target is not None:
            return self.token(target)
        if not self.ids or forced_bos is not None or start in self.ids.values():
            return forced_bos
        if self.target is None:
            raise UsageError(
                "This model translates between many languages, and the target language is missing.",
                hint=f"Give src_lang and tgt_lang in the model's spelling, such as {next(iter(self.ids))}.",
            )
        return self.token(self.target)
