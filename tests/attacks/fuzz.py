"""`make fuzz`: random damage to every format that is read, for a given time.

    python -m tests.attacks.fuzz [--seconds 60] [--seed 0] [--only FORMAT]

An input is a sound file with a few changes, chosen by a seed. Every exception that is no
OnnxPortError is a failure, and so are more than 10 s or 500 MiB for one input. A failure is printed with what made it.

No framework is imported: what is fuzzed is onnxport's own reading, which stands before any framework.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from onnxport.artifact.folder import open_folder
from onnxport.artifact.graph_findings import find_faults
from onnxport.artifact.hashes import check_files
from onnxport.artifact.manifest_json import from_json
from onnxport.checkpoints.checkpoint import inspect_checkpoint
from onnxport.checkpoints.tensorflow_files import find_tensorflow_files
from onnxport.errors import OnnxPortError
from onnxport.formats.gguf_file import read_gguf_header
from onnxport.formats.safetensors_file import read_header
from onnxport.graph.inputs import random_inputs, verified_sizes, vocabulary_size
from onnxport.loading.resolve import resolve_model
from onnxport.runtime.prompts.tokenizer import FolderTokenizer
from onnxport.system.memory import anonymous_bytes
from tests.attacks import checkpoints, folders, onnx_files, saved_models

SECONDS, BYTES = 10.0, 500 * 2**20
_INTERESTING = (0, 1, -1, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63, -(2**63), 10**30)
_VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**40, 1e308, float("inf"), float("nan"), "", "a", "\0", "..", "../x",
    "/etc/passwd", "\ud800", "a" * 3000, "é", [], {}, [[]], [None], {"": None}, [1, "a", None], {"a": {"b": {"c": []}}},
)  # fmt: skip


def damage(content: bytes, dice: random.Random) -> bytes:
    """A few changes of bytes: flips, numbers at their ends, cuts, repetitions."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
            case 1 if at < len(data):
                data[at] = dice.randrange(256)
            case 2:
                width, value = dice.choice((1, 2, 4, 8)), dice.choice(_INTERESTING)
                data[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
            case 3:
                del data[at : at + dice.choice((1, 2, 8, 64))]
            case 4:
                data[at:at] = data[at : at + dice.choice((1, 4, 32, 256))]
            case _:
                data[at:at] = bytes(dice.randrange(256) for _ in range(dice.choice((1, 3, 9))))
    return bytes(data)


def change(document: object, dice: random.Random) -> object:
    """A JSON document with a value replaced, a key removed or one added, somewhere inside."""
    if isinstance(document, dict) and document and dice.random() < 0.9:
        key = dice.choice(list(document))
        match dice.randrange(8):
            case 0:
                return {name: value for name, value in document.items() if name != key}
            case 1:
                return {**document, dice.choice(("a", "", "\0", "weight_map", "auto_map")): dice.choice(_VALUES)}
        return {**document, key: change(document[key], dice)}
    if isinstance(document, list) and document and dice.random() < 0.9:
        at = dice.randrange(len(document))
        if dice.randrange(8) == 0:
            return document * dice.choice((0, 2, 50))
        return [*document[:at], change(document[at], dice), *document[at + 1 :]]
    return dice.choice(_VALUES)


def text_of(document: object, dice: random.Random) -> bytes:
    for _ in range(dice.choice((1, 1, 2, 4))):
        document = change(document, dice)
    content = json.dumps(document).encode()
    return damage(content, dice) if dice.randrange(4) == 0 else content


_CONFIG = {
    **checkpoints.CONFIG, "num_hidden_layers": 2, "hidden_size": 8, "vocab_size": 100, "id2label": {"0": "a"},
    "torch_dtype": "float32", "text_config": {"num_hidden_layers": 2}, "auto_map": {"AutoModel": "code.Model"},
    "quantization_config": None, "transformers_weights": "model.safetensors", "architectures": ["BertModel"],
}  # fmt: skip
_TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None,
    "added_tokens": [{"id": 2, "content": "[X]", "single_word": False, "lstrip": False, "rstrip": False,
                      "normalized": False, "special": True}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": ""},
                                                       {"type": "Lowercase"}]},
    "pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}},
                                                                {"Sequence": {"id": "A", "type_id": 0}}],
                       "pair": [], "special_tokens": {"[X]": {"id": "[X]", "ids": [2], "tokens": ["[X]"]}}},
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "##",
              "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
              "vocab": {"a": 0, "b": 1, "[X]": 2, "ab": 3, "##b": 4}, "merges": ["a ##b"]},
}  # fmt: skip
_HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def fuzz_manifest(folder: Path, dice: random.Random) -> None:
    if dice.randrange(2):
        folders.sound(folder)
        document = json.loads((folder / "onnxport.json").read_text())
        (folder / "onnxport.json").write_bytes(text_of(document, dice))
        opened = open_folder(folder)
        check_files(folder, opened.manifest)
        for component in opened.manifest.components:
            for sizes in verified_sizes(component):
                random_inputs(component.inputs, sizes, vocabulary_size(folder), 0)
    else:
        content = damage(json.dumps(_manifest()).encode(), dice)
        from_json(content.decode("utf-8", errors="replace"))


def _manifest() -> object:
    with tempfile.TemporaryDirectory() as name:
        return json.loads((folders.sound(Path(name) / "m") / "onnxport.json").read_text())


def fuzz_config(folder: Path, dice: random.Random) -> None:
    checkpoints.checkpoint(folder, text_of(_CONFIG, dice))
    if dice.randrange(3) == 0:
        modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
        (folder / "modules.json").write_bytes(text_of(modules, dice))
    if dice.randrange(3) == 0:
        (folder / "model.safetensors").rename(folder / "one.safetensors")
        index = {"metadata": {}, "weight_map": {"a": "one.safetensors"}}
        (folder / "model.safetensors.index.json").write_bytes(text_of(index, dice))
    resolve_model(folder)


def fuzz_tokenizer(folder: Path, dice: random.Random) -> None:
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(text_of(_TOKENIZER, dice))
    FolderTokenizer(folder).encode(["a b ab", "é"], 0, "left")


def fuzz_safetensors(folder: Path, dice: random.Random) -> None:
    folder.mkdir()
    file = folder / "model.safetensors"
    header = json.dumps(_HEADER).encode() if dice.randrange(2) else text_of(_HEADER, dice)
    content = checkpoints.safetensors(header, bytes(32))
    file.write_bytes(damage(content, dice) if dice.randrange(2) else content)
    read_header(file)


def fuzz_gguf(folder: Path, dice: random.Random) -> None:
    folder.mkdir()
    alignment = struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<II", 4, 32)
    words = struct.pack("<Q", 6) + b"tokens" + struct.pack("<IIQ", 9, 8, 2) + (struct.pack("<Q", 1) + b"a") * 2
    tensor = struct.pack("<Q", 1) + b"t" + struct.pack("<IQIQ", 1, 8, 0, 0)
    file = folder / "model.gguf"
    file.write_bytes(damage(checkpoints.gguf(alignment, words, tensors=tensor) + bytes(128), dice))
    read_gguf_header(file)
    inspect_checkpoint(file)


def fuzz_keras(folder: Path, dice: random.Random) -> None:
    folder.mkdir()
    config = {
        "module": "keras", "class_name": "Sequential", "registered_name": "keras_hub>A",
        "config": {"layers": [{"module": "keras.layers", "class_name": "Dense", "config": {"units": 3}}]},
    }  # fmt: skip
    file = folder / dice.choice(("model.keras", "model.h5"))
    if file.suffix == ".h5":
        start = b"\x89HDF\r\n\x1a\n" + bytes(200)
        file.write_bytes(damage(start, dice))
    else:
        with zipfile.ZipFile(file, "w", dice.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            archive.writestr("config.json", text_of(config, dice) if dice.randrange(2) else json.dumps(config))
            archive.writestr("metadata.json", '{"keras_version": "3.0.0"}')
            archive.writestr("model.weights.h5", bytes(100))
        if dice.randrange(2):
            file.write_bytes(damage(file.read_bytes(), dice))
    resolve_model(file)


def fuzz_saved_model(folder: Path, dice: random.Random) -> None:
    contents = [*saved_models.SOUND.values(), *(content for _, content in saved_models.BAD.values())]
    saved_models.write(folder, damage(dice.choice(contents), dice))
    find_tensorflow_files(folder)


def fuzz_onnx(folder: Path, dice: random.Random) -> None:
    folder.mkdir()
    name = dice.choice([*onnx_files.FILES, ""])
    if name in ("deep-graphs", "doubling-functions", "named-pipe"):
        name = ""
    content = onnx_files.FILES[name][1](folder) if name else onnx_files.sound()
    file = folder / "model.onnx"
    file.write_bytes(damage(content, dice))
    find_faults(file)


FORMATS: dict[str, Callable[[Path, random.Random], None]] = {
    "manifest": fuzz_manifest, "config": fuzz_config, "tokenizer": fuzz_tokenizer, "safetensors": fuzz_safetensors,
    "gguf": fuzz_gguf, "keras": fuzz_keras, "saved_model": fuzz_saved_model, "onnx": fuzz_onnx,
}  # fmt: skip


def attempt(name: str, seed: int) -> str | None:
    """One input of a format; what failed, or None."""
    before, start = anonymous_bytes() or 0, time.process_time()
    with tempfile.TemporaryDirectory() as root:
        try:
            FORMATS[name](Path(root) / "m", random.Random(f"{name} {seed}"))
        except OnnxPortError:
            pass
        except KeyboardInterrupt:
            raise
        except BaseException:
            return traceback.format_exc()
    if time.process_time() - start > SECONDS:
        return f"it took {time.process_time() - start:.0f} s"
    if (anonymous_bytes() or 0) - before > BYTES:
        return f"it took {((anonymous_bytes() or 0) - before) // 2**20} MiB"
    return None


def main() -> int:
    """Run for a time; the exit code is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FORMATS)
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    failures: dict[str, str] = {}
    names = [given.only] if given.only else list(FORMATS)
    seed, end = given.seed, time.monotonic() + given.seconds
    while time.monotonic() < end:
        for name in names:
            counts[name] += 1
            if (said := attempt(name, seed)) is not None:
                last = re.sub(r"[0-9]+", "N", said.strip().splitlines()[-1])
                key = f"{name}: {last[:60]}"
                if key not in failures:
                    print(f"FAILED --only {name} --seed {seed} --seconds 0.1\n{said}", flush=True)
                failures.setdefault(key, said)
        seed += 1
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    print(f"{sum(counts.values())} inputs, {len(failures)} kinds of failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
