"""Faults in encoders of text, and in the files beside them."""

from __future__ import annotations

from benchmarks.planted import file_edits as files
from benchmarks.planted import graph_edits as graph
from benchmarks.planted import module_edits as module
from benchmarks.planted import weight_edits as weight
from benchmarks.planted.fault import Fault, Row, of_model
from benchmarks.planted.models import MINILM


def _tanh_gelu(_: object) -> object:
    from torch import nn

    return nn.GELU("tanh")


def _unread_word(weight_name: str = "word_embeddings", number: int = -1) -> Row:
    return ("a word row that no text has x 1.01", "graph", weight.alter(weight_name, weight.row(number)))


_IDS, _MASK = graph.graph_input("input_ids"), graph.graph_input("attention_mask")
_HIDDEN = graph.output_of("LayerNormalization")

_CLASSIFIER: list[Row] = [
    _unread_word(),
    ("second token type x 1.01", "graph", weight.alter("token_type_embeddings", weight.row(1))),
    ("last position x 1.01", "graph", weight.alter(r"position_embeddings\.weight", weight.row(63))),
    ("one number of the feed-forward x 1.01", "graph", weight.alter(r"layer\.1\.intermediate.*weight",
                                                                   weight.element((3, 5)))),
    ("one bias + 1e-4", "graph", weight.alter(r"layer\.0\.output\.dense\.bias", weight.element((7,), 1, 1e-4))),
    ("LayerNorm eps 1e-5", "graph", graph.attribute("LayerNormalization", "epsilon", 1e-5, None)),
    ("LayerNorm eps 1e-7 in the exporter's model", "exporter", module.attribute("LayerNorm", "eps", 1e-7, None)),
    ("tanh GELU for erf", "graph", graph.attribute("Gelu", "approximate", "tanh", None)),
    ("tanh GELU in the exporter's model", "exporter",
     module.attribute("BertIntermediate", "intermediate_act_fn", _tanh_gelu, None)),
    ("query and key of a layer exchanged", "graph",
     weight.swap(r"layer\.0\.\S*query\.weight", r"layer\.0\.\S*key\.weight")),
    ("query and key exchanged under their records", "graph",
     weight.swap_numbers(r"layer\.0\.\S*query\.weight", r"layer\.0\.\S*key\.weight")),
    ("layers exchanged in the exporter's model", "exporter", module.swapped_layers()),
    ("value weight transposed", "graph", weight.alter(r"layer\.1\.\S*value\.weight", weight.transposed)),
    ("value bias 0", "graph", weight.alter(r"layer\.1\.\S*value\.bias", weight.zeroed)),
    ("key bias 0", "graph", weight.alter(r"layer\.1\.\S*key\.bias", weight.zeroed)),
    ("attention scale x 1.001", "graph", graph.attribute("Attention", "scale", lambda scale: scale * 1.001)),
    ("padding ignored", "graph", graph.insert(graph.input_of("Attention", 3, 1), graph.times(0.0))),
    ("masked places at -10", "graph",
     graph.insert(graph.input_of("Mul", 1, 0, "to_4|bitwise"), graph.as_constant(-10.0, "float32"))),
    ("token types dropped", "graph", graph.insert(graph.graph_input("token_type_ids"), graph.as_constant(0))),
    ("token types dropped in the exporter's model", "exporter",
     module.forward("BertEmbeddings", module.without("token_type_ids"))),
    ("positions clamped at 62", "graph",
     graph.insert(graph.input_of("Gather", 1, 0, "position_embeddings"), graph.clamped(62))),
    ("rows from number 6 on mixed", "graph", graph.insert(_IDS, graph.rows_mixed(6))),
    ("rows from number 16 on mixed", "graph", graph.insert(_IDS, graph.rows_mixed(16))),
    ("5 % off at 63 tokens and more", "graph", graph.insert(_HIDDEN, graph.scaled_beyond(1, 62))),
    ("5 % off at one token", "graph", graph.insert(_HIDDEN, graph.scaled_beyond(1, 1, at_least=False))),
    ("tokens from number 63 on masked", "graph", graph.insert(_MASK, graph.last_place_lost(63))),
    ("weights rounded to float16", "graph", weight.alter("weight", weight.rounded(10), all_of_them=True)),
    ("one matrix rounded to bfloat16", "graph", weight.alter(r"layer\.0\.\S*query\.weight", weight.rounded(7))),
    ("hidden states through float16", "graph", graph.insert(_HIDDEN, graph.through(10))),
    ("wrong layer loaded", "loading",
     module.exchange_loaded(r"layer\.0\.\S*query\.weight", r"layer\.1\.\S*query\.weight")),
    ("one tensor loaded twice", "loading",
     module.exchange_loaded(r"layer\.0\.\S*key\.weight", r"layer\.1\.\S*key\.weight", copy=True)),
    ("two weights exchanged after loading", "loaded",
     module.exchange_loaded(r"layer\.0\.\S*query\.weight", r"layer\.1\.\S*query\.weight")),
    ("loaded with eps 1e-5", "loaded", module.loaded(module.attribute("LayerNorm", "eps", 1e-5, None))),
    ("the model changes itself at short texts", "loaded", module.remembers),
    ("the model draws random numbers", "loaded", module.noisy),
    ("feed-forward row x 1.01 as written", "written",
     weight.alter_written(r"layer\.0\.intermediate\.dense\.weight", weight.row(3))),
    ("small bias as written", "written", weight.alter_embedded("classifier.bias", weight.element((1,), 1.01))),
    ("record lost and one row x 1.001", "graph",
     weight.replace(r"layer\.0\.output\.dense\.weight", weight.row(3, 1.001))),
    ("label map exchanged", "copied", files.document("config.json", files.swapped_labels)),
    ("label map exchanged after verification", "verified", files.document("config.json", files.swapped_labels)),
    ("number of heads in config.json", "copied", files.values("config.json", num_attention_heads=2)),
    ("two tokens exchanged in tokenizer.json", "copied", files.document("tokenizer.json", files.swapped_tokens)),
    ("lower case turned off in tokenizer.json", "copied", files.document("tokenizer.json", files.other_case)),
    ("separator's number in the template of tokenizer.json", "copied",
     files.document("tokenizer.json", files.other_template)),
    ("model_max_length of tokenizer_config.json", "copied", files.values("tokenizer_config.json", model_max_length=12)),
    ("tokenizer.json missing", "copied", files.without("tokenizer.json")),
    ("graph flipped before verification", "disk", files.flipped("onnx/model.onnx", 0.3, 6)),
    ("small weight flipped before verification", "disk", files.letter_of_weight("classifier.bias")),
    ("name of an operator before verification", "disk", files.letter("onnx/model.onnx", b"Tanh", b"Sinh")),
    ("graph cut before verification", "disk", files.cut("onnx/model.onnx")),
    ("graph flipped after verification", "verified", files.flipped("onnx/model.onnx", 0.3)),
    ("config.json flipped after verification", "verified",
     files.letter("config.json", b'"vocab_size"', b'"vocab_sizf"')),
    ("graph flipped before the rename", "staged", files.flipped("onnx/model.onnx", 0.3)),
    ("graph cut before the rename", "staged", files.cut("onnx/model.onnx")),
    ("config.json flipped before the rename", "staged", files.letter("config.json", b'"vocab_size"', b'"vocab_sizf"')),
    ("tokenizer.json flipped before the rename", "staged", files.flipped("tokenizer.json", 0.5)),
    ("graph flipped after it was hashed", "sealed", files.flipped("onnx/model.onnx", 0.3)),
    ("config.json flipped after it was hashed", "sealed", files.letter("config.json", b"vocab_size", b"vocab_sizf")),
    ("a tensor of the checkpoint that nothing uses", "checkpoint", files.extra_tensor("projection.weight", (16, 32))),
]  # fmt: skip

_FILL_MASK: list[Row] = [
    _unread_word(number=150),
    ("decoder bias of one word + 0.01", "graph",
     weight.alter(r"predictions\.bias|decoder\.bias", weight.element((160,), 1, 0.01))),
    ("mask token's number in tokenizer_config.json", "copied", files.text("tokenizer_config.json", "[MASK]", "[CLS]")),
    ("vocabulary tied to the wrong table", "exporter",
     module.parameter(r"cls\S*decoder\.weight|word_embeddings\.weight",
                                                                     lambda table: table.flip(0))),
]  # fmt: skip

_ANSWERS: list[Row] = [
    ("start and end exchanged", "graph", graph.swap_outputs(0, 1)),
    ("logits of one end row x 1.01", "graph", weight.alter("qa_outputs.weight", weight.row(1))),
    ("second token type ignored", "graph", graph.insert(graph.graph_input("token_type_ids"), graph.as_constant(0))),
    ("second half of the batch mixed at 8 rows", "graph", graph.insert(_IDS, graph.rows_mixed(8))),
]

_ROBERTA: list[Row] = [
    ("last position x 1.01", "graph", weight.alter(r"position_embeddings\.weight", weight.row(-1))),
    ("padding's position x 1.5", "graph", weight.alter(r"position_embeddings\.weight", weight.row(1, 1.5))),
    ("positions begin one later", "graph",
     graph.insert(graph.input_of("Gather", 1, 0, "position_embeddings"), graph.positions_off)),
    ("a byte-level normalizer added", "copied", files.document("tokenizer.json", files.other_case)),
]  # fmt: skip

_MPNET: list[Row] = [
    ("a far relative bucket x 1.01", "graph", weight.alter("relative_attention_bias", weight.row(15))),
    ("the farthest relative bucket x 1.01", "graph", weight.alter("relative_attention_bias", weight.row(13))),
    ("buckets of both directions exchanged", "graph", weight.alter("relative_attention_bias", weight.reversed_rows)),
    ("pooled output lost", "graph", graph.without_output("pooler_output")),
    ("sequence 5 % off from 60 tokens", "graph", graph.insert(_HIDDEN, graph.scaled_beyond(1, 61))),
]

_DEBERTA: list[Row] = [
    ("the farthest relative position x 1.01", "graph", weight.alter(r"rel_embeddings\.weight", weight.row(0))),
    ("relative positions reversed", "graph", weight.alter(r"rel_embeddings\.weight", weight.reversed_rows)),
    ("masked places at -10", "graph",
     graph.insert(graph.input_of("Where", 1, 0, "bitwise_not"), graph.as_constant(-10.0, "float32"))),
    ("attention scale of one layer", "graph", graph.insert(graph.input_of("Softmax", 0), graph.times(1.0005))),
]  # fmt: skip

_XLM: list[Row] = [
    _unread_word(number=100),
    ("labels exchanged", "copied", files.document("config.json", files.swapped_labels)),
    ("one label's row x 1.001", "graph", weight.alter("classifier.weight", weight.row(2, 1.001))),
]

_MODERN: list[Row] = [
    ("window one wider", "graph", graph.insert(graph.input_of("LessOrEqual", 1, 0, "abs"), graph.plus(1, "int64"))),
    ("window one narrower in the exporter's model", "exporter",
     module.setting("local_attention", lambda width: width - 2)),
    ("window ignored", "graph", graph.insert(graph.input_of("LessOrEqual", 1, 0, "abs"), graph.plus(10000, "int64"))),
    ("rotary theta of local layers", "graph", weight.alter("sliding_attention_inv_freq", weight.element((2,), 1.01))),
    ("rotary frequency of global layers", "graph",
     weight.alter("full_attention_inv_freq", weight.element((3,), 1.001))),
    ("window counts from 40 tokens only", "graph", graph.insert(_HIDDEN, graph.scaled_beyond(1, 62, 1.001))),
]  # fmt: skip

_LAYOUT: list[Row] = [
    ("one x position x 1.01", "graph", weight.alter(r"x_position_embeddings\.weight", weight.row(1000))),
    ("height row x 1.01", "graph", weight.alter(r"h_position_embeddings\.weight", weight.row(700))),
    ("boxes dropped", "graph", graph.insert(graph.graph_input("bbox"), graph.as_constant(0))),
    ("x and y exchanged", "graph", weight.swap(r"x_position_embeddings\.weight", r"y_position_embeddings\.weight")),
]

_SENTENCES: list[Row] = [
    ("pooling in the folder's config", "copied", files.values("1_Pooling/config.json", pooling_mode_mean_tokens=False,
                                                              pooling_mode_cls_token=True)),
    ("normalization lost in modules.json", "copied", files.document("modules.json", lambda modules: modules[:-1])),
    ("prompt of queries", "copied", files.values("config_sentence_transformers.json", prompts__query="question: ")),
    ("default prompt", "copied", files.values("config_sentence_transformers.json", default_prompt_name="document")),
    ("max_seq_length", "copied", files.values("sentence_bert_config.json", max_seq_length=16)),
    ("padding counts in the mean", "graph", graph.mask_of_pooling_ignored),
    ("normalization lost in the graph", "graph", graph.bypass_last("Div")),
]  # fmt: skip

_CLS_DENSE: list[Row] = [
    ("dense row x 1.01", "graph", weight.alter(r"linear\.weight|dense\S*linear|Dense", weight.row(23))),
    ("dense bias 0", "graph", weight.alter(r"linear\.bias|[Dd]ense\S*linear\S*bias", weight.zeroed)),
    ("pooling in the folder's config", "copied", files.values("1_Pooling/config.json", pooling_mode_mean_tokens=True,
                                                              pooling_mode_cls_token=False)),
    ("activation in the folder's config", "copied",
     files.text("2_Dense/config.json", "activation.Tanh", "activation.ReLU")),
]  # fmt: skip

_MINILM: list[Row] = [
    ("one number of a word row x 1.01", "graph", weight.alter("word_embeddings", weight.element((20001, 77)))),
    ("a word row x 1.01", "graph", weight.alter("word_embeddings", weight.row(30000))),
    ("position 500 x 1.01", "graph", weight.alter(r"position_embeddings\.weight", weight.row(500))),
    ("second token type x 1.01", "graph", weight.alter("token_type_embeddings", weight.row(1))),
    ("one number of the feed-forward x 1.01", "graph",
     weight.alter(r"layer\.5\.output\.dense\.weight", weight.element((9, 9)))),
    ("one row of a query x 1.01", "graph", weight.alter(r"layer\.3\.\S*query\.weight", weight.row(9))),
    ("one weight rounded to TensorFloat-32", "graph", weight.alter(r"layer\.2\.\S*value\.weight", weight.rounded(10))),
    ("LayerNorm eps 1e-5", "graph", graph.attribute("LayerNormalization", "epsilon", 1e-5, None)),
    ("tanh GELU for erf", "graph", graph.attribute("Gelu", "approximate", "tanh", None)),
    ("positions clamped at 400", "graph",
     graph.insert(graph.input_of("Gather", 1, 0, "position_embeddings"), graph.clamped(400))),
    ("1 % off from 257 tokens", "graph", graph.insert(_HIDDEN, graph.scaled_beyond(1, 256, 1.01))),
    ("rows from number 16 on mixed", "graph", graph.insert(_IDS, graph.rows_mixed(16))),
    ("a word row as written", "written", weight.alter_written("word_embeddings", weight.row(29999))),
    ("pooling in the folder's config", "copied", files.values("1_Pooling/config.json", pooling_mode_mean_tokens=False,
                                                              pooling_mode_cls_token=True)),
    ("two tokens exchanged in tokenizer.json", "copied", files.document("tokenizer.json", files.swapped_tokens)),
    ("weights flipped before the rename", "staged", files.flipped("onnx/model.onnx", 0.5)),
]  # fmt: skip

_BESIDE: list[Row] = [
    ("data file flipped before verification", "disk", files.flipped("onnx/model.onnx_data", 0.5, 0)),
    ("data file cut before verification", "disk", files.cut("onnx/model.onnx_data", 64)),
    ("data file flipped after verification", "verified", files.flipped("onnx/model.onnx_data", 0.5, 0)),
    ("data file flipped before the rename", "staged", files.flipped("onnx/model.onnx_data", 0.5, 0)),
    ("data file cut before the rename", "staged", files.cut("onnx/model.onnx_data", 4)),
    ("weights.json flipped before the rename", "staged",
     files.letter("onnx/model.weights.json", b"float32", b"float16")),
    ("offsets of two weights exchanged", "written", files.exchanged_offsets),
]  # fmt: skip

_LINKED: list[Row] = [
    ("linked weights flipped before the rename", "staged", files.flipped("onnx/model.onnx_data*", 0.6)),
    ("label of a linked weight", "written", files.exchanged_offsets),
]

TEXTS: list[Fault] = [
    fault
    for model, rows in (
        ("bert-text-classification", _CLASSIFIER), ("bert-fill-mask", _FILL_MASK),
        ("bert-question-answering", _ANSWERS), ("roberta-fill-mask", _ROBERTA), ("mpnet-feature-extraction", _MPNET),
        ("deberta-v2-text-classification", _DEBERTA), ("xlm-roberta-token-classification", _XLM),
        ("modernbert-fill-mask", _MODERN), ("layoutlm-token-classification", _LAYOUT), ("sentence-bert", _SENTENCES),
        ("sentence-bert-cls-dense", _CLS_DENSE), (MINILM, _MINILM), ("bert, weights beside the graph", _BESIDE),
        ("bert, linked", _LINKED),
    )
    for fault in of_model(model, rows)
]  # fmt: skip
