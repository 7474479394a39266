"""Which files of a checkpoint hold its weights, and whether they are whole. Standard library only."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxport.errors import CheckpointError, UntrustedCheckpointError
from onnxport.formats.gguf_file import read_gguf_header
from onnxport.formats.hdf5_file import hdf5_fault
from onnxport.formats.json_file import read_json, read_object
from onnxport.formats.safetensors_file import read_header

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
# What a training run leaves beside the weights: pickled, but nobody needs to read it.
_TRAINER_FILES = frozenset({"training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"})


@dataclass(frozen=True)
class Weights:
    """The weight files of a checkpoint.

    Attributes:
        files: the files that will be read, at least one.
        format: "safetensors", "pickle", "gguf" or "h5".
        framework: "pt" or "tf".
        dtype: main floating point type ("float32", "bfloat16"), None where the format does not tell.
        tensors: how many there are, None where the format does not tell.
    """

    files: tuple[Path, ...]
    format: str
    framework: str
    dtype: str | None = None
    tensors: int | None = None


def find_weights(folder: Path, config: dict[str, Any], *, allow_pickle: bool, framework: str | None = None) -> Weights:
    """The weights that the loaders will read, in the order in which transformers prefers them.

    Args:
        framework: "tf": those that TF classes read, their own before others; else those of PyTorch come first.

    Raises:
        CheckpointError: none; a shard is missing; a file is cut off or corrupt.
        UntrustedCheckpointError: only pickled ones, and `allow_pickle` is False.
    """
    if framework == "tf":
        return _for_tensorflow(folder)
    named = config.get("transformers_weights")  # a file name that transformers takes before all others
    if isinstance(named, str) and named:
        if not (folder / named).resolve().is_relative_to(folder.resolve()):
            raise _fault(folder, f"names weights outside of the folder in config.json ({named!r})")
        if not (folder / named).is_file():
            raise _fault(folder, f"lacks {named}, which config.json names as its weights")
        if named.endswith(".safetensors"):
            return _safetensors(folder, (folder / named,))
        if named.endswith(".safetensors.index.json"):
            return _safetensors(folder, _shards(folder / named))
        return _pickles(folder, (folder / named,), allow_pickle)
    if (folder / "model.safetensors").is_file():
        return _safetensors(folder, (folder / "model.safetensors",))
    if (folder / "model.safetensors.index.json").is_file():
        return _safetensors(folder, _shards(folder / "model.safetensors.index.json"))
    if (folder / "pytorch_model.bin").is_file():
        return _pickles(folder, (folder / "pytorch_model.bin",), allow_pickle)
    if (folder / "pytorch_model.bin.index.json").is_file():
        return _pickles(folder, _shards(folder / "pytorch_model.bin.index.json"), allow_pickle)
    hdf5 = _hdf5(folder)
    if hdf5 is not None:
        return hdf5
    gguf = find_gguf(folder)
    if gguf is not None:
        return gguf_weights(gguf)
    raise _no_weights(folder)


def _for_tensorflow(folder: Path) -> Weights:
    """What TF classes read: safetensors that they wrote, HDF5, or safetensors of PyTorch."""
    found = [
        _safetensors(folder, (folder / name,) if name.endswith("s") else _shards(folder / name))
        for name in ("model.safetensors", "model.safetensors.index.json")
        if (folder / name).is_file()
    ]
    hdf5 = _hdf5(folder)
    own = [weights for weights in found if weights.framework == "tf"]
    for weights in (*own[:1], hdf5, *found[:1]):
        if weights is not None:
            return weights
    pickles = [name for name in ("pytorch_model.bin", "pytorch_model.bin.index.json") if (folder / name).is_file()]
    if pickles:
        raise _fault(
            folder, f"has no weights that TensorFlow reads, only pickled ones of PyTorch ({pickles[0]})",
            "Use `--framework pt`, or save it again as safetensors with PyTorch's `save_pretrained`.",
        )  # fmt: skip
    raise _no_weights(folder)


def _hdf5(folder: Path) -> Weights | None:
    """tf_model.h5, of one file or several; None where there is none."""
    index = folder / "tf_model.h5.index.json"
    files: tuple[Path, ...] = (folder / "tf_model.h5",) if (folder / "tf_model.h5").is_file() else ()
    if not files and index.is_file():
        files = _shards(index)
    for file in files:
        fault = hdf5_fault(file)
        if fault is not None:
            raise CheckpointError(f"{file.name} of {folder} {fault}.", hint="Copy or download the file again.")
    return Weights(files, "h5", "tf") if files else None


def find_gguf(folder: Path) -> Path | None:
    """The GGUF file in `folder`, None where there is none.

    Raises:
        CheckpointError: there are several.
    """
    files = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() == ".gguf" and entry.is_file())
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4]) + (", ..." if len(files) > 4 else "")
        raise _fault(folder, f"holds {len(files)} GGUF files ({names})", f"Give one of them, like {files[0]}.")
    return files[0] if files else None


def gguf_weights(file: Path) -> Weights:
    """A GGUF file as weights; `dtype` is None where they are quantized.

    Raises:
        CheckpointError: the file is cut off or corrupt, or a part of a model that is split over several.
    """
    header = read_gguf_header(file)
    parts = header.values.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise CheckpointError(
            f"{file.name} is one of {parts} parts of a model.",
            hint="Join them first: `llama-gguf-split --merge FIRST_PART WHOLE`.",
        )
    return Weights((file,), "gguf", "pt", header.dtype, len(header.tensors))


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index names, all of them present, each holding what the index says."""
    document = read_json(index)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise _fault(index.parent, f"has an index without a weight_map: {index.name}")
    names = sorted({str(name) for name in weight_map.values()})
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise _fault(index.parent, f"has an index that names files outside of the folder ({outside[0]!r})")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        what = f"lacks {len(missing)} of its {len(names)} weight files ({shown}), named in {index.name}"
        raise _fault(index.parent, what, "Copy or download the missing files.")
    if index.name.endswith(".safetensors.index.json"):
        held = {name: read_header(index.parent / name).tensors for name in names}
        for tensor, name in weight_map.items():
            if tensor not in held[str(name)]:
                raise _fault(index.parent, f"is inconsistent: {index.name} says that {name} holds {tensor!r}")
    return tuple(index.parent / name for name in names)


def _safetensors(folder: Path, files: tuple[Path, ...]) -> Weights:
    headers = [read_header(file) for file in files]
    written_by = {header.metadata.get("format") for header in headers}
    if written_by & {"flax", "mlx"}:
        raise _fault(folder, f"holds weights for {', '.join(sorted(str(name) for name in written_by))}")
    if not any(header.tensors for header in headers):
        raise _fault(folder, f"holds no tensors in {files[0].name}")
    sizes: dict[str, int] = {}
    for file, header in zip(files, headers, strict=True):
        if header.main_dtype is not None:
            sizes[header.main_dtype] = sizes.get(header.main_dtype, 0) + file.stat().st_size
    dtype = max(sizes, key=lambda name: sizes[name]) if sizes else None
    count = sum(len(header.tensors) for header in headers)
    return Weights(files, "safetensors", "tf" if written_by == {"tf"} else "pt", dtype, count)


def _pickles(folder: Path, files: tuple[Path, ...], allow_pickle: bool) -> Weights:
    if not allow_pickle:
        raise UntrustedCheckpointError(
            f"{folder} has its weights only as pickle ({files[0].name}), a format that can run code when it is read. "
            "Nothing was read.",
            hint="If you trust its origin, add `--allow-pickle`; or save it again with `save_pretrained`.",
        )
    for file in files:
        with file.open("rb") as opened:
            start = opened.read(23)
        if start.startswith(b"version https://git-lfs"):
            raise CheckpointError(
                f"{file.name} is a Git LFS pointer, not the weights.",
                hint="Run `git lfs pull` in the folder.",
            )
        # torch has written zip archives since 1.6; their directory is at the end, the part that a cut takes first.
        if not start or (start.startswith(b"PK") and not zipfile.is_zipfile(file)):
            raise CheckpointError(f"{file.name} is cut off or empty.", hint="Copy or download the file again.")
    return Weights(files, "pickle", "pt")


def _no_weights(folder: Path) -> CheckpointError:
    """The error for a folder with a config.json and no weights that could be loaded."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    safetensors = [name for name in names if name.endswith(".safetensors") and not name.startswith("adapter_")]
    pickles = [
        name
        for name in names
        if Path(name).suffix in _PICKLE_SUFFIXES
        and name not in _TRAINER_FILES
        and not name.startswith(("rng_state", "adapter_"))
    ]
    if "adapter_config.json" in names:
        return _fault(folder, *adapter_fault(folder))
    if safetensors:
        what = f"has weights under another name ({safetensors[0]})"
        return _fault(folder, what, f"Rename {safetensors[0]} to model.safetensors if these are the ones to convert.")
    if pickles:
        return UntrustedCheckpointError(
            f"{folder} has only pickled weights under a name of their own ({pickles[0]}). Nothing was read.",
            hint="Load them in Python, if you trust their origin, and write the model with `save_pretrained`.",
        )
    if any(name.startswith("flax_model") for name in names):
        return _fault(folder, "has only Flax weights", "Load it with Flax support, and save it as safetensors.")
    hint = "Copy model.safetensors there. For a hub model that has only pytorch_model.bin, add `--allow-pickle`."
    return _fault(folder, f"has a config.json and no weights (it holds {', '.join(names[:8])})", hint)


def _fault(folder: Path, what: str, hint: str = "Copy or download the checkpoint again.") -> CheckpointError:
    return CheckpointError(f"{folder} {what}.", hint=hint)


def adapter_fault(folder: Path) -> tuple[str, str]:
    """(what is wrong, hint) for a folder that holds an adapter and no base weights."""
    settings = read_object(folder / "adapter_config.json")
    base = settings.get("base_model_name_or_path") or "its base model"
    what = f"holds only an adapter ({settings.get('peft_type', 'PEFT')}) for {base}, no weights of its own"
    return what, "Merge it with peft's `merge_and_unload()`, `save_pretrained` the result, and convert that."
