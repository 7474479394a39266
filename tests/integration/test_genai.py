"""Folders in onnxruntime-genai: its greedy tokens against those of transformers.

A decoder without an input for positions is for the sweep; `make graphs` writes the folder of one.
"""

from __future__ import annotations

import json
import re
import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import numpy_helper

from onnxport import optimize, quantize, verify
from onnxport.cli.main import main
from onnxport.errors import MissingDependencyError, UsageError, VerificationError
from onnxport.targets import find_target
from onnxport.targets import genai as target
from tests.sample import sampled
from tests.tiny_decoders import VOCABULARY, save_decoder

genai = pytest.importorskip("onnxruntime_genai")  # the extra "genai"
pytestmark = pytest.mark.integration

TOKENS = 24


@pytest.fixture(scope="module", params=sampled(["llama", "bloom"], "llama"))  # with positions, and without
def pair(request, tmp_path_factory):
    """(the checkpoint, a folder that was converted with --target genai)"""
    folder = tmp_path_factory.mktemp(request.param)
    source = save_decoder(request.param, folder / "m")
    assert main(["convert", str(source), str(folder / "out"), "--target", "genai", "--quiet"]) == 0
    return source, folder / "out"


def write(folder, prompt):
    model = genai.Model(str(folder))
    settings = genai.GeneratorParams(model)
    settings.set_search_options(max_length=prompt.shape[1] + TOKENS, batch_size=len(prompt), do_sample=False)
    generator = genai.Generator(model, settings)
    generator.append_tokens(prompt.astype(np.int32))
    tokens = []
    while not generator.is_done():
        generator.generate_next_token()
        tokens.append(np.array(generator.get_next_tokens()))
    return np.stack(tokens, 1)


def test_greedy_tokens_are_those_of_transformers(pair):
    require_tokens_of_transformers(*pair)


def test_a_fused_graph_keeps_its_cache_in_place(pair, tmp_path):
    source, converted = pair
    folder = shutil.copytree(converted, tmp_path / "out")
    if "bloom" in str(source):  # its attention cannot be fused
        with pytest.raises(UsageError, match="no graph 'model_fused'"):
            find_target("genai")(folder, component="model_fused")
        return
    optimize(folder, for_="cpu")
    find_target("genai")(folder, component="model_fused")
    config = json.loads((folder / "genai_config.json").read_text())
    assert config["search"]["past_present_share_buffer"] is True
    assert config["model"]["decoder"]["filename"] == "onnx/model_fused_genai.onnx"
    require_tokens_of_transformers(source, folder)


def require_tokens_of_transformers(source, folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
    rng = np.random.default_rng(11)
    said: set[int] = set()
    for rows, length in ((1, 5), (2, 19), (3, 8)):
        prompt = rng.integers(3, VOCABULARY, (rows, length))
        with torch.no_grad():
            wanted = model.generate(
                torch.from_numpy(prompt), attention_mask=torch.ones(rows, length, dtype=torch.int64),
                do_sample=False, max_new_tokens=TOKENS,
            )[:, length:].numpy()  # fmt: skip
        found = write(folder, prompt)
        ended = np.cumsum(wanted == 2, 1) > (wanted == 2)  # after the end of text comes padding
        assert found.shape == wanted.shape
        assert (found == wanted)[~ended].all()
        said |= set(wanted.flat)
    assert len(said) > 3  # else any graph would agree


def test_the_folder_is_whole_and_has_its_weights_once(pair):
    _, folder = pair
    assert verify(folder).ok
    config = json.loads((folder / "genai_config.json").read_text())
    assert config["model"]["decoder"]["filename"] == "onnx/model_genai.onnx"
    assert config["model"]["decoder"]["num_hidden_layers"] == 2 and config["model"]["vocab_size"] == VOCABULARY
    assert config["search"]["past_present_share_buffer"] is False
    manifest = json.loads((folder / "onnxport.json").read_text())
    assert [c["name"] for c in manifest["components"]] == ["model"]
    assert any("onnxruntime-genai" in note and "same greedy tokens" in note for note in manifest["notes"])


def test_large_weights_stay_where_they_are(once, tmp_path):
    from tests.integration.test_weight_only import converted_tied_llama

    folder = shutil.copytree(converted_tied_llama(once)[1], tmp_path / "out")
    small = find_target("genai")(folder).parent / "onnx" / "model_genai.onnx"
    table = [t for t in onnx.load(small, load_external_data=False).graph.initializer if t.dims[:1] == [320]]
    places = [{entry.key: entry.value for entry in t.external_data} for t in table]
    assert [place["location"] for place in places] == ["model.onnx"]
    assert small.stat().st_size < (folder / "onnx" / "model.onnx").stat().st_size - 320 * 64 * 4 + 1000
    quantize(folder, "int4")
    find_target("genai")(folder, component="model_q4")
    assert json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]["filename"].endswith(
        "_q4_genai.onnx"
    )
    assert write(folder, np.arange(5, 15)[None]).shape[1] <= TOKENS
    assert verify(folder).ok


def test_other_tokens_are_a_failure(pair, tmp_path, monkeypatch):
    folder = shutil.copytree(pair[1], tmp_path / "out")
    before = (folder / "genai_config.json").read_bytes()
    right = target._write_last_logits

    def wrong(source, file):
        made = right(source, file)
        model = onnx.load(file, load_external_data=False)
        head = next(t for t in model.graph.initializer if t.dims and t.dims[-1] == VOCABULARY and len(t.dims) == 2)
        head.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(head), head.name))
        file.write_bytes(model.SerializeToString())
        return made

    monkeypatch.setattr(target, "_write_last_logits", wrong)
    with pytest.raises(VerificationError, match="writes other tokens"):
        find_target("genai")(folder)
    assert (folder / "genai_config.json").read_bytes() == before and verify(folder).ok


def test_what_cannot_be_done_is_said(pair, tmp_path, monkeypatch, capsys):
    with pytest.raises(UsageError, match="no target 'tensorrt'"):
        find_target("tensorrt")
    with pytest.raises(UsageError, match="no graph 'model_q5'"):
        find_target("genai")(pair[1], component="model_q5")
    assert main(["convert", str(pair[0]), str(tmp_path / "m.onnx"), "--target", "genai"]) == 2
    assert "needs a folder" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", None)
    with pytest.raises(MissingDependencyError, match="onnxruntime_genai"):
        find_target("genai")


def test_the_lines_of_the_model_card_run(converted, tmp_path, monkeypatch, capsys):
    tiny = converted("llama", {"tokenizer": "modernbert"})
    folder = tiny.copy(tmp_path / "out")
    find_target("genai")(folder)
    [lines] = re.findall(r"^```python\n([^`]*onnxruntime_genai[^`]*)```", (folder / "README.md").read_text(), re.M)
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(lines, scope)
    written = scope["generator"].get_sequence(0)
    assert len(scope["tokenizer"].encode("Once upon a time")) < len(written) <= 40
    assert capsys.readouterr().out.strip()
