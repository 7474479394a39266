"""How benchmarks/coverage shrinks configs: what fits together still does."""

from __future__ import annotations

import pytest

from benchmarks.coverage.causes import cause_of
from benchmarks.coverage.configs import Cut, shrink

_CUT = Cut(divisor=16, layers=2, vocabulary=300)


def test_widths_are_divided_alike_and_in_inner_configs() -> None:
    made = shrink(
        {
            "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "vocab_size": 30522,
            "vision_config": {"hidden_size": 1024, "image_size": 224, "patch_size": 14, "model_type": "x"},
            "projection_dim": 512,
        },
        _CUT,
    )  # fmt: skip
    assert (made["hidden_size"], made["num_attention_heads"], made["num_hidden_layers"]) == (48, 12, 2)
    assert made["vocab_size"] == 300 and made["projection_dim"] == 32
    assert made["vision_config"] == {"hidden_size": 64, "image_size": 56, "patch_size": 14, "model_type": "x"}


def test_a_layer_of_every_kind_stays() -> None:
    kinds = ["sliding"] * 5 + ["full"]
    made = shrink({"num_hidden_layers": 12, "layer_types": kinds * 2, "per_layer": {"5": 1, "11": 2}}, _CUT)
    assert made["num_hidden_layers"] == 2
    assert made["layer_types"] == ["sliding", "full"]
    assert made["per_layer"] == {"1": 1}  # of the layer that was the sixth


def test_sections_of_rotary_embeddings_fill_the_half_of_a_head() -> None:
    rope = {"mrope_section": [16, 24, 24]}
    made = shrink({"hidden_size": 4096, "num_attention_heads": 32, "head_dim": 128, "rope_parameters": rope}, _CUT)
    assert sum(made["rope_parameters"]["mrope_section"]) == made["head_dim"] // 2
    assert min(made["rope_parameters"]["mrope_section"]) > 0


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ({"status": "refused", "message": "It took longer than 150 s."}, "the conversion takes too long"),
        ({"status": "not built", "message": "KeyError: 'x'"}, "the builder"),
        ({"status": "restricted", "message": "", "restrictions": [{"axis": "height", "rule": "fixed at 64"}]},
         "fixed: height"),
    ],
)  # fmt: skip
def test_causes(line: dict[str, object], cause: str) -> None:
    assert cause_of(line) == cause


def test_a_tower_of_images_ends_in_the_width_of_the_text() -> None:
    values = {
        "text_config": {"hidden_size": 8192},
        "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584},
    }
    made = shrink(values, _CUT)
    assert made["vision_config"]["hidden_size"] == made["text_config"]["hidden_size"] < 8192
    assert made["vision_config"]["embed_dim"] < 1280


def test_layers_whose_outputs_are_taken_exist() -> None:
    made = shrink({"vision_feature_layer": [24, 18, -2, -11]}, _CUT)["vision_feature_layer"]
    assert len(made) == 4
    assert all(-2 <= one < 2 for one in made)


def test_the_width_of_a_head_stays_the_sum_of_its_parts() -> None:
    made = shrink({"head_dim": 256, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64}, _CUT)
    assert made["head_dim"] == made["qk_nope_head_dim"] + made["qk_rope_head_dim"] < 256


def test_heads_divide_a_width_that_was_cut() -> None:
    made = shrink({"hidden_size": 1152, "num_attention_heads": 16, "patch_size": 14}, _CUT)
    assert made["hidden_size"] % made["num_attention_heads"] == 0
    assert made["hidden_size"] // made["num_attention_heads"] % 4 == 0
