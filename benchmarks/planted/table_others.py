"""Faults in models of images and sounds, live modules, Keras models and SavedModels, and in quantized graphs."""

from __future__ import annotations

from benchmarks.planted import file_edits as files
from benchmarks.planted import graph_edits as graph
from benchmarks.planted import keras_edits as keras
from benchmarks.planted import module_edits as module
from benchmarks.planted import quantized_edits as quantized
from benchmarks.planted import weight_edits as weight
from benchmarks.planted.fault import Fault, Row, of_model

_PIXELS = graph.graph_input("pixel_values")
_PROCESSOR = "preprocessor_config.json"

_VIT: list[Row] = [
    ("last patch position x 1.01", "graph", weight.alter("position_embeddings", weight.element((0, 16, 3)))),
    ("class token + 0.001", "graph", weight.alter("cls_token", weight.element((0, 0, 3), 1, 1e-3))),
    ("patch kernel of one channel transposed", "graph", weight.alter("projection.weight", weight.transposed)),
    ("image mean", "copied", files.values(_PROCESSOR, image_mean=[0.485, 0.456, 0.406])),
    ("image std", "copied", files.values(_PROCESSOR, image_std=[0.229, 0.224, 0.225])),
    ("resampling", "copied", files.values(_PROCESSOR, resample=0)),
    ("rescaling off", "copied", files.values(_PROCESSOR, do_rescale=False)),
    ("normalization off", "copied", files.values(_PROCESSOR, do_normalize=False)),
    ("rescale factor 1/256", "copied", files.values(_PROCESSOR, rescale_factor=1 / 256)),
    ("labels exchanged", "copied", files.document("config.json", files.swapped_labels)),
    ("rows from number 6 on mixed", "graph", graph.insert(_PIXELS, graph.rows_mixed(6))),
    ("bright pixels clipped", "graph", graph.insert(_PIXELS, graph.clipped(0.9))),
    ("pixels beyond the processor's range clipped", "graph", graph.insert(_PIXELS, graph.clipped(2.5))),
    ("preprocessor flipped before the rename", "staged", files.letter(_PROCESSOR, b"image_mean", b"image_meam")),
]
_RESNET: list[Row] = [
    ("BatchNorm eps 1e-3 in the exporter's model", "exporter", module.attribute("BatchNorm", "eps", 1e-3)),
    ("running mean + 0.001", "exporter",
     module.parameter("running_mean", lambda mean: mean + 1e-3)),
    ("one tap of a kernel x 1.01", "graph",
     weight.alter("embedder.*convolution.weight|embedder.*weight", weight.element((2, 1, 1, 1)))),
    ("padding of a convolution", "graph", graph.shifted_padding),
    ("average over one row too few", "graph", graph.insert(graph.last_float_before_flatten, graph.times(1.0002))),
]  # fmt: skip
_CONVNEXT: list[Row] = [
    ("layer scale of one channel x 1.01", "graph", weight.alter("layer_scale", weight.element((3,), 1.01))),
    ("tanh GELU for erf", "graph", graph.attribute("Gelu", "approximate", "tanh", None)),
]
_DETR: list[Row] = [
    ("pixel mask dropped", "graph", graph.insert(graph.graph_input("pixel_mask"), graph.as_constant(1))),
    ("pixel mask dropped in the exporter's model", "exporter",
     module.forward("DetrForObjectDetection", module.mask_of_ones("pixel_mask"))),
    ("a query x 1.01", "graph", weight.alter("query_position_embeddings", weight.row(-1))),
    ("box of one coordinate + 1e-4", "graph",
     weight.alter(r"bbox_predictor\.layers\.2\.bias", weight.element((2,), 1, 1e-4))),
    ("labels exchanged", "copied", files.document("config.json", files.swapped_labels)),
    ("position encoding wrong from 80 pixels", "graph", graph.insert(_PIXELS, graph.scaled_beyond(2, 100, 1.02))),
]  # fmt: skip
_SEGFORMER: list[Row] = [
    ("align_corners in the exporter's model", "graph",
     graph.attribute("Resize", "coordinate_transformation_mode", "asymmetric", None)),
    ("one class x 1.01", "graph", weight.alter("classifier.weight", weight.row(1))),
    ("labels reduced", "copied", files.values(_PROCESSOR, do_reduce_labels=True)),
]  # fmt: skip
_CLIP: list[Row] = [
    ("logit scale x 1.0002", "graph", weight.alter("logit_scale|exp", weight.element((), 1.0002))),
    ("last position of the text x 1.01", "graph", weight.alter("text_model.*position_embedding", weight.row(-1))),
    ("last token of a text by number", "graph", graph.insert(graph.graph_input("input_ids"), graph.clamped(150))),
    ("projection of images transposed", "graph", weight.alter("visual_projection", weight.transposed)),
    ("crop in preprocessor_config.json", "copied", files.values(_PROCESSOR, do_center_crop=False)),
]
_WAV2VEC2: list[Row] = [
    ("vocabulary of CTC", "copied", files.document("vocab.json", files.swapped_values)),
    ("blank of CTC in config.json", "copied", files.values("config.json", pad_token_id=5)),
    ("normalization of sounds off", "copied", files.values(_PROCESSOR, do_normalize=False)),
    ("sampling rate", "copied", files.values(_PROCESSOR, sampling_rate=8000)),
    ("word delimiter", "copied", files.text("tokenizer_config.json", '"|"', '"e"')),
    ("loud sounds clipped", "graph", graph.insert(graph.graph_input("input_values"), graph.clipped(3.0))),
    ("5 % off above 12000 samples", "graph",
     graph.insert(graph.graph_input("input_values"), graph.scaled_beyond(1, 12000))),
    ("GroupNorm eps", "graph",
     graph.attribute("InstanceNormalization|GroupNormalization|LayerNormalization", "epsilon", 1e-4)),
]  # fmt: skip
_WAV2VEC2_LAYER: list[Row] = [
    ("padding of sounds ignored", "graph", graph.insert(graph.graph_input("attention_mask"), graph.as_constant(1))),
    ("mask of the processor", "copied", files.first_of(
        ("processor_config.json", _PROCESSOR), "return_attention_mask", lambda known: not known)),
]  # fmt: skip
_HUBERT: list[Row] = [
    ("labels exchanged", "copied", files.document("config.json", files.swapped_labels)),
    ("positional convolution of one group x 1.01", "graph", weight.alter("pos_conv_embed.*weight|mul_", weight.row(3))),
]

_MIXER: list[Row] = [
    ("second input in the place of the first bias", "graph", weight.swap(r"left\.bias", r"right\.bias")),
    ("one row of a live weight x 1.01", "graph", weight.alter(r"left|memory", weight.row(3))),
    ("outputs exchanged", "graph", graph.swap_outputs(0, 1)),
    ("file flipped before the rename", "staged", files.flipped("*.onnx", 0.5)),
]
_CONVOLUTIONS: list[Row] = [
    ("groups of a kernel exchanged", "graph", weight.alter(r"3\.weight", weight.reversed_rows)),
    ("resized by nearest", "graph", graph.attribute("Resize", "mode", "nearest")),
    ("5 % off above 48 pixels", "graph", graph.insert(graph.first_input, graph.scaled_beyond(2, 48))),
]
_TAGGER: list[Row] = [
    ("a row of the table that no input has x 1.01", "graph", weight.alter(r"table", weight.row(99))),
    ("a buffer's number x 1.001", "graph", weight.alter(r"weights", weight.element((3,), 1.001))),
    ("padding of a convolution in time", "graph", graph.shifted_padding),
    ("5 % off at one token", "graph",
     graph.insert(graph.output_of("LayerNormalization"), graph.scaled_beyond(1, 1, at_least=False))),
    ("a live parameter differs in the exporter's model", "exporter",
     module.parameter("out.weight", lambda w: w * 1.001)),
]  # fmt: skip

_KERAS_TEXT: list[Row] = [
    ("a row of the table that no case reads x 1.01", "graph", weight.alter_shape((50, 128), weight.row(49))),
    ("one number of a dense layer x 1.01", "graph", weight.alter_shape((128, 128), weight.element((3, 3)))),
    ("mask dropped", "graph", graph.insert(graph.graph_input("mask"), graph.as_constant(1, "int32"))),
    ("a variable differs in the exporter's model", "exporter", keras.variable((128, 128), 1.001)),
    ("rows from number 6 on mixed", "graph", graph.insert(graph.graph_input("ids"), graph.rows_mixed(6))),
    ("graph flipped before the rename", "staged", files.flipped("onnx/model.onnx", 0.5)),
    ("weight as written x 1.01", "written", weight.alter_written("", weight.row(0))),
]
_KERAS_IMAGE: list[Row] = [
    ("one channel of a kernel x 1.01", "graph", weight.alter_shape((64, 3, 3, 3), weight.row(3))),
    ("scores' bias + 0.0001", "graph", weight.alter_shape((4,), weight.element((1,), 1, 1e-4))),
    ("5 % off above 40 pixels", "graph", graph.insert(graph.first_input, graph.scaled_beyond(1, 40))),
]
_KERAS_RECURRENT: list[Row] = [
    ("recurrent weights of one gate x 1.01", "graph", keras.recurrent_row("LSTM", 2, 3)),
    ("directions exchanged", "graph", keras.directions_exchanged),
    ("5 % off above 20 steps", "graph", graph.insert(graph.first_input, graph.scaled_beyond(1, 70))),
]
_SAVED_TEXT: list[Row] = [
    ("a row of the table x 1.01", "graph", weight.alter_shape((50, 128), weight.row(48))),
    ("a variable differs from the checkpoint", "loaded", keras.loaded_variable((50, 128), 1.01)),
    ("hidden output lost", "graph", graph.without_output("hidden")),
]
_SAVED_SIGNATURES: list[Row] = [
    ("shared weight's row x 1.01", "graph", weight.alter_shape((128, 160), weight.row(100))),
    ("tanh GELU for erf", "graph", graph.insert(graph.output_of("Erf|Gelu"), graph.times(1.0002))),
]

_INT8: list[Row] = [
    ("scale of one weight x 1.05", "quantized", quantized.scale(1.05)),
    ("zero point + 1", "quantized", quantized.zero_point),
    ("one column of int8 weights 0", "quantized", quantized.column_zero),
    ("graph flipped before the rename", "quantized", quantized.flip),
]
_INT4: list[Row] = [
    ("scale of one block x 1.05", "quantized", quantized.block_scale(1.05)),
    ("scale of one block of the table x 1.05", "quantized", quantized.block_scale(1.05, last=True)),
    ("two blocks exchanged", "quantized", quantized.blocks_exchanged),
    ("one number of a block", "quantized", quantized.nibble),
]

OTHERS: list[Fault] = [
    *(
        fault
        for model, rows in (
            ("vit-image-classification", _VIT), ("resnet-image-classification", _RESNET),
            ("convnext-image-classification", _CONVNEXT), ("detr-object-detection", _DETR),
            ("segformer-semantic-segmentation", _SEGFORMER), ("clip-zero-shot-image-classification", _CLIP),
            ("wav2vec2-automatic-speech-recognition", _WAV2VEC2),
            ("wav2vec2-layer-automatic-speech-recognition", _WAV2VEC2_LAYER), ("hubert-audio-classification", _HUBERT),
            ("module mixer", _MIXER), ("module convolutions", _CONVOLUTIONS), ("module tagger", _TAGGER),
            ("keras text_classifier", _KERAS_TEXT), ("keras image_network", _KERAS_IMAGE),
            ("keras recurrent", _KERAS_RECURRENT), ("SavedModel text_classifier", _SAVED_TEXT),
            ("SavedModel signatures", _SAVED_SIGNATURES),
        )
        for fault in of_model(model, rows)
    ),
    *of_model("bert-text-classification", _INT8, precision="int8", ending="int8"),
    *of_model("bert-text-classification", _INT4, precision="int4", ending="int4"),
    *of_model("decoder llama", _INT4, precision="int4", ending="int4"),
]  # fmt: skip
