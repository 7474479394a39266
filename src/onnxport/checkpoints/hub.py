"""From what a user typed to a folder: a local path, or a model of the hub in the local cache.

`huggingface_hub` is imported only for names that are no local path.
"""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

from onnxport.errors import CheckpointError, MissingDependencyError
from onnxport.system.library_errors import first_line

_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja", "*.tiktoken", "*.codes"]
# The same weights for other frameworks, other runtimes or other precisions: never needed, often many GB.
_TENSORFLOW = "tf_model*"
_UNWANTED = [
    "onnx/*", "openvino/*", "coreml/*", "original/*", "flax_model*", _TENSORFLOW, "rust_model*",
    "consolidated*.safetensors", "*.fp16.safetensors", "*.bf16.safetensors", "*.gguf", "*.onnx*",
]  # fmt: skip


def looks_like_path(name: str) -> bool:
    """Whether `name` can only have been meant as a path, never as a model of the hub ("user/model")."""
    if name.startswith((".", "/", "~")) or "\\" in name or name.endswith("/") or name.count("/") > 1:
        return True
    parent, slash, _ = name.partition("/")
    return bool(slash) and Path(parent).is_dir()


def resolve_folder(
    name: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    framework: str | None = None,
) -> Path:
    """The local folder (or file) that `name` means, downloading a model of the hub when it is no path.

    Args:
        name: a path, or "model" / "user/model".
        revision: branch, tag or commit of a hub model.
        token: access token of a hub model; True takes the stored one.
        allow_pickle: also download pickled weights.
        trust_remote_code: also download the model's Python files.
        framework: "tf" also downloads TensorFlow's weights.

    Raises:
        CheckpointError: no such folder; or the hub has no such model, refuses it or cannot be reached.
        MissingDependencyError: a hub name, and huggingface_hub is not installed.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if isinstance(name, Path) or looks_like_path(name):
        others = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, others, n=3)
        hint = "Give a folder that holds config.json and the weights."
        if close:
            hint = f"Did you mean {' or '.join(str(path.parent / other) for other in close)}?"
        raise CheckpointError(f"There is no folder {str(name)!r}.", hint=hint)
    return _download(name, revision, token, allow_pickle, trust_remote_code, framework == "tf")


def _download(
    name: str,
    revision: str | None,
    token: str | bool | None,
    allow_pickle: bool,
    trust_remote_code: bool,
    tensorflow: bool,
) -> Path:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingDependencyError(
            f"There is no folder {name!r} here, and fetching a model by name needs huggingface_hub.",
            hint='pip install "onnxport[pytorch]"',
        )
    import huggingface_hub
    from huggingface_hub import errors

    wanted = [
        *_WANTED,
        *(["*.bin", "*.bin.index.json"] if allow_pickle else []),
        *(["*.py"] if trust_remote_code else []),
        *([_TENSORFLOW] if tensorflow else []),
    ]
    unwanted = [pattern for pattern in _UNWANTED if not (tensorflow and pattern == _TENSORFLOW)]
    no_model = f"There is no folder {name!r} here, and "
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, token=token, allow_patterns=wanted, ignore_patterns=unwanted
            )
        )
    except errors.GatedRepoError:  # before its base class RepositoryNotFoundError
        message = f"The hub's model {name!r} is gated: its authors must let you in."
        hint = "Accept its conditions on its page, then `hf auth login`."
    except errors.RepositoryNotFoundError:
        message = f"{no_model}the hub has no public model of that name."
        hint = "Check the spelling; for a private model `hf auth login` first."
    except errors.RevisionNotFoundError:
        message = f"The hub's model {name!r} has no revision {revision!r}."
        hint = "Leave `--revision` out, or give a branch, tag or commit of it."
    except errors.HFValidationError:
        message = f"{no_model}it cannot be the name of a model of the hub."
        hint = "Give a folder that holds config.json and weights, or a name like 'user/model'."
    except errors.HfHubHTTPError as error:  # an OSError too: before the network's own errors
        message = f"The hub did not deliver the model {name!r} ({first_line(error)})."
        hint = "Try again later, or give a local folder."
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        message = f"{no_model}the hub cannot be reached ({first_line(error)})."
        hint = "Give a local folder, or try again with a connection."
    raise CheckpointError(f"{message}", hint=hint)
