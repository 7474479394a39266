"""Shrink a config by what its keys and values are: every size, in every config inside it.

Widths are divided by one power of two throughout, so that whatever fits together still does: heads that divide a width,
a projection from one tower into another, groups of channels. Layers, experts and vocabularies are cut. A config whose
model cannot be made that way is tried with a smaller divisor, then with more layers (`candidates`).
"""

from __future__ import annotations

import copy
import importlib.util
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import model_type_to_module_name

from benchmarks.coverage.settings import SETTINGS, laid_over

Values = dict[str, Any]

# Whole numbers that are no width, though they may be large.
_NO_WIDTH = re.compile(
    r"vocab|position|token|(^|_)ids?$|image|patch|window|length|len$|seq|bucket|sampling|rate|kernel|stride|mel|labels|"
    r"quer|theta|dilation|n_fft|chunk|frame|max|min|num_(?!channels)|block_size|expert|codebook_size|size_divisor|seed|"
    r"distance|factor|ratio|resolution|context|downsample|upsample_(rate|scale)|topk|top_k|period|ignore|steps|groups|"
    r"index(?!_head)|temperature|hop|scale|bins|time|duration|feature_size$|fft|levels|layers?$|depths?$|heads$|(^|_)n_head$|state$|"
    r"d_state|d_conv|state_size|conv_kernel|interval|prompt|num$|cache|crop|grid|lookahead|pool|points|classes|shift|"
    r"reduction|spec_size|input_feat_size|input_dim$|num_filters_mel|attention_window|local_attention|tile|threshold"
)
# Widths, whatever else the name has.
_WIDTH = re.compile(r"head_dim|(?<!patch_embed_)hidden_size$|downsample_channels|upsample_groups")
_LAYERS = re.compile(r"(num|n)_(\w+_)?(hidden_)?layers?$|(^|_)layers$|^depth$|num_(\w+_)?blocks$|^num_hidden_groups$")
_NO_LAYERS = re.compile(r"feature|extract|attn_layers|conv|adapter|moe_layers|mlp_only|dense_layers|shared|per_|window")
_INNER = re.compile(r"intermediate|ffn|mlp_dim|d_ff$|inner_dim")
_EXPERTS = re.compile(r"num_(local_)?experts$|zero_expert_num|n_routed_experts|moe_num_experts|^num_local_experts")
_EXPERTS_USED = re.compile(r"experts_per_tok|num_selected_experts|top_?k_experts|moe_topk|moe_k$|num_experts_per_token")
_PER_LAYER = re.compile(
    r"layer_types|layers?_type|block_types?$|block_type|mlp_layer_types|attn_types|attention_types|no_rope_layers|hybrid|"
    r"_pattern$|layers_block_type|full_attn_idxs|layers_types"
)
_PER_STAGE_DEPTHS = re.compile(
    r"^(\w+_)?depths$|^layers$|stage_num_blocks|stage_numb_of_layers|num_blocks|^num_layers$"
)
_LAYER_NUMBERS = re.compile(
    r"(out|output)_indices|_indexes$|layer_idx|_layer_ids$|global_attn|_indices$|^(moe|mlp)_.*layers$"
)
_LEAST_HEAD = 12
_QUERIES = re.compile(r"^num_queries$|^two_stage_num_proposals$|^num_denoising$")
_LARGE = 64
_EXPERTS_KEPT = 4
_IMAGE_SIDE = 64


@dataclass(frozen=True)
class Cut:
    """How far a config is shrunk.

    Attributes:
        divisor: of widths.
        layers: most layers of a stack; None leaves them.
        vocabulary: rows of the word table.
        stages: whether the numbers of blocks of stages become 1.
        images: whether images become smaller.
    """

    divisor: int
    layers: int | None
    vocabulary: int
    stages: bool = True
    images: bool = True


def candidates(vocabulary: int) -> Iterator[Cut]:
    """From the smallest to one that changes little."""
    for layers in (2, 4):
        for divisor in (32, 16, 8, 4, 2):
            yield Cut(divisor, layers, vocabulary)
    for divisor in (16, 8):
        yield Cut(divisor, None, vocabulary, stages=False, images=False)
    yield Cut(4, None, vocabulary, images=False)
    yield Cut(1, 2, vocabulary, images=False)
    yield Cut(1, None, vocabulary, stages=False, images=False)


def shrink(values: Values, cut: Cut) -> Values:
    """A copy of the values of a config (`to_dict`) with its sizes cut, and those of all configs in it."""
    made = copy.deepcopy(values)
    _without_timm(made)
    _cut_layers(made, cut)
    if made.get("num_kv_shared_layers"):
        made["num_kv_shared_layers"] = 0
    for key, value in list(made.items()):
        if isinstance(value, dict):
            if key.endswith("config") or key.isdigit() or "model_type" in value:
                made[key] = shrink(value, cut)
        elif key in ("id2label", "label2id"):
            continue
        else:
            made[key] = _cut(key, value, made, cut)
    _cut_feature_layers(made, cut)
    _cut_experts(made)
    _keep_sums(values, made)
    _fit_heads(made)
    if made.get("out_features") and made.get("out_indices"):
        made["out_indices"] = None  # the same stages again; the config finds them by their names
    _fill(made, cut)
    _fit_towers(made)
    _fit_sections(made)
    return made


def _fit_heads(values: Values) -> None:
    """Heads that divide the width; those of towers of images have rotary embeddings on two axes."""
    width = next((values[name] for name in ("embed_dim", "hidden_size", "d_model") if values.get(name)), None)
    for key, value in values.items():  # of other blocks of the same width
        if key.endswith("cross_attention_heads") and type(value) is int and type(width) is int:
            values[key] = math.gcd(value, width)
    names = ("num_heads", "num_attention_heads", "encoder_attention_heads")
    name = next((name for name in names if name in values), "")
    heads = values.get(name)
    if type(width) is not int or type(heads) is not int or heads < 1 or type(values.get("head_dim")) is int:
        return
    if width % heads == 0 and (width // heads % 4 == 0 or "patch_size" not in values):
        return
    step = 4 if width % 4 == 0 else 1
    values[name] = max(one for one in range(1, heads + 1) if width % one == 0 and width // one % step == 0)
    if type(groups := values.get("num_key_value_heads")) is int:
        values["num_key_value_heads"] = math.gcd(groups, values[name])


def _keep_sums(before: Values, after: Values) -> None:
    """A width of heads that was the sum of its two parts is so again."""
    names = ("head_dim", "qk_nope_head_dim", "qk_rope_head_dim")
    if all(type(after.get(name)) is int for name in names):
        whole, *parts = (before[name] for name in names)
        if whole == sum(parts):
            after["head_dim"] = after["qk_nope_head_dim"] + after["qk_rope_head_dim"]


def _fill(values: Values, cut: Cut) -> None:
    """What defaults leave open although the model's code needs it."""
    heads, width = values.get("num_attention_heads"), values.get("hidden_size")
    if isinstance(heads, int) and isinstance(width, int):
        if "head_dim" in values and values["head_dim"] is None and width % heads == 0:
            values["head_dim"] = width // heads
        if "num_key_value_heads" in values and values["num_key_value_heads"] is None:
            values["num_key_value_heads"] = heads
    laid_over(values, SETTINGS.get(str(values.get("model_type")), {}))
    if "vocab_size" in values and values["vocab_size"] is None:
        values["vocab_size"] = cut.vocabulary
    if values.get("is_encoder_decoder") and values.get("decoder_start_token_id") is None and "pad_token_id" in values:
        values["decoder_start_token_id"] = 0


def _fit_towers(values: Values) -> None:
    """A tower of images ends in the width of the text; defaults of the two are of different models."""
    vision, text = values.get("vision_config"), values.get("text_config")
    width = text.get("hidden_size") if isinstance(text, dict) else None
    if not isinstance(vision, dict) or type(width) is not int:
        return
    if type(values.get("hidden_size")) is int:
        values["hidden_size"] = width
    if type(vision.get("out_hidden_size")) is int:
        vision["out_hidden_size"] = width
    elif type(vision.get("embed_dim")) is int and type(vision.get("hidden_size")) is int and "depth" in vision:
        vision["hidden_size"] = width


def _fit_sections(values: Values) -> None:
    """Sections of rotary embeddings, which share the halves of a head among time, height and width."""
    whole = values.get("rope_parameters") or values.get("rope_scaling")
    ropes = [one for one in (whole, *whole.values()) if isinstance(one, dict)] if isinstance(whole, dict) else []
    for rope in ropes:
        if "rope_type" in rope or "mrope_section" in rope:
            _fit_section(rope, values)


def _fit_section(rope: Values, values: Values) -> None:
    sections = rope.get("mrope_section") or _sections_in_code(str(values.get("model_type")))
    heads, width = values.get("num_attention_heads"), values.get("hidden_size")
    if not sections or not isinstance(heads, int) or not isinstance(width, int):
        return
    share = rope.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1
    if (values.get("head_dim") or width // heads) * share < _LEAST_HEAD:  # too few for a part of each axis
        if "head_dim" in values:
            values["head_dim"] = int(_LEAST_HEAD / share)
        else:
            fitting = [one for one in range(1, heads) if width % one == 0 and width // one >= _LEAST_HEAD / share]
            values["num_attention_heads"] = heads = max(fitting, default=heads)
            values["num_key_value_heads"] = math.gcd(values.get("num_key_value_heads") or heads, heads)
    half = int((values.get("head_dim") or width // heads) * share) // 2
    parts = [half // len(sections)] * len(sections)
    parts[sections.index(min(sections)) if sections[0] == sections[1] else 0] += half % len(sections)
    rope["mrope_section"] = parts


@lru_cache
def _sections_in_code(model_type: str) -> list[int] | None:
    """The sections that the code of a model takes where its config names none."""
    try:
        name = model_type_to_module_name(model_type)
        spec = importlib.util.find_spec(f"transformers.models.{name}.modeling_{name}")
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    found = re.search(r'"mrope_section",\s*\[([\d, ]+)\]', Path(spec.origin).read_text(encoding="utf-8"))
    return [int(one) for one in found[1].split(",")] if found else None


def _cut(key: str, value: Any, values: Values, cut: Cut) -> Any:
    """The value of one key."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return _cut_number(key, value, values, cut)
    if not isinstance(value, (list, tuple)) or not value:
        return value
    if _PER_STAGE_DEPTHS.search(key) and all(type(one) is int for one in value):
        return [min(one, 1 if _is_stages(values) else 2) for one in value] if cut.stages else value
    if key == "image_size" and cut.images:
        return [_cut_number(key, one, values, cut) for one in value]
    if _NO_WIDTH.search(key) or key.startswith("num_") or _LAYER_NUMBERS.search(key):
        return value
    return _divided(value, cut.divisor)


def _is_stages(values: Values) -> bool:
    return any(key in values for key in ("depths", "hidden_sizes", "embed_dims", "num_heads"))


def _divided(value: Any, divisor: int) -> Any:
    if isinstance(value, (list, tuple)):
        return [_divided(one, divisor) for one in value]
    if type(value) is not int or value < _LARGE // 2 or value % divisor:
        return value
    return max(value // divisor, 4)


def _cut_number(key: str, value: int, values: Values, cut: Cut) -> int:
    if "vocab" in key and "type" not in key:
        return min(value, cut.vocabulary)
    if "max_position_embeddings" in key or key in ("n_positions", "n_ctx", "max_source_positions"):
        return min(value, 512) if key != "max_source_positions" else value
    if key in ("image_size", "img_size", "pretrain_image_size") and cut.images:
        patch = _first(values.get("patch_size")) or 1
        return min(value, patch * max(2, _IMAGE_SIDE // patch)) if patch > 1 else min(value, _IMAGE_SIDE)
    if key in ("mm_tokens_per_image", "vision_soft_tokens_per_image"):  # pooled from more patches than these
        return min(value, 4)
    if _QUERIES.search(key):  # the best of so many positions, of which a small image has few
        return min(value, 16)
    if key in ("codebook_size", "num_embeddings"):
        return min(value, 64)
    if "sliding_window" in key or key == "attention_chunk_size":
        return min(value, 16)
    if _INNER.search(key) and value >= _LARGE and cut.divisor > 1:  # the width inside a block has to fit nothing else
        return value // cut.divisor if value % cut.divisor == 0 else max(value // cut.divisor // 8 * 8, 8)
    if value < _LARGE // 2 or value % cut.divisor or (_NO_WIDTH.search(key) and not _WIDTH.search(key)):
        return value
    return max(value // cut.divisor, 4)


def _first(value: Any) -> int | None:
    if isinstance(value, (list, tuple)):
        value = value[-1] if value else None
    return value if isinstance(value, int) else None


def _cut_layers(values: Values, cut: Cut) -> None:
    """Cut stacks of layers, and the lists that have an entry for each layer or name some of them."""
    if cut.layers is None:
        return
    kinds: list[Any] = []
    for key, value in values.items():
        if _PER_LAYER.search(key) and isinstance(value, (list, tuple)):
            kinds += [one for one in dict.fromkeys(map(_hashable, value)) if one not in kinds]
    deepest = max(cut.layers, len(kinds))
    before = {key: value for key, value in values.items() if _is_layers(key, value)}
    for key, value in before.items():
        values[key] = min(value, deepest)
    lengths = {value: min(value, deepest) for value in before.values()}
    chosen = _chosen_layers(values, lengths)
    for key, value in list(values.items()):
        if isinstance(value, dict) and value and _is_per_layer(key, value):
            kept = {str(chosen.index(int(one))): inner for one, inner in value.items() if int(one) in chosen}
            values[key] = kept
        if not isinstance(value, (list, tuple)) or not value:
            continue
        if (_PER_LAYER.search(key) or key.endswith("pattern")) and len(value) in lengths:
            values[key] = [value[index] for index in sorted(_sample(list(value), lengths[len(value)]))]
        elif len(value) in lengths and len(value) > lengths[len(value)] and len(value) > 4:
            values[key] = list(value)[: lengths[len(value)]]
        elif _LAYER_NUMBERS.search(key) and all(type(one) is int for one in value) and lengths:
            most = max(before.values())
            kept = [one for one in value if one <= deepest]
            values[key] = kept or ([deepest - 1] if max(value) <= most else list(value))
        elif key == "out_features" and before and all(re.fullmatch(r"stage\d+", str(one)) for one in value):
            stages = [one for one in value if int(one[5:]) <= deepest]
            values[key] = stages or [f"stage{deepest}"]


def _cut_feature_layers(values: Values, cut: Cut) -> None:
    """Layers of another tower whose outputs are taken, counted from its start or its end."""
    if cut.layers is None:
        return
    for key, value in values.items():
        if not re.search(r"(vision|audio|feature)_(\w+_)?(feature_)?layers?$|feature_layers?$", key):
            continue
        many = isinstance(value, (list, tuple))
        numbers = list(value) if many else [value]
        if not all(type(one) is int for one in numbers) or max(map(abs, numbers), default=0) <= cut.layers:
            continue
        values[key] = [one % cut.layers if one >= 0 else -1 - (-1 - one) % cut.layers for one in numbers]
        if not many:
            values[key] = values[key][0]


def _is_per_layer(key: str, value: Values) -> bool:
    return all(str(one).isdigit() for one in value) and "label" not in key and "patch" not in key


def _is_layers(key: str, value: Any) -> bool:
    return type(value) is int and value > 2 and bool(_LAYERS.search(key)) and not _NO_LAYERS.search(key)


def _chosen_layers(values: Values, lengths: dict[int, int]) -> list[int]:
    """Which layers stay, by the first list that tells their kinds; the first ones if there is none."""
    for key, value in values.items():
        if _PER_LAYER.search(key) and isinstance(value, (list, tuple)) and len(value) in lengths:
            return sorted(_sample(list(value), lengths[len(value)]))
    return list(range(max(lengths.values(), default=0)))


def _sample(values: list[Any], length: int) -> list[int]:
    """Indices of `length` entries with every different one among them; of equal ones the first."""
    first = {_hashable(value): index for index, value in reversed(list(enumerate(values)))}
    chosen = sorted(first.values())
    chosen += [index for index in range(len(values)) if index not in chosen]
    return chosen[:length]


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _cut_experts(values: Values) -> None:
    for key, value in values.items():
        if type(value) is not int:
            continue
        if _EXPERTS.search(key):
            values[key] = min(value, _EXPERTS_KEPT)
        elif _EXPERTS_USED.search(key):
            values[key] = min(value, 2)
        elif key in ("n_group", "num_expert_group", "topk_group"):
            values[key] = 1


def _without_timm(values: Values) -> None:
    """Backbones of timm become ResNets of transformers, which need no other library."""
    for key, value in values.items():
        if isinstance(value, dict) and value.get("model_type") == "timm_backbone":
            values[key] = {"model_type": "resnet", "out_features": ["stage2", "stage3", "stage4"]}
    if values.get("use_timm_backbone"):
        values["use_timm_backbone"] = False
        values.pop("backbone", None)
