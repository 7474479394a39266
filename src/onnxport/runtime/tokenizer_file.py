"""A folder's tokenizer.json, read with the tokenizers package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxport.errors import FolderError, UnknownPreprocessingError
from onnxport.formats.json_file import LARGEST, read_bytes, read_object
from onnxport.system.library_errors import bad_input

# Other forms of a vocabulary, which classes of transformers read.
_OTHER_FILES = ("vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, as a `tokenizers.Tokenizer`.

    Raises:
        FolderError: the folder has no tokenizer, or the file cannot be read.
        UnknownPreprocessingError: the tokenizer is in another form.
    """
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file() and any((folder / name).is_file() for name in _OTHER_FILES):
        config = folder / "tokenizer_config.json"
        name = read_object(config).get("tokenizer_class") if config.is_file() else None
        raise UnknownPreprocessingError(f"The tokenizer {name or 'of the folder'}, which has no tokenizer.json,")
    if not file.is_file():
        raise FolderError(
            f"{folder} has no tokenizer.json, which is needed to encode texts.",
            hint="Convert a checkpoint with a tokenizer, or pass token ids to onnxport.runtime.generation.",
        )
    with bad_input(FolderError, f"{file} cannot be read by tokenizers", "Copy it again from the checkpoint."):
        read_bytes(file, LARGEST)  # its size, before Rust code makes objects of it
        return Tokenizer.from_file(str(file))
