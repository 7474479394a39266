"""What text-embeddings-inference (TEI) reads in a folder, and what config.json gets so that it can.

Source: router/src/lib.rs and backends/ort/src/lib.rs of text-embeddings-inference 1.9. Its ONNX backend opens
`onnx/model.onnx`, and gives it `input_ids` and `attention_mask`, also `token_type_ids` and `position_ids` where the
graph takes them. It returns `sentence_embedding` as it is, and of a classifier `logits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxport.artifact.manifest import Component
from onnxport.formats.json_file import read_object_if_present

_CLASSIFIER = "ForSequenceClassification"
_GRAPH = "onnx/model.onnx"
_GIVEN = {"input_ids", "attention_mask"}
_KNOWN = _GIVEN | {"token_type_ids", "position_ids"}
# Numbers that TEI reads; and their names in configs of models that have others (`attribute_map` of transformers).
_NUMBERS = ("hidden_size", "num_hidden_layers")
_OTHER_NAMES = {"distilbert": ("dim", "n_layers")}
_DEFAULT_LABELS = 2  # of transformers, for a config without labels
_SENTENCES, _TOKENIZER = "sentence_bert_config.json", "tokenizer.json"


def additions(config: Mapping[str, Any]) -> dict[str, Any]:
    """What TEI needs beyond a config.json, in words that transformers reads as what the config says already.

    transformers leaves out the labels of a classifier with two unnamed ones, and DistilBERT has other names for the
    width and the number of layers.
    """
    others = _OTHER_NAMES.get(str(config.get("model_type")), ())
    made = {name: config[own] for name, own in zip(_NUMBERS, others, strict=False) if own in config}
    if any(str(name).endswith(_CLASSIFIER) for name in config.get("architectures") or ()):
        count, labels = config.get("num_labels", _DEFAULT_LABELS), config.get("id2label")
        if not labels and isinstance(count, int):
            labels = made["id2label"] = {str(number): f"LABEL_{number}" for number in range(count)}
        if isinstance(labels, dict):
            made["label2id"] = {str(name): int(number) for number, name in labels.items()}
    return {name: value for name, value in made.items() if not config.get(name)}


def missing_for_server(root: Path, graph: Component) -> list[str]:
    """What a folder of texts lacks for TEI, as words for people; nothing if it can be served.

    Args:
        root: the folder.
        graph: its main graph.

    Raises:
        CheckpointError: a file is not a JSON object.
    """
    config = read_object_if_present(root / "config.json")
    inputs, outputs = {spec.name for spec in graph.inputs}, {spec.name: spec for spec in graph.outputs}
    classifier = any(str(name).endswith("Classification") for name in config.get("architectures") or ())
    wanted = ("logits",) if classifier else ("sentence_embedding", "last_hidden_state", "token_embeddings")
    found = [name for name in wanted if name in outputs and outputs[name].dtype == "float32"]
    faults = {
        _GRAPH: graph.file == _GRAPH,
        _TOKENIZER: (root / _TOKENIZER).is_file(),
        f"inputs {', '.join(sorted(_KNOWN))}": _GIVEN <= inputs <= _KNOWN,
        f"a float32 output {' or '.join(wanted)}": bool(found),
        "logits for a text": not classifier or (bool(found) and len(outputs["logits"].axes) == 2),
    }
    names: dict[str, type] = {"architectures": list, "model_type": str, "max_position_embeddings": int}
    names |= dict.fromkeys(_NUMBERS, int)
    names |= {"id2label": dict, "label2id": dict} if classifier else {}
    faults |= {f"{name} in config.json": isinstance(config.get(name), kind) for name, kind in names.items()}
    if (root / _SENTENCES).is_file():
        length = read_object_if_present(root / _SENTENCES).get("max_seq_length")
        faults[f"max_seq_length in {_SENTENCES}"] = isinstance(length, int)
    return [what for what, there in faults.items() if not there]
