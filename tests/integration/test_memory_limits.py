"""`--memory-limit` is kept: by every session that any command opens, and by what a process really holds.

`test_what_commands_hold` converts a model that is larger than the limit and measures each command's anonymous memory
(RssAnon): minutes of work, so it runs with `-m sweep`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import transformers

from onnxport import convert, optimize, quantize, verify
from onnxport.errors import MemoryLimitError
from onnxport.runtime.session import OnnxSession
from onnxport.system.memory import BASE_BYTES, anonymous_bytes, may_pack, memory_limit
from onnxport.targets.genai import write_genai
from tests import tiny_tokenizers
from tests.conversions import Conversions
from tests.tiny_decoders import save_decoder

MIB = 2**20
_LIMIT = 800 * MIB
# What is counted too little: buffers of calls while they run.
_ALLOWED = 1.05


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """(file, whether its weights stay there) of every session that is opened."""
    found: list[tuple[str, bool]] = []
    right = OnnxSession.__init__

    def seen(self: OnnxSession, *args: object, **kwargs: object) -> None:
        right(self, *args, **kwargs)  # type: ignore[arg-type]
        found.append((self.file.name, self.maps_weights))

    monkeypatch.setattr(OnnxSession, "__init__", seen)
    return found


def test_every_session_of_every_operation_maps_a_large_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[tuple[str, bool]]
) -> None:
    monkeypatch.setattr("onnxport.system.memory.MAPPED_FROM_BYTES", 0)  # as if every model were large
    source, folder = tmp_path / "model", tmp_path / "out"
    save_decoder("llama", source, tokenizer=tiny_tokenizers.modernbert())
    operations: list[Callable[[], object]] = [
        lambda: convert(None, source, folder),
        lambda: verify(folder),
        lambda: verify(folder, source),
        lambda: optimize(folder),
        lambda: optimize(folder, for_="cpu"),
        lambda: optimize(folder, sizes={"batch_size": 1, "sequence_length": 4, "past_sequence_length": 32}),
        lambda: quantize(folder, "int4"),
        lambda: verify(folder, source),
        lambda: write_genai(folder, "model_fused"),
    ]
    for number, operation in enumerate(operations):
        opened.clear()
        operation()
        assert opened, number
        assert [file for file, mapped in opened if not mapped] == [], number


def test_outside_of_an_operation_weights_are_packed_if_there_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxport.system.memory.available_bytes", lambda: 10_000 * MIB)
    assert may_pack(3_900 * MIB) and not may_pack(4_100 * MIB)
    monkeypatch.setattr("onnxport.system.memory.anonymous_bytes", lambda: 700 * MIB)
    with memory_limit(1_000 * MIB):
        assert may_pack(149 * MIB) and not may_pack(151 * MIB)
        with memory_limit():  # of the block around it
            assert not may_pack(151 * MIB)
        with memory_limit(5_000 * MIB):
            assert may_pack(255 * MIB) and not may_pack(256 * MIB)


def test_what_must_hold_all_weights_is_refused_before_it_takes_them(converted: Conversions, tmp_path: Path) -> None:
    folder = converted("llama", {"tokenizer": "modernbert"}).copy(tmp_path / "out")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for operation in (lambda: optimize(folder), lambda: quantize(folder)):
        with memory_limit(BASE_BYTES + 1000), pytest.raises(MemoryLimitError) as caught:
            operation()
        assert caught.value.hint and caught.value.outcome == "Nothing was written."
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _peak_anonymous(*words: str) -> tuple[int, int, str]:
    """Run the command line; exit code, peak RssAnon in bytes, what it printed as messages."""
    command = [sys.executable, "-m", "onnxport", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak, children = 0, Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        with suppress(OSError):  # the command is a child of the process that waits for it
            pids = children.read_text().split()
            peak = max(peak, *(anonymous_bytes(Path(f"/proc/{pid}/status")) or 0 for pid in pids), 0)
        time.sleep(0.02)
    assert process.stderr is not None
    return process.returncode, peak, process.stderr.read()


@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RssAnon is Linux's")
def test_what_commands_hold(tmp_path: Path) -> None:
    source, folder = tmp_path / "model", tmp_path / "out"
    tokenizer = tiny_tokenizers.modernbert()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=1024, intermediate_size=2816, num_hidden_layers=20,
        num_attention_heads=16, num_key_value_heads=4, max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(source)
    tokenizer.save_pretrained(source)
    assert sum(file.stat().st_size for file in source.glob("*.safetensors")) > _LIMIT
    limit = ["--memory-limit", f"{_LIMIT // MIB}MiB"]
    commands = {
        "convert": ["convert", str(source), str(folder), *limit],
        "verify": ["verify", str(folder), *limit],
        "verify --against": ["verify", str(folder), "--against", str(source), *limit],
        "quantize int4": ["quantize", str(folder), "--precision", "int4", *limit],
        "optimize --for cpu": ["optimize", str(folder), "--for", "cpu", *limit],
        "target genai": ["target", "genai", str(folder), "--component", "model_q4", *limit],
        "run": ["run", str(folder), "a word", "--set", "max_new_tokens=4", *limit],
    }
    found = {name: _peak_anonymous(*words) for name, words in commands.items()}
    for name, (code, peak, said) in found.items():
        print(f"{name}: exit {code}, {peak / MIB:.0f} MiB of anonymous memory")
        assert code == 0, (name, said)
    assert {name: peak // MIB for name, (_, peak, _) in found.items() if peak > _ALLOWED * _LIMIT} == {}
    for words in (["optimize", str(folder)], ["quantize", str(folder)]):  # need all weights at once
        code, peak, said = _peak_anonymous(*words, *limit)
        assert code == 2 and "memory" in said and peak <= _LIMIT, (words, said)
