"""Further faults: sizes at which only something goes wrong, state that no file has, and settings beside the graph."""

from __future__ import annotations

from typing import Any

from benchmarks.planted import file_edits as files
from benchmarks.planted import graph_edits as graph
from benchmarks.planted import module_edits as module
from benchmarks.planted import value_edits as value
from benchmarks.planted import weight_edits as weight
from benchmarks.planted.fault import Fault, Row, of_model
from benchmarks.planted.models import MINILM

_IDS, _MASK, _TYPES = (graph.graph_input(name) for name in ("input_ids", "attention_mask", "token_type_ids"))
_PIXELS, _SOUND = graph.graph_input("pixel_values"), graph.graph_input("input_values")
_HIDDEN = graph.output_of("LayerNormalization")
_PROCESSOR, _GENERATION = "preprocessor_config.json", "generation_config.json"


def _rotated_labels(content: Any) -> None:
    """Each label has the number of the one before."""
    labels = content["id2label"]
    names = [labels[str(number)] for number in range(len(labels))]
    content["id2label"] = {str(number): name for number, name in enumerate(names[1:] + names[:1])}


def _swapped_added(content: Any) -> None:
    """The first two special tokens of tokenizer.json change their numbers."""
    one, other = content["added_tokens"][1:3]
    one["id"], other["id"] = other["id"], one["id"]


def _loaded(kind: str, name: str, change: Any) -> Any:
    return module.loaded(module.attribute(kind, name, change, None))


def _training(to_export: Any) -> None:
    """Dropout stays on."""
    for part in to_export.parts[0].source.model.modules():
        part.training = True


_CLASSIFIER: list[Row] = [
    ("label map rotated by one", "copied", files.document("config.json", _rotated_labels)),
    ("first and last special token exchanged in tokenizer_config.json", "copied",
     files.values("tokenizer_config.json", cls_token="[SEP]", sep_token="[CLS]")),
    ("two added tokens exchanged in tokenizer.json", "copied", files.document("tokenizer.json", _swapped_added)),
    ("padding ignored beyond one row", "graph", graph.insert(_MASK, value.ones_beyond(0, 1))),
    ("padding ignored beyond 8 rows", "graph", graph.insert(_MASK, value.ones_beyond(0, 8))),
    ("token types ignored for one row", "graph", graph.insert(_TYPES, value.zero_for_one_row)),
    ("positions off by one from number 40 on", "graph",
     graph.insert(graph.input_of("Gather", 1, 0, "position_embeddings"), value.shifted_from(40))),
    ("token numbers wrap at 128", "graph", graph.insert(_IDS, value.through_int8)),
    ("hidden states through bfloat16", "graph", graph.insert(_HIDDEN, value.through_bfloat16)),
    ("two heads' queries exchanged", "graph", weight.alter(r"layer\.0\.\S*query\.weight", value.exchanged_heads(4))),
    ("two heads' values exchanged", "graph", weight.alter(r"layer\.1\.\S*value\.weight", value.exchanged_heads(4))),
    ("padding's row of the table x 1.5", "graph", weight.alter("word_embeddings", weight.row(0, 1.5))),
    ("a little of the other rows in each", "graph", graph.insert(_HIDDEN, value.with_mean_of_rows(1e-5))),
    ("dropout left on", "loaded", _training),
    ("loaded with another number of heads", "loaded", _loaded("BertSelfAttention", "num_attention_heads", 2)),
    ("loaded with tanh GELU", "loaded",
     _loaded("BertIntermediate", "intermediate_act_fn", lambda _: __import__("torch").nn.GELU("tanh"))),
    ("loaded with positions of the next token", "loaded",
     module.loaded(module.parameter(r"position_ids", lambda ids: (ids + 1) % 64))),
    ("loaded with eps x 10", "loaded", _loaded("LayerNorm", "eps", lambda eps: eps * 10)),
    ("maximal length of the tokenizer", "copied", files.values("tokenizer_config.json", model_max_length=63)),
    ("activation in config.json", "copied", files.values("config.json", hidden_act="relu")),
]  # fmt: skip
_ROBERTA: list[Row] = [
    ("loaded with another padding token", "loaded", _loaded("RobertaEmbeddings", "padding_idx", 0)),
    ("a space before texts", "copied",
     files.document("tokenizer.json", lambda content: content["pre_tokenizer"].update(add_prefix_space=True))),
]  # fmt: skip
_DEBERTA: list[Row] = [
    ("softmax over the wrong axis of square scores", "graph", graph.attribute("Softmax", "axis", -2)),
]
_MPNET: list[Row] = [("eps x 10", "graph", graph.attribute("LayerNormalization", "epsilon", 1e-11, None))]
_MODERN: list[Row] = [
    ("loaded with another rotary base", "loaded",
     module.loaded(module.parameter("sliding_attention_inv_freq", lambda values: values * 0.999))),
    ("eps x 10", "graph", graph.attribute("LayerNormalization", "epsilon", lambda eps: eps * 10, None)),
]  # fmt: skip
_MINILM: list[Row] = [
    ("position table off by one from number 300 on", "graph",
     graph.insert(graph.input_of("Gather", 1, 0, "position_embeddings"), value.shifted_from(300))),
    ("two heads' keys exchanged", "graph", weight.alter(r"layer\.4\.\S*key\.weight", value.exchanged_heads(12))),
    ("padding ignored beyond 12 rows", "graph", graph.insert(_MASK, value.ones_beyond(0, 12))),
    ("a little of the other rows in each", "graph", graph.insert(_HIDDEN, value.with_mean_of_rows(1e-5))),
    ("loaded with eps 1e-10", "loaded", _loaded("LayerNorm", "eps", 1e-10)),
]  # fmt: skip
_DENSE: list[Row] = [
    ("a row of the dense layer differs from its file", "loaded",
     module.loaded(module.parameter(r"linear\.weight", lambda values: values * 1.01))),
]  # fmt: skip

_VIT: list[Row] = [
    ("channels in the other order", "graph", graph.insert(_PIXELS, value.reversed_channels(1))),
    ("images mirrored", "graph", graph.insert(_PIXELS, value.flipped_sides(3))),
    ("mean of one channel", "copied", files.values(_PROCESSOR, image_mean=[0.5, 0.5, 0.502])),
    ("side of images", "copied", files.values(_PROCESSOR, size={"height": 31, "width": 32})),
    ("dark pixels clipped below the processor's range", "graph", graph.insert(
        _PIXELS, lambda b, v: b("Max", v, b.constant(-2.0, "float32")))),
    ("a little of the other images in each", "graph", graph.insert(_PIXELS, value.with_mean_of_rows(1e-5))),
    ("eps x 10000", "graph", graph.attribute("LayerNormalization", "epsilon", 1e-8, None)),
]  # fmt: skip
_CONVNEXT: list[Row] = [("eps x 10", "graph", graph.attribute("LayerNormalization", "epsilon", 1e-5, None))]
_CLIP: list[Row] = [("the two tables of scores exchanged", "graph", graph.swap_outputs(0, 1))]
_WAV2VEC2: list[Row] = [
    ("a little of the other sounds in each", "graph", graph.insert(_SOUND, value.with_mean_of_rows(1e-4))),
    ("sounds backwards", "graph", graph.insert(_SOUND, value.flipped_sides(1))),
]
_LLAMA: list[Row] = [
    ("past shifted by one", "graph", graph.insert(graph.graph_input("past_key_values.0.key"), value.rolled(2))),
    ("values of the past shifted by one", "graph",
     graph.insert(graph.graph_input("past_key_values.1.value"), value.rolled(2))),
    ("positions one further with a past", "graph",
     value.shifted_with_past("position_ids", "past_key_values.0.key", 2)),
    ("a token sees one ahead from position 60 on", "graph", graph.insert(
        graph.input_of("LessOrEqual", 1), lambda b, v: b("Where", b("GreaterOrEqual", v, b.constant(60)),
                                                        b("Add", v, b.constant(1)), v))),
    ("padding ignored beyond 6 rows", "graph", graph.insert(_MASK, value.ones_beyond(0, 6))),
    ("two heads of the output exchanged", "graph",
     weight.alter(r"layers\.0\.self_attn\.o_proj", value.exchanged_heads(4, 0))),
    ("sampling in generation_config.json", "copied",
     files.document(_GENERATION, lambda content: content.update(do_sample=True, temperature=0.7))),
    ("repeated words in generation_config.json", "copied",
     files.document(_GENERATION, lambda content: content.update(no_repeat_ngram_size=2))),
    ("loaded with eps x 10", "loaded", _loaded("RMSNorm", "variance_epsilon", lambda eps: eps * 10)),
    ("loaded with another scale", "loaded", _loaded("LlamaAttention", "scaling", lambda scale: scale * 1.01)),
]  # fmt: skip
_GPT2: list[Row] = [("eps x 2", "graph", graph.attribute("LayerNormalization", "epsilon", 2e-5, None))]
_MISTRAL: list[Row] = [("eps x 10", "graph", graph.attribute("RMSNormalization", "epsilon", lambda e: e * 10, None))]
_GEMMA: list[Row] = [
    ("loaded with another scale of the table", "loaded",
     module.loaded(module.parameter("embed_scale", lambda scale: scale * 1.01))),
]  # fmt: skip
_GGUF: list[Row] = [
    ("one number of a query differs from the file", "loaded",
     module.loaded(module.parameter(r"layers\.1\.\S*q_proj", lambda values: values * 1.001))),
]  # fmt: skip
_BART: list[Row] = [
    ("loaded with another scale of the table", "loaded",
     _loaded("BartScaledWordEmbedding", "embed_scale", lambda scale: scale * 1.01)),
    ("eps x 2", "graph", graph.attribute("LayerNormalization", "epsilon", 2e-5, None)),
]  # fmt: skip
_WHISPER: list[Row] = [
    ("frequencies one further", "graph", graph.insert(graph.graph_input("input_features"), value.rolled(1))),
    ("suppressed beginnings in generation_config.json", "copied",
     files.document(_GENERATION, lambda content: content.update(begin_suppress_tokens=[3, 4, 5, 6]))),
    ("number of mel filters", "copied", files.values(_PROCESSOR, feature_size=lambda size: size - 1)),
]  # fmt: skip
_TAGGER: list[Row] = [
    ("eps x 2", "graph", graph.attribute("LayerNormalization", "epsilon", 2e-5, None)),
    ("eps x 2 in the exporter's model", "exporter", module.attribute("LayerNorm", "eps", 2e-5, None)),
    ("numbers wrap at 128", "graph", graph.insert(graph.first_input, lambda b, v: b("Mod", v, b.constant(96)))),
]
_KERAS_TEXT: list[Row] = [
    ("mask ignored beyond 6 rows", "graph", graph.insert(graph.graph_input("mask"), value.ones_beyond(0, 6))),
    ("a little of the other rows in each", "graph",
     graph.insert(graph.output_of("Gather", reads="embed|Gather|Read"), value.with_mean_of_rows(1e-4))),
]  # fmt: skip
_KERAS_IMAGE: list[Row] = [
    ("channels in the other order", "graph", graph.insert(graph.first_input, value.reversed_channels(3))),
    ("images upside down", "graph", graph.insert(graph.first_input, value.flipped_sides(1))),
]

FURTHER: list[Fault] = [
    fault
    for model, rows in (
        ("bert-text-classification", _CLASSIFIER), ("roberta-fill-mask", _ROBERTA),
        ("deberta-v2-text-classification", _DEBERTA), ("mpnet-feature-extraction", _MPNET),
        ("modernbert-fill-mask", _MODERN), (MINILM, _MINILM), ("sentence-bert-cls-dense", _DENSE),
        ("vit-image-classification", _VIT), ("convnext-image-classification", _CONVNEXT),
        ("clip-zero-shot-image-classification", _CLIP), ("wav2vec2-automatic-speech-recognition", _WAV2VEC2),
        ("decoder llama", _LLAMA), ("decoder gpt2", _GPT2), ("decoder mistral", _MISTRAL),
        ("decoder gemma3_text", _GEMMA), ("gguf llama", _GGUF), ("encoder-decoder bart", _BART),
        ("encoder-decoder whisper", _WHISPER), ("module tagger", _TAGGER), ("keras text_classifier", _KERAS_TEXT),
        ("keras image_network", _KERAS_IMAGE),
    )
    for fault in of_model(model, rows)
]  # fmt: skip
