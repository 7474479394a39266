"""What a file of Keras 2 would run or import is found in its configuration."""

from __future__ import annotations

from typing import Any

import pytest

from onnxport.sources.tensorflow.keras_2 import code_in


def _model(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"class_name": "Functional", "module": "keras.src.engine.functional", "config": {"layers": list(layers)}}


@pytest.mark.parametrize(
    ("layer", "found"),
    [
        ({"class_name": "Lambda", "config": {"function": ["code", None, None]}}, "a Lambda layer"),
        ({"class_name": "TFOpLambda", "config": {"function": "io.write_file"}}, "tf.io.write_file"),
        ({"class_name": "TFOpLambda", "config": {"function": "math.reduce_mean"}}, None),
        ({"class_name": "Popen", "module": "subprocess", "config": {"args": ["id"]}}, "subprocess.Popen"),
        ({"class_name": "Layer", "module": "kerasify.layers", "config": {}}, "kerasify.layers.Layer"),
        ({"class_name": "Dense", "module": "keras.layers", "config": {"units": 3}}, None),
        ({"class_name": "Dense", "config": {"units": 3, "activation": "relu"}}, None),
    ],
)
def test_layers(layer: dict[str, Any], found: str | None) -> None:
    assert code_in(_model(layer)) == found
    assert code_in(_model({"class_name": "TimeDistributed", "config": {"layer": layer}})) == found


@pytest.mark.parametrize(
    ("module", "name", "found"),
    [
        ("builtins", "relu", None),
        ("keras.activations", "gelu", None),
        ("keras.src.activations", "gelu", None),
        ("os", "system", "os.system"),
        ("keras.utils", "get_file", "keras.utils.get_file"),
    ],
)
def test_functions(module: str, name: str, found: str | None) -> None:
    function = {"class_name": "function", "module": module, "config": name, "registered_name": name}
    layer = {"class_name": "Dense", "module": "keras.layers", "config": {"units": 3, "activation": function}}
    assert code_in(_model(layer)) == found
