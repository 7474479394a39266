"""Faults in files: configs, tokenizers, preprocessors, and bytes of any file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.planted.fault import NothingToPlantError
from benchmarks.planted.stages import Written

Plant = Callable[[Path], None]


def document(name: str, change: Callable[[Any], Any]) -> Plant:
    """Change a JSON file in a folder; what `change` returns, if anything, takes the document's place."""

    def plant(folder: Path) -> None:
        path = _found(folder, name)
        content = json.loads(path.read_text(encoding="utf-8"))
        before = json.dumps(content)
        made = change(content)
        content = content if made is None else made
        if json.dumps(content) == before:
            raise NothingToPlantError(f"{name} stays as it was")
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    return plant


def values(name: str, **settings: Any) -> Plant:
    """Set keys of a JSON file; a path of keys is joined by "__"; a callable gets the value that is there."""

    def change(content: Any) -> None:
        for key, value in settings.items():
            inner = content
            *path, last = key.split("__")
            for step in path:
                inner = inner[int(step) if step.isdigit() else step]
            last = int(last) if last.isdigit() and isinstance(inner, list) else last
            inner[last] = value(inner[last]) if callable(value) else value

    return document(name, change)


def removed(name: str, *keys: str) -> Plant:
    """Remove keys of a JSON file."""

    def change(content: Any) -> None:
        for key in keys:
            if key not in content:
                raise NothingToPlantError(f"{name} has no {key}")
            del content[key]

    return document(name, change)


def text(name: str, before: str, after: str) -> Plant:
    """Another text in a file."""

    def plant(folder: Path) -> None:
        path = _found(folder, name)
        content = path.read_text(encoding="utf-8")
        if before not in content:
            raise NothingToPlantError(f"{name} has no {before!r}")
        path.write_text(content.replace(before, after, 1), encoding="utf-8")

    return plant


def without(name: str) -> Plant:
    """A file is missing."""
    return lambda folder: _found(folder, name).unlink()


def flipped(name: str, at: float = 0.5, bit: int = 2) -> Callable[[Any], None]:
    """One bit of a byte at a part of the file."""

    def plant(where: Any) -> None:
        path = _found(_folder(where), name)
        content = bytearray(path.read_bytes())
        content[int(len(content) * at)] ^= 1 << bit
        path.write_bytes(content)

    return plant


def cut(name: str, missing: int = 100) -> Callable[[Any], None]:
    """The end of a file is missing."""

    def plant(where: Any) -> None:
        path = _found(_folder(where), name)
        path.write_bytes(path.read_bytes()[:-missing])

    return plant


def letter(name: str, before: bytes, after: bytes) -> Callable[[Any], None]:
    """Other bytes of the same length; the first that match."""

    def plant(where: Any) -> None:
        path = _found(_folder(where), name)
        content = path.read_bytes()
        if before not in content:
            raise NothingToPlantError(f"{name} has no {before!r}")
        path.write_bytes(content.replace(before, after, 1))

    return plant


def swapped_tokens(content: Any) -> None:
    """Two of the last tokens of tokenizer.json change their numbers."""
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):
        vocabulary[-2], vocabulary[-4] = vocabulary[-4], vocabulary[-2]
        return
    one, other = sorted(vocabulary, key=vocabulary.get)[-2], sorted(vocabulary, key=vocabulary.get)[-4]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


def swapped_merges(content: Any) -> None:
    """The first merges of tokenizer.json change places with later ones."""
    merges = content["model"]["merges"]
    merges[:10], merges[10:20] = merges[10:20], merges[:10]


def other_case(content: Any) -> None:
    """tokenizer.json lowers what it did not, or the other way round."""
    known = content.get("normalizer")
    if isinstance(known, dict) and "lowercase" in known:
        known["lowercase"] = not known["lowercase"]
    else:
        content["normalizer"] = {"type": "Lowercase"}


def other_template(content: Any) -> None:
    """A special token that tokenizer.json adds has another number."""
    added = content["post_processor"]
    if "sep" in added:
        added["sep"][1] += 1
    else:
        name = sorted(added["special_tokens"])[-1]
        added["special_tokens"][name]["ids"] = [5]


def swapped_values(content: Any) -> None:
    """Two of the last entries of vocab.json change their numbers."""
    one, other = sorted(content, key=content.get)[-2], sorted(content, key=content.get)[-4]
    content[one], content[other] = content[other], content[one]


def first_of(names: tuple[str, ...], key: str, change: Callable[[Any], Any]) -> Plant:
    """Change a key of the first file that has it, at any depth."""

    def plant(folder: Path) -> None:
        for name in names:
            path = folder / name
            content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            for inner in [content, *(value for value in content.values() if isinstance(value, dict))]:
                if key in inner:
                    inner[key] = change(inner[key])
                    path.write_text(json.dumps(content), encoding="utf-8")
                    return
        raise NothingToPlantError(f"no {key} in {names}")

    return plant


def extra_tensor(name: str, shape: tuple[int, ...]) -> Plant:
    """A tensor more in a checkpoint, which the model's class does not have."""

    def plant(folder: Path) -> None:
        import numpy as np
        from safetensors.numpy import load_file, save_file

        path = _found(folder, "*.safetensors")
        made = load_file(path) | {name: np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)}
        save_file(made, path, {"format": "pt"})

    return plant


# What was written


def letter_of_weight(name: str) -> Callable[[Written], None]:
    """A bit of a small weight, inside the graph file."""

    def plant(written: Written) -> None:
        import onnx

        path = written.models[0].files[0]
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            if name in tensor.name and tensor.raw_data:
                content = bytearray(path.read_bytes())
                content[content.index(tensor.raw_data) + 2] ^= 4
                path.write_bytes(content)
                return
        raise NothingToPlantError(f"no {name} in the graph")

    return plant


def exchanged_offsets(written: Written) -> None:
    """Two weights of one size read each other's bytes; the records agree with the graph."""
    import dataclasses
    import hashlib

    import onnx

    model = written.models[0]
    path = model.files[0]
    proto = onnx.load(path, load_external_data=False)
    seen: dict[tuple[int, ...], onnx.TensorProto] = {}
    for tensor in proto.graph.initializer:
        if not tensor.external_data:
            continue
        other = seen.setdefault(tuple(tensor.dims), tensor)
        if other is not tensor:
            places = [{entry.key: entry.value for entry in one.external_data} for one in (tensor, other)]
            for one, place in ((tensor, places[1]), (other, places[0])):
                for entry in one.external_data:
                    entry.value = place[entry.key]
            records = {one.name: one for one in model.weights}
            for name, place in ((tensor.name, records[other.name]), (other.name, records[tensor.name])):
                records[name] = dataclasses.replace(
                    records[name], file=place.file, offset=place.offset, checksum=place.checksum
                )
            path.write_bytes(proto.SerializeToString())
            known = {**model.sha256, path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
            written.models[0] = dataclasses.replace(model, weights=tuple(records.values()), sha256=known)
            return
    raise NothingToPlantError("no two weights of one shape")


def swapped_labels(content: Any) -> None:
    """The first two labels of a config change places."""
    labels = content.get("id2label")
    if not labels:
        raise NothingToPlantError("no id2label")
    labels["0"], labels["1"] = labels["1"], labels["0"]
    if "label2id" in content:
        content["label2id"] = {name: int(number) for number, name in labels.items()}


def _folder(where: Any) -> Path:
    return where.folder.parent if isinstance(where, Written) else Path(where)


def _found(folder: Path, name: str) -> Path:
    path = next(iter(sorted(folder.glob(name))), None)
    if path is None:
        raise NothingToPlantError(f"no {name}; there are {', '.join(sorted(p.name for p in folder.rglob('*')))[:300]}")
    return path
