"""Checkpoints and Keras files that must not be converted. Made of bytes: no framework writes or refuses them."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONFIG = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
SECRET = "the content of a file of the user's"


def safetensors(header: Any, data: bytes = bytes(4)) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


GOOD_WEIGHTS = safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})


def checkpoint(folder: Path, config: Any = CONFIG, weights: bytes = GOOD_WEIGHTS, **files: str | bytes) -> Path:
    """A folder with config.json and model.safetensors; `files` are further ones, with "_dot_" for a point."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    (folder / "model.safetensors").write_bytes(weights)
    for name, content in files.items():
        path = folder / name.replace("_dot_", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def _linked(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder.parent / "secret").write_text(SECRET)
        checkpoint(folder)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(folder.parent / "secret")
        return folder

    return make


def _linked_folder(folder: Path) -> Path:
    outside = folder.parent / "1_Pooling"
    outside.mkdir()
    (outside / "config.json").write_text(SECRET)
    checkpoint(folder, modules_dot_json="[]")
    (folder / "1_Pooling").symlink_to(outside)
    return folder


def _sparse(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        checkpoint(folder)
        with (folder / name).open("wb") as file:
            file.truncate(6 * 2**30)
        return folder

    return make


def _config(**changes: Any) -> Callable[[Path], Path]:
    return lambda folder: checkpoint(folder, {**CONFIG, **changes})


def _weights(content: bytes) -> Callable[[Path], Path]:
    return lambda folder: checkpoint(folder, weights=content)


def _entry(**changes: Any) -> Callable[[Path], Path]:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}
    return _weights(safetensors({"a": entry}))


def _file(name: str, content: str | bytes) -> Callable[[Path], Path]:
    return lambda folder: checkpoint(folder, **{name.replace(".", "_dot_"): content})


def _index(document: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        checkpoint(folder, model_dot_safetensors_dot_index_dot_json=json.dumps(document))
        (folder / "model.safetensors").unlink()
        return folder

    return make


def _gguf(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir()
        (folder / "model.gguf").write_bytes(content)
        return folder / "model.gguf"

    return make


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(*values: bytes, tensors: bytes = b"", count: int = 1) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, count, 1 + len(values))
    return head + _text("general.architecture") + struct.pack("<I", 8) + _text("llama") + b"".join(values) + tensors


def _keras(method: int = zipfile.ZIP_STORED, *, flags: int = 0, **parts: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir()
        path = folder / "model.keras"
        files = {"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": b""}
        files |= {name.replace("_dot_", "."): content for name, content in parts.items()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        raw = bytearray(path.read_bytes())
        if method or flags:  # in the central directory and in the local headers
            for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
                at = raw.find(mark)
                while at >= 0:
                    raw[at + place] |= flags
                    raw[at + place + 2 : at + place + 4] = struct.pack("<H", method or 8)
                    at = raw.find(mark, at + 4)
            path.write_bytes(raw)
        return path

    return make


def _bomb(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("config.json", "metadata.json"):
            archive.writestr(name, "{}")
        with archive.open("model.weights.h5", "w") as file:
            for _ in range(300):
                file.write(bytes(2**20))
    return path


def _h5(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir()
        (folder / "model.h5").write_bytes(content)
        return folder / "model.h5"

    return make


_DEEP = b'{"a":' * 90_000 + b"1" + b"}" * 90_000
_RATHER_DEEP = b'{"a":' * 500 + b"1" + b"}" * 500
_DIGITS = b'{"model_type": ' + b"9" * 6000 + b"}"

# Name -> (words of the message, what makes the input in a folder that is not there yet; its path).
INPUTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    **{
        f"link-{name}": ("is a link out of the checkpoint", _linked(name))
        for name in (
            "vocab.txt", "merges.txt", "spiece.model", "chat_template.jinja", "added_tokens.json", "tokenizer.json",
            "config.json", "model.safetensors", "1_Pooling/config.json", "generation_config.json",
        )
    },
    "link-folder": ("is a link out of the checkpoint", _linked_folder),
    "sparse-config": ("config.json", _sparse("config.json")),
    "sparse-tokenizer": ("tokenizer.json", _sparse("tokenizer.json")),
    "deep-config": ("nested", lambda f: checkpoint(f, _DEEP)),
    "rather-deep-config": ("nested", lambda f: checkpoint(f, _RATHER_DEEP)),
    "number-of-6000-digits": ("not valid JSON", lambda f: checkpoint(f, _DIGITS)),
    "config-is-a-list": ("not a JSON object", lambda f: checkpoint(f, [1])),
    "a-million-layers": ("num_hidden_layers", _config(num_hidden_layers=10**6)),
    "layers-of-a-part": ("num_hidden_layers", _config(text_config={"num_hidden_layers": 10**9})),
    "a-billion-labels": ("num_labels", _config(num_labels=10**9)),
    "a-billion-channels": ("num_channels", _config(num_channels=10**9)),
    "layers-as-a-float": ("num_hidden_layers", _config(num_hidden_layers=1e300)),
    "auto-map-is-a-number": ("--trust-remote-code", _config(auto_map=5, model_type="strange")),
    "auto-map-of-numbers": ("--trust-remote-code", _config(auto_map={"AutoModel": 5}, model_type="strange")),
    "weights-name-with-nul": ("", _config(transformers_weights="a\0b.safetensors")),
    "weights-name-too-long": ("", _config(transformers_weights="a" * 5000)),
    "weights-outside": ("outside", _config(transformers_weights="../other.safetensors")),
    "modules-is-a-number": ("modules.json", _file("modules.json", "5")),
    "modules-path-is-a-list": ("", _file("modules.json", '[{"path": [1], "type": 3}]')),
    "tokenizer-config-is-broken": ("tokenizer_config.json", _file("tokenizer_config.json", "{")),
    "header-that-is-deep": ("corrupt", _weights(safetensors(_DEEP))),
    "header-offsets-infinite": ("corrupt", _weights(safetensors(
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}'))),
    "header-shape-infinite": ("corrupt", _weights(safetensors(
        b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 4]}}'))),
    "header-shape-negative": ("corrupt", _entry(shape=[-1, -1])),
    "header-of-lists": ("corrupt", _weights(safetensors({"a": [1, 2]}))),
    "header-too-long": ("safetensors", _weights(struct.pack("<Q", 2**62) + b"{}")),
    "metadata-of-lists": ("", lambda f: checkpoint(f, {**CONFIG, "num_labels": 10**9}, safetensors(
        {"__metadata__": {"format": ["pt"]}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}))),
    "index-with-nul": ("", _index({"weight_map": {"a": "b\0c.safetensors"}})),
    "index-outside": ("outside", _index({"weight_map": {"a": "../b.safetensors"}})),
    "index-name-too-long": ("", _index({"weight_map": {"a": "b" * 5000}})),
    "index-of-numbers": ("", _index({"weight_map": {"a": 5}})),
    "index-is-a-list": ("index", _index([1])),
    "gguf-count": ("cut off", _gguf(gguf(count=2**62))),
    "gguf-string": ("cut off", _gguf(b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 2**62))),
    "gguf-alignment": ("", _gguf(gguf(_text("general.alignment") + struct.pack("<IQ", 10, 2**63)))),
    "gguf-offset": ("", _gguf(gguf(
        tensors=_text("t") + struct.pack("<IQIQ", 1, 2**62, 0, 2**63)))),
    "keras-bomb": ("unpacked", _bomb),
    "keras-encrypted": ("", _keras(8, flags=1)),
    "keras-unknown-method": ("", _keras(99)),
    "keras-deep-config": ("", _keras(config_dot_json=_DEEP)),
    "keras-config-not-text": ("", _keras(config_dot_json=b"\xff\xfe")),
    "h5-garbage": ("HDF5", _h5(b"no file")),
}  # fmt: skip
