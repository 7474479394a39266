"""Tokens of languages, as translators between many languages have them: one stands beside the text that is read, and
one begins the text that is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxport.errors import UsageError, did_you_mean
from onnxport.formats.json_file import read_object

# "en_XX", "eng_Latn", "__en__"
_LANGUAGE = re.compile(r"[a-z]{2,3}_[A-Z][A-Za-z]{1,3}|__[a-z]{2,3}__")
_LISTS = ("extra_special_tokens", "additional_special_tokens")


class Languages:
    """The languages of a tokenizer.

    Attributes:
        ids: token of each language, by the model's own spelling ("eng_Latn", "en_XX"); empty for a tokenizer that
            knows none.
    """

    def __init__(self, folder: Path, tokenizer: Any) -> None:
        file = folder / "tokenizer_config.json"
        said: dict[str, Any] = read_object(file) if file.is_file() else {}
        self.source, self.target = said.get("src_lang"), said.get("tgt_lang")
        names = [name for key in _LISTS for name in said.get(key) or () if isinstance(name, str)]
        found = {name: tokenizer.token_to_id(name) for name in names if _LANGUAGE.fullmatch(name)}
        self.ids: dict[str, int] = {} if self.source is None else {n: i for n, i in found.items() if i is not None}

    def token(self, name: str) -> int:
        """The token of a language.

        Raises:
            UsageError: the model does not know it.
        """
        token = self.ids.get(name, self.ids.get(f"__{name}__"))
        if token is None:
            raise UsageError(
                f"The model has no language {name!r}.",
                hint=did_you_mean(name, self.ids) if self.ids else "Leave src_lang and tgt_lang out.",
            )
        return token

    def read_as(self, source: str | None) -> Mapping[int, int]:
        """What the tokens that the tokenizer puts beside a text are to be, for a text in `source`."""
        if source is None:
            return {}
        token = self.token(source)
        return dict.fromkeys(self.ids.values(), token)

    def first(self, target: str | None, said: int | None, start: int | None) -> int | None:
        """The token that a text in `target` begins with.

        Args:
            said, start: `forced_bos_token_id` and `decoder_start_token_id` of the settings.

        Raises:
            UsageError: nobody says in which language to write.
        """
        if target is not None:
            return self.token(target)
        if not self.ids or said is not None or start in self.ids.values():
            return said
        if self.target is None:
            raise UsageError(
                "This model translates between many languages.",
                hint=f"Give src_lang and tgt_lang, in its own spelling, such as {next(iter(self.ids))}.",
            )
        return self.token(self.target)
