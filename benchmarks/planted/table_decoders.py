"""Faults in decoders, encoder-decoders and models with images in their text."""

from __future__ import annotations

from benchmarks.planted import file_edits as files
from benchmarks.planted import graph_edits as graph
from benchmarks.planted import module_edits as module
from benchmarks.planted import weight_edits as weight
from benchmarks.planted.fault import Fault, Row, of_model

_IDS, _MASK = graph.graph_input("input_ids"), graph.graph_input("attention_mask")
_PAST = "past_key_values.0.key"

_LLAMA: list[Row] = [
    ("a word row that no text has x 1.01", "graph", weight.alter("embed_tokens", weight.row(377))),
    ("lm_head column of a word x 1.01", "graph", weight.alter(r"lm_head", weight.row(377, axis=1))),
    ("one number of o_proj x 1.01", "graph", weight.alter(r"layers\.1\.self_attn\.o_proj", weight.element((3, 3)))),
    ("rotary frequency x 1.0001", "graph", weight.alter("inv_freq", weight.element((3,), 1.0001))),
    ("rotary theta of reference and graph", "loaded",
     module.loaded(module.parameter("inv_freq", lambda values: values * 0.9))),
    ("gate and up exchanged", "graph", weight.swap(r"layers\.0\.mlp\.gate_proj", r"layers\.0\.mlp\.up_proj")),
    ("query and output exchanged", "graph", weight.swap_numbers(r"layers\.0\.\S*q_proj", r"layers\.0\.\S*o_proj")),
    ("causality off by one", "graph", graph.operator("LessOrEqual", "Less")),
    ("a token sees one token ahead", "graph", graph.insert(graph.input_of("LessOrEqual", 1), graph.plus(1, "int64"))),
    ("left padding ignored", "graph", graph.insert(graph.graph_input("attention_mask"), graph.as_constant(1))),
    ("cache of the other layer", "graph",
     graph.swap_inputs_of_graph("past_key_values.0.value", "past_key_values.1.value")),
    ("value of layer 1 as present of layer 0", "graph", graph.swap_outputs(2, 4)),
    ("5 % off over a past of 100", "graph", graph.scaled_by(_PAST, 2, 100)),
    ("5 % off over a past of 200", "graph", graph.scaled_by(_PAST, 2, 200)),
    ("5 % off in prompts of 130 tokens", "graph", graph.scaled_by("input_ids", 1, 129)),
    ("positions clamped at 150", "graph", graph.insert(graph.graph_input("position_ids"), graph.clamped(150))),
    ("rows from number 6 on mixed", "graph", graph.insert(_IDS, graph.rows_mixed(6))),
    ("RMSNorm eps 1e-5", "graph", graph.attribute("RMSNormalization", "epsilon", 1e-5, None)),
    ("rotary interleaved", "graph", graph.attribute("RotaryEmbedding", "interleaved", 1, None)),
    ("all but the last logits lost", "graph",
     graph.insert(graph.graph_input("num_logits_to_keep"), graph.plus(1, "int64"))),
    ("weights rounded to bfloat16", "graph", weight.alter("proj", weight.rounded(7), all_of_them=True)),
    ("end of text in generation_config.json", "copied", files.values("generation_config.json", eos_token_id=7)),
    ("end of text in config.json", "copied", files.values("config.json", eos_token_id=7)),
    ("repetition penalty in generation_config.json", "copied",
     files.values("generation_config.json", repetition_penalty=1.3)),
    ("chat template", "copied", files.text("chat_template.jinja", "role", "name")),
    ("chat template after verification", "verified", files.text("chat_template.jinja", "content", "text")),
    ("two tokens exchanged in tokenizer.json", "copied", files.document("tokenizer.json", files.swapped_tokens)),
    ("two merges exchanged in tokenizer.json", "copied", files.document("tokenizer.json", files.swapped_merges)),
    ("generation_config.json flipped before the rename", "staged", files.flipped("generation_config.json", 0.5)),
    ("key and value weights exchanged at loading", "loading",
     module.exchange_loaded(r"layers\.0\.\S*k_proj\.weight", r"layers\.0\.\S*v_proj\.weight")),
]  # fmt: skip

_GPT2: list[Row] = [
    ("position 200 x 1.01", "graph", weight.alter(r"wpe", weight.row(200))),
    ("last position x 1.01", "graph", weight.alter(r"wpe", weight.row(255))),
    ("mask over the past only", "graph", graph.insert(graph.input_of("Attention", 3, 1), graph.times(0.0))),
    ("erf GELU for tanh in the exporter's model", "exporter",
     module.attribute("GPT2MLP", "act", lambda _: __import__("torch").nn.GELU(), None)),
    ("attention scale of one layer", "graph", graph.attribute("Attention", "scale", lambda s: s * 1.0005, 1)),
    ("fused query, key and value rolled", "graph",
     weight.alter(r"h\.0\.attn\.c_attn\.weight", lambda v: weight.rolled(v.T).T)),
]  # fmt: skip

_MISTRAL: list[Row] = [
    ("window one wider", "graph", graph.operator("Greater", "GreaterOrEqual")),
    ("window one narrower in the exporter's model", "exporter", module.setting("sliding_window", lambda w: w - 1)),
    ("window ignored", "graph", graph.insert(graph.input_of("Greater", 1), graph.plus(-100000, "int64"))),
    ("window wrong over a past of 80", "graph", graph.scaled_by(_PAST, 2, 80, 1.001)),
]

_GEMMA: list[Row] = [
    ("rotary frequency of local layers", "graph",
     weight.alter("sliding_attention_inv_freq", weight.element((1,), 1.001))),
    ("embedding scale x 1.0001", "graph", weight.alter("embed_scale", weight.element((), 1.0001))),
    ("norm of queries x 1.001", "graph", weight.alter("add_11", weight.element((3,), 1.001))),
    ("window of the local layer one wider", "graph", graph.operator("Greater", "GreaterOrEqual")),
    ("erf GELU for tanh", "graph", graph.attribute("Gelu", "approximate", "none", None)),
]  # fmt: skip

_BLOOM: list[Row] = [
    ("one head's value bias + 0.001", "graph",
     weight.alter(r"h\.1\.\S*query_key_value\.bias", weight.element((90,), 1, 1e-3))),
    ("a word row x 1.01", "graph", weight.alter(r"word_embeddings\.weight|lm_head", weight.row(20))),
]  # fmt: skip

_GGUF: list[Row] = [
    ("a row of a file without names x 1.01", "graph", weight.alter(r"layers\.1\.mlp\.down_proj", weight.row(3))),
    (
        "two weights exchanged after loading",
        "loaded",
        module.exchange_loaded(r"layers\.0\.\S*up_proj", r"layers\.1\.\S*up_proj"),
    ),
]

_T5_ENCODER: list[Row] = [
    ("far relative bucket x 1.01", "graph", weight.alter("relative_attention_bias", weight.row(15))),
    ("farthest relative bucket x 1.01", "graph", weight.alter("relative_attention_bias", weight.row(31))),
    ("a word row that no text has x 1.01", "graph", weight.alter("lm_head|shared", weight.row(1999))),
    ("distances clamped at 60", "graph", graph.insert(graph.input_of("Where", 1, 0, "lt"), graph.clamped(15))),
    ("padding ignored", "graph", graph.insert(_MASK, graph.as_constant(1))),
    ("cross cache of the other layer", "graph", graph.swap_outputs(1, 3)),
    ("start of the decoder in generation_config.json", "copied",
     files.values("generation_config.json", decoder_start_token_id=9)),
    ("start of the decoder in config.json", "copied", files.values("config.json", decoder_start_token_id=9)),
    ("shared table flipped before the rename", "staged", files.flipped("onnx/encoder_model.onnx_data", 0.7)),
]  # fmt: skip

_T5_DECODER: list[Row] = [
    ("far relative bucket of the decoder x 1.01", "graph", weight.alter("relative_attention_bias", weight.row(30))),
    ("cross attention ignores padding", "graph", graph.insert(graph.input_of("Attention", 3, 1), graph.times(0.0))),
    ("causality off by one", "graph", graph.operator("LessOrEqual", "Less")),
    ("one row of cross attention x 1.01", "graph", weight.alter(r"EncDecAttention\.q", weight.row(5))),
    ("tied output scaled by 1.0005", "graph", graph.scaled_output_layer),
]

_BART: list[Row] = [
    ("last position of the encoder x 1.01", "graph", weight.alter(r"encoder\.embed_positions", weight.row(-1))),
    ("LayerNorm eps 1e-4", "graph", graph.attribute("LayerNormalization", "epsilon", 1e-4, None)),
    ("encoder's layers exchanged", "exporter", module.swapped_layers("encoder.layers$")),
    ("forced beginning in generation_config.json", "copied",
     files.document("generation_config.json", lambda content: content.update(forced_bos_token_id=11))),
]  # fmt: skip
_BART_DECODER: list[Row] = [
    ("last position of the decoder x 1.01", "graph", weight.alter(r"decoder\.embed_positions", weight.row(-1))),
    ("final bias of one word", "graph", weight.alter("final_logits_bias|lm_head", weight.element((0, 5), 1.01, 0.001))),
]

_WHISPER: list[Row] = [
    ("last position of the sound x 1.01", "graph", weight.alter(r"embed_positions|^embedding ", weight.row(-1))),
    ("one tap of a convolution x 1.01", "graph", weight.alter("conv1.weight", weight.element((3, 4, 2)))),
    ("hop length in preprocessor_config.json", "copied", files.values("preprocessor_config.json", hop_length=80)),
    ("number of frequencies in preprocessor_config.json", "copied",
     files.values("preprocessor_config.json", n_fft=200)),
    ("suppressed tokens in generation_config.json", "copied",
     files.document("generation_config.json", lambda content: content.update(suppress_tokens=[3, 4, 5]))),
]  # fmt: skip
_WHISPER_DECODER: list[Row] = [
    ("position 90 x 1.01", "graph", weight.alter(r"decoder\.embed_positions|embed_positions", weight.row(90))),
    ("cross attention of the wrong layer", "graph",
     graph.swap_inputs_of_graph("past_key_values.0.encoder.value", "past_key_values.1.encoder.value")),
    ("5 % off over a past of 70", "graph", graph.scaled_by("past_key_values.0.decoder.key", 2, 70)),
]  # fmt: skip

_CAPTIONS: list[Row] = [
    ("image mean", "copied", files.values("preprocessor_config.json", image_mean=[0.4, 0.5, 0.5])),
    ("patch row x 1.01", "graph", weight.alter("projection.weight", weight.row(3))),
]

_LLAVA: list[Row] = [
    ("projector row x 1.01", "graph", weight.alter(r"linear_1\.weight", weight.row(3))),
    ("image token in config.json", "copied", files.values("config.json", image_token_index=5)),
    ("crop in preprocessor_config.json", "copied", files.values("preprocessor_config.json", do_center_crop=False)),
]
_LLAVA_TABLE: list[Row] = [("a word row x 1.01", "graph", weight.alter("lm_head|embed_tokens", weight.row(1999)))]
_LLAVA_DECODER: list[Row] = [
    ("causality off by one", "graph", graph.operator("LessOrEqual", "Less")),
    ("5 % off over a past of 100", "graph",
     graph.insert(graph.output_of("RMSNormalization"), graph.scaled_beyond(1, 100))),
]  # fmt: skip

DECODERS: list[Fault] = [
    fault
    for model, part, rows in (
        ("decoder llama", 0, _LLAMA), ("decoder gpt2", 0, _GPT2), ("decoder mistral", 0, _MISTRAL),
        ("decoder gemma3_text", 0, _GEMMA), ("decoder bloom", 0, _BLOOM), ("gguf llama", 0, _GGUF),
        ("encoder-decoder t5", 0, _T5_ENCODER), ("encoder-decoder t5", 1, _T5_DECODER),
        ("encoder-decoder bart", 0, _BART), ("encoder-decoder bart", 1, _BART_DECODER),
        ("encoder-decoder whisper", 0, _WHISPER), ("encoder-decoder whisper", 1, _WHISPER_DECODER),
        ("vision-encoder-decoder", 0, _CAPTIONS), ("images in text llava", 0, _LLAVA),
        ("images in text llava", 1, _LLAVA_TABLE), ("images in text llava", 2, _LLAVA_DECODER),
    )
    for fault in of_model(model, rows, part)
]  # fmt: skip
