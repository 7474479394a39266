"""Tokenizer, image processor, feature extractor and processor of a checkpoint, with readable errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxport.checkpoints.hub import resolve_folder
from onnxport.errors import CheckpointError, MissingDependencyError, OnnxPortError, UntrustedCheckpointError
from onnxport.formats.json_file import read_json
from onnxport.system.library_errors import first_line

# A vocabulary in any of the forms that tokenizers are kept in.
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "source.spm",
    "spm.model",
    "bpe.codes",
    "merges.txt",
    "tekken.json",
)
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Components:
    """What prepares a model's inputs; None for what the task does not use or the checkpoint lacks."""

    tokenizer: Any = None
    image_processor: Any = None
    feature_extractor: Any = None
    processor: Any = None
    notes: tuple[str, ...] = ()
    complete: bool = True  # everything that the pipeline class must have is there

    def arguments(self) -> dict[str, Any]:
        """Those that are there, as keyword arguments of a pipeline class."""
        named = {
            "tokenizer": self.tokenizer,
            "image_processor": self.image_processor,
            "feature_extractor": self.feature_extractor,
            "processor": self.processor,
        }
        return {name: component for name, component in named.items() if component is not None}


def load_components(
    folder: Path | None,
    pipeline_class: type[Any],
    given: dict[str, Any],
    *,
    trust_remote_code: bool = False,
    vocabulary_size: int | None = None,
) -> Components:
    """Load what `pipeline_class` uses.

    Args:
        folder: the checkpoint, or None for a live model without one.
        pipeline_class: its `_load_...` flags say what it must have, may have and never uses.
        given: "tokenizer", "image_processor", "feature_extractor", "processor": a live object,
            a folder or hub name to load it from, or None.
        trust_remote_code: allow classes that the checkpoint brings along.
        vocabulary_size: rows of the model's embedding; a larger tokenizer gets a note.

    Raises:
        CheckpointError: one is there, but cannot be loaded; or was given and does not exist.
        UntrustedCheckpointError: one needs code from the checkpoint.
        MissingDependencyError: one needs a library that is not installed.
    """
    loaded: dict[str, Any] = {}
    notes: list[str] = []
    complete = True
    for name, loader in LOADERS.items():
        wanted = getattr(pipeline_class, f"_load_{name}")  # True: must have; None: may have; False: never
        value = given.get(name)
        if isinstance(value, (str, Path)):
            value = _load(name, loader, resolve_folder(value), trust_remote_code)
            if value is None:
                raise CheckpointError(
                    f"There is no {name.replace('_', ' ')} in {given[name]}.",
                    hint=f"Give a folder that has one, or leave `{name}` out.",
                )
        elif value is None and wanted is not False and folder is not None:
            value = _load(name, loader, folder, trust_remote_code)
        loaded[name] = value
        if value is None and wanted is True:
            complete = False
            notes.append(f"There is no {name.replace('_', ' ')} in the checkpoint; inputs are generated.")
    tokenizer = loaded["tokenizer"]
    if tokenizer is not None and vocabulary_size is not None and len(tokenizer) > vocabulary_size:
        notes.append(
            f"The tokenizer has {len(tokenizer)} tokens, the model {vocabulary_size}: "
            "tokens that were added and never trained cannot be run."
        )
    return Components(**loaded, notes=tuple(notes), complete=complete)


def has_vocabulary(folder: Path) -> bool:
    """Whether there are files that a tokenizer is made of."""
    return any((folder / name).is_file() for name in _VOCABULARIES) or any(folder.glob("*.tiktoken"))


def _load(name: str, loader: Callable[[Path, bool], Any], folder: Path, trust_remote_code: bool) -> Any:
    """Run one loader; whatever it raises becomes an error that names the component."""
    what = name.replace("_", " ")
    try:
        return loader(folder, trust_remote_code)
    except OnnxPortError:
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"The {what} of {folder} needs a library that is not installed ({first_line(error)}).",
            hint=_install_hint(error),
        ) from error
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UntrustedCheckpointError(
                f"The {what} of {folder} is Python code from the checkpoint. Nothing was run.",
                hint=f"Read that code; if you trust it, add `--trust-remote-code`; or give another {what}.",
            ) from None
        raise CheckpointError(
            f"The {what} of {folder} cannot be loaded ({first_line(error)}).",
            hint=f"Copy or download its files again, or give another {what}.",
        ) from error


def _load_tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    """The tokenizer, or None where the checkpoint has none."""
    from transformers import AutoTokenizer

    if has_vocabulary(folder):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    # Without a vocabulary transformers makes up one of five tokens. Only tokenizers that need
    # none (bytes, code points) are real then.
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception:
        return None
    return None if tokenizer.vocab_files_names else tokenizer


def _load_image_processor(folder: Path, trust_remote_code: bool) -> Any:
    """The image processor, or None where the checkpoint has none."""
    keys = {"image_processor_type", "image_processor", "image_mean", "do_resize"}
    if not any(keys & settings for settings in _settings(folder)):
        return None
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)


def _load_feature_extractor(folder: Path, trust_remote_code: bool) -> Any:
    """The feature extractor (audio), or None where the checkpoint has none."""
    keys = {"feature_extractor_type", "feature_extractor", "sampling_rate"}
    # Old image checkpoints also call theirs a feature extractor.
    if not any(keys & settings and not {"image_mean", "do_resize"} & settings for settings in _settings(folder)):
        return None
    from transformers import AutoFeatureExtractor

    return AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)


def _load_processor(folder: Path, trust_remote_code: bool) -> Any:
    """The processor of a model with several kinds of inputs, or None where the checkpoint has none."""
    if not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        return None
    from transformers import AutoProcessor, ProcessorMixin

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    return processor if isinstance(processor, ProcessorMixin) else None


def _settings(folder: Path) -> list[set[str]]:
    """The keys of every preprocessing file of the checkpoint."""
    documents = [read_json(folder / name) for name in _PROCESSOR_FILES if (folder / name).is_file()]
    return [set(document) for document in documents if isinstance(document, dict)]


def _install_hint(error: ImportError) -> str:
    known = ("torchvision", "timm", "sentencepiece", "pillow", "torchaudio", "librosa", "scipy", "tiktoken")
    missing = [library for library in known if library in str(error).lower()]
    return f"pip install {' '.join(missing)}" if missing else f"pip install {error.name or 'the library it names'}"


# Name of a component -> what loads it from a folder, and whether code of the checkpoint may run.
LOADERS: dict[str, Callable[[Path, bool], Any]] = {
    "tokenizer": _load_tokenizer,
    "image_processor": _load_image_processor,
    "feature_extractor": _load_feature_extractor,
    "processor": _load_processor,
}
