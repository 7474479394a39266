"""Decisions may differ at near ties alone; rounded graphs are held to a cosine; levels and thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from onnxport.errors import UsageError
from onnxport.specs import CaseCheck, Limit, OutputCheck, Restriction, Verification, compared_sizes
from onnxport.verification.case import Case
from onnxport.verification.compare import check_case, smallest_cosine
from onnxport.verification.decisions import agreement
from onnxport.verification.evidence import Evidence, within_limits
from onnxport.verification.level import Level, find_level
from onnxport.verification.thresholds import thresholds

LOGITS = np.array([[1.0, 0.99, 0.0], [2.0, 0.0, 0.0]], np.float32)


def _decided(found: np.ndarray, allowed: float, decision: str = "label") -> tuple[float, int, int]:
    result = agreement(decision, {"logits": LOGITS}, {"logits": found}, {}, {"logits": allowed})
    assert result is not None
    return result.share, result.ties, result.wrong


def test_near_ties_are_told_from_other_decisions() -> None:
    swapped = LOGITS.copy()
    swapped[0, :2] = 0.99, 1.0
    assert _decided(swapped, 0.01) == (0.5, 1, 0)
    assert _decided(swapped, 0.004) == (0.5, 0, 1)
    swapped[1] = 0, 2, 0
    assert _decided(swapped, 0.01) == (0.0, 1, 1)
    assert _decided(LOGITS, 0.0) == (1.0, 0, 0)


def test_classes_on_axis_1_and_single_scores() -> None:
    picture = np.zeros((1, 3, 2, 2), np.float32)
    picture[0, 1] = 1
    other = picture.copy()
    other[0, 2, 0, 0] = 1.5
    found = agreement("class map", {"logits": picture}, {"logits": other}, {}, {"logits": 0.6})
    assert found is not None and (found.share, found.ties, found.wrong) == (0.75, 1, 0)
    score = np.array([[0.1], [-3.0]], np.float32)
    found = agreement("label", {"logits": score}, {"logits": -score}, {}, {"logits": 0.1})
    assert found is not None and (found.share, found.ties, found.wrong) == (0.0, 1, 1)


def test_a_decision_fails_a_case_whose_numbers_are_within_a_wide_tolerance() -> None:
    case = Case("traced", {"batch_size": 2}, {}, {"logits": LOGITS})
    swapped = LOGITS.copy()
    swapped[0, :2] = 0.99, 1.0
    check = check_case(lambda _: {"logits": swapped}, case, "label", None, 0.02, 0)
    assert check.ok and check.near_ties == 1 and check.decision_agreement == 0.5


def test_rounded_graphs_are_held_to_a_cosine() -> None:
    wanted = np.eye(2, 16, dtype=np.float32)
    assert smallest_cosine(wanted, np.ones((2, 16), np.float32)) == pytest.approx(0.25)
    assert smallest_cosine(wanted[:, :4], wanted[:, :4]) is None
    far = np.full((2, 16), 0.2, np.float32) + wanted * 0.1
    check = check_case(lambda _: {"y": far}, Case("c", {}, {}, {"y": wanted}), None, None, 1.0, 0.25)
    assert not check.ok and check.outputs[0].max_abs_error < check.outputs[0].tolerance
    found = Verification(False, "torch", "onnxruntime", 1.0, 0.25, (check,))
    assert "0.75" in found.limits_text and f"{check.outputs[0].cosine:.4f}" in found.limits_text


def test_sizes_that_were_compared() -> None:
    cases = [
        CaseCheck("a", {"batch_size": 2, "sequence_length": 11}, ()),
        CaseCheck("b", {"batch_size": 1, "sequence_length": 512}, ()),
        CaseCheck("c", {"batch_size": 9, "sequence_length": 900}, (), ok=False),
    ]
    verification = Verification(True, "", "", 0, 0, tuple(cases), compared=compared_sizes(cases))
    assert "batch_size 1 to 2, sequence_length 11 to 512" in verification.compared_text


def test_thresholds_are_numbers_that_speak_of_lengths() -> None:
    numbers = {
        32: "relative_attention_num_buckets", 128: "relative_attention_max_distance", 512: "max_position_embeddings",
        384: "hidden_size", 12: "num_attention_heads", 64: "code of LocalAttention", 100: "eos_token_id",
    }  # fmt: skip
    assert thresholds(numbers, 5, 511, Level.STANDARD) == [32, 64, 128]
    assert thresholds(numbers, 5, 512, Level.THOROUGH) == [12, 32, 64, 100, 128, 384, 512]


def test_levels() -> None:
    assert find_level("thorough") is Level.THOROUGH
    with pytest.raises(UsageError) as caught:
        find_level("standart")
    assert "standart" in caught.value.message and "'standard'" in (caught.value.hint or "")


def test_a_graph_that_is_wrong_at_the_smallest_size_alone_is_restricted() -> None:
    least = Restriction("sequence_length", Limit.AT_LEAST, 5, "the graph gives other numbers at 1")
    cases = [
        Case("traced", {"sequence_length": 11}, {}, {}),
        Case("sequence length 1", {"sequence_length": 1}, {}, {}, limit=least),
    ]
    output = OutputCheck("logits", (1,), 0.0, 0.0, 1.0, 0.0, True)
    checks = [CaseCheck(case.name, case.sizes, (output,), ok=case.limit is None) for case in cases]
    evidence = Evidence(cases, [], None, "torch")
    found, restrictions = within_limits(evidence, Verification(False, "", "", 0, 0, tuple(checks)))
    assert found.passed and restrictions == (least,)
    assert [case.name for case in found.cases] == ["traced"] and found.compared[0].smallest == 11

    broken = [CaseCheck(check.name, check.sizes, (output,), ok=False) for check in checks]
    found, restrictions = within_limits(evidence, Verification(False, "", "", 0, 0, tuple(broken)))
    assert not found.passed and restrictions == () and len(found.cases) == 2
