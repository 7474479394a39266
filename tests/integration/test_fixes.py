"""Every registered repair: what goes wrong without it, and that it is named in the manifest with it.

Repairs of a trace, without which a conversion takes half a minute to fail, are for the sweep. With its repair Falcon is
in test_decoders.py, and Depth Anything in the record of `make graphs`.
"""

from __future__ import annotations

import pytest

from onnxport import convert
from onnxport.errors import ExportError, VerificationError
from onnxport.export import fixes
from tests.sample import sampled
from tests.tiny import TINY
from tests.tiny_decoders import save_decoder

pytestmark = pytest.mark.integration

GRAPH_CASES = {
    "attention-mask-rows": ("layoutlm-token-classification", "Attention node"),
    "rotary-cache-rows": ("modernbert-fill-mask", "RotaryEmbedding node"),
}


def test_every_repair_has_a_case():
    # The last two have their cases in tests/unit: test_small_sigmoids.py and test_precise_fourier.py.
    assert {*GRAPH_CASES, "small-sigmoids", "precise-fourier"} == set(fixes.GRAPH_FIXES)
    # The others are in tests/unit/test_recurrences.py, test_decoders.py, test_window_attention.py and
    # test_missing_operators.py.
    assert set(fixes.TRACE_FIXES) == {
        "symbolic-int", "one-key-head", "ordered-sets", "recurrent-layers", "linear-recurrences",
        "window-attention", "block-attention", "dynamic-pooling",
    }  # fmt: skip


@pytest.mark.parametrize("fix", sampled(GRAPH_CASES, "attention-mask-rows"))
def test_graph_repair_is_needed_and_enough(fix, converted, tmp_path, monkeypatch):
    name, complaint = GRAPH_CASES[fix]
    source, with_fix = converted(name).source, converted(name).conversion
    assert with_fix.passed and fix in with_fix.manifest.components[0].fixes
    monkeypatch.delitem(fixes.GRAPH_FIXES, fix)
    with pytest.raises(VerificationError, match=complaint):
        convert(None, source, tmp_path / "without", pipeline_name=TINY[name].task)


@pytest.mark.sweep
def test_symbolic_int_keeps_depth_anything_flexible(converted, tmp_path, monkeypatch):
    name = "depth-anything-depth-estimation"

    def free_axes(conversion):
        return {axis for axis in conversion.manifest.components[0].inputs[0].axes if isinstance(axis, str)}

    tiny = converted(name)
    assert free_axes(tiny.conversion) == {"batch_size", "height", "width"}
    monkeypatch.delitem(fixes.TRACE_FIXES, "symbolic-int")
    assert free_axes(convert(None, tiny.source, tmp_path / "out", pipeline_name=TINY[name].task)) == {"batch_size"}


@pytest.mark.sweep
def test_one_key_head_lets_falcon_through(tmp_path, monkeypatch):
    source = save_decoder("falcon", tmp_path / "m")
    monkeypatch.delitem(fixes.TRACE_FIXES, "one-key-head")
    with pytest.raises(ExportError, match="q_num_heads = kv_num_heads"):
        convert(None, source, tmp_path / "without")  # test_decoders.py converts it with the repair


def test_symbolic_int_is_an_int_to_everybody_else():
    from onnxport.export.fixes.symbolic_int import _Int

    assert _Int("7") == 7 and _Int(7.9) == 7 and _Int("ff", 16) == 255
    assert isinstance(3, _Int) and not isinstance(3.0, _Int)
