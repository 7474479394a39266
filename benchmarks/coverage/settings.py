"""Values of configs whose defaults are no model, or none that can be small; each with the cause in transformers."""

from __future__ import annotations

from typing import Any

Values = dict[str, Any]


def _paddle_block() -> Values:
    """The convolutions (kernel, stride, padding) that PaddleOCR has in its configuration files."""
    made: Values = {"reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0]}
    for name, size in (("long", 7), ("mid", 5), ("short", 3)):
        half = size // 2
        made[f"vertical_long_to_small_conv_{name}ratio"] = [[size, 1], [1, 1], [half, 0]]
        made[f"horizontal_small_to_long_conv_{name}ratio"] = [[1, size], [1, 1], [0, half]]
        made[f"symmetric_conv_long_{name}ratio"] = [[size, size], [1, 1], [half, half]]
    return {"intraclass_block_config": made, "scale_factor_list": [1, 2, 4, 8], "kernel_list": [3, 2, 2]}


_DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# Model type, of the config itself or of one inside it -> values laid over it after it was shrunk.
SETTINGS: dict[str, Values] = {
    # A chunk of 256 steps is a product of 256 x 256 for each head, in a text of 11 tokens too.
    **{name: {"chunk_size": 16} for name in ("mamba2", "zamba2", "nemotron_h")},
    # No number, or an empty list, where the code of the model needs one.
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy"},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16},
    "qwen4_exp_text": {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 64,
                       "indexer_compress_ratio": 4},
    "pp_doclayout_v2": {"class_thresholds": [0.5] * 3, "class_order": [0, 1, 2]},
    "pp_ocrv5_server_det": _paddle_block(),
    "pp_ocrv6_medium_det": _paddle_block(),
    "sapiens2": {"head_config": {"upsample_out_channels": [16, 8], "conv_out_channels": [8]}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"]},
    "granite4_vision": {"deepstack_layer_map": [[0, 0]], "spatial_target_layers": [0, 1, 0, 1],
                        "downsample_rate": "1/2"},
    "hunyuan_vl_text": {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1] * 4}},
    # Sizes of images that the processor insists on, and the number of tokens for such an image.
    "aria": {"vision_config": {"image_size": 490, "patch_size": 14}, "projector_patch_to_query_dict": {1225: 128}},
    "moonshine_streaming": {"num_key_value_heads": 8},
    "xmod": {"default_language": "en_XX"},
    # Rotary embeddings are read by kind of layer, or from a config inside; the defaults fill neither.
    "cohere_compass_text": {"rope_parameters": {"full_attention": _DEFAULT_ROPE, "sliding_attention": _DEFAULT_ROPE}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8}},
    # The first layers of the default are of one kind; the code needs both.
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "bamba": {"attn_layer_indices": [1], "mamba_chunk_size": 16},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "num_hidden_layers": 2, "mamba_chunk_size": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "falcon_h1": {"mamba_n_heads": 16, "mamba_chunk_size": 16},
    # Weights are tied among the layers of this kind, and one alone is tied to none, which is refused.
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 3},
    # Norms of 32 groups of channels, a number in the code.
    "janus_vqgan": {"base_channels": 32, "channel_multiplier": [1, 1], "latent_channels": 32},
    # Widths are products with this factor; the first one, 32, is in the code.
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320,
                     "in_channels": [32, 16, 24, 40, 80, 112, 192], "out_channels": [16, 24, 40, 80, 112, 192, 320]},
}  # fmt: skip


# Model type -> the token in the place of image features, where its processor does not say so.
IMAGE_TOKENS = {"ovis2": "<IMG_ATOM>", "pp_chart2table": "<imgpad>"}
# Model type -> feature extractor that its checkpoints name, where the mapping has none or another.
FEATURE_EXTRACTORS = {"wav2vec2-bert": "SeamlessM4TFeatureExtractor", "moonshine_streaming": "Wav2Vec2FeatureExtractor"}
# Model type -> processor class that its checkpoints name, where no mapping has the type.
PROCESSORS = {"glm_ocr": "Glm46VProcessor", "glmga": "Glm46VProcessor", "cosmos3_omni": "Qwen3VLProcessor"}


def laid_over(values: Values, more: Values) -> None:
    """Set values; those that are dictionaries in both are merged."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict) and value:
            laid_over(values[key], value)
        else:
            values[key] = value
