"""The ledger of weights of TensorFlow: variables that tf2onnx rearranges, folds and renames."""

import numpy as np
import pytest

import onnxport
from onnxport.artifact.folder import read_folder
from onnxport.artifact.ledger import Proof
from onnxport.errors import VerificationError
from onnxport.graph.array_weight import ArrayWeight
from onnxport.loading.model_to_export import load_model_to_export
from onnxport.loading.options import LoadOptions
from onnxport.loading.resolve import resolve_model
from onnxport.verification.ledger.graph_weights import record_weights
from tests.sample import sampled

pytestmark = pytest.mark.integration
tiny_keras = pytest.importorskip("tests.tiny_keras")


def _draw(model) -> None:
    """Biases and norms begin as zeros and ones, all alike."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if np.issubdtype(variable.numpy().dtype, np.floating):
            variable.assign(np.abs(rng.normal(0.5, 0.3, variable.shape)).astype("float32") + 0.01)


def _wide():
    """Two layers of one shape, with more than the 8192 elements from which on variables keep their names."""
    layers = tiny_keras.keras.layers
    inputs = tiny_keras.keras.Input((96,), name="features")
    hidden = layers.Dense(96, activation="tanh", name="first")(inputs)
    model = tiny_keras.keras.Model(inputs, layers.Dense(96, name="second")(hidden))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(0, 0.1, variable.shape).astype("float32"))
    return model


@pytest.mark.parametrize(
    "build", sampled([_wide, tiny_keras.image_network, tiny_keras.recurrent], _wide, tiny_keras.image_network)
)
def test_variables_are_proved(tmp_path, build):
    model = build()
    if build is not _wide:
        _draw(model)
    onnxport.convert("tf", model, tmp_path / "out", allow_mismatch=True)
    ledger = read_folder(tmp_path / "out").components[0].ledger
    assert ledger is not None
    assert ledger.against == "model in memory"
    held = ledger.bytes.get(Proof.SOURCE, 0) + ledger.bytes.get(Proof.COMPUTED, 0)
    assert held > 0.9 * sum(4 * int(np.prod(one.shape)) for one in model.trainable_weights)


@pytest.mark.parametrize("kind", ["keras", "h5", "saved"])
def test_variables_are_those_of_their_file(tmp_path, kind):
    model, place = _wide(), tmp_path / {"keras": "m.keras", "h5": "m.h5", "saved": "m"}[kind]
    model.export(place, verbose=False) if kind == "saved" else model.save(place)
    to_export = load_model_to_export(resolve_model(place, None, LoadOptions()))
    (variables,) = record_weights(to_export)
    assert len(variables) == 4
    assert all(one.stored for one in variables)
    # One that is changed after loading is not in the file any more.
    source = to_export.source
    kernel = next(one for one in source.variables if tuple(one.shape) == (96, 96))
    values = kernel.numpy()
    values[3, 3] *= 1.01
    kernel.assign(values)
    with pytest.raises(VerificationError):
        record_weights(to_export)


def test_swapped_variables_are_named(tmp_path, monkeypatch):
    from onnxport.export import tensorflow as module

    real = module._attach

    def attach(model, frozen):
        names = [name for name, array in frozen.weights.items() if array.shape == (96, 96)]
        first, second = names
        frozen.weights[first], frozen.weights[second] = frozen.weights[second], frozen.weights[first]
        real(model, frozen)

    monkeypatch.setattr(module, "_attach", attach)
    with pytest.raises(VerificationError) as caught:
        onnxport.convert("tf", _wide(), tmp_path / "out")
    assert "first/kernel" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_changed_variable_is_named(tmp_path, monkeypatch):
    from onnxport.export import tensorflow as module

    real = module._attach

    def attach(model, frozen):
        real(model, frozen)
        value = next(one for one in model.graph.initializers.values() if one.const_value.size == 96 * 96)
        changed = value.const_value.numpy().copy()
        changed[7, 8] *= 1.01
        value.const_value = ArrayWeight(changed, value.name)

    monkeypatch.setattr(module, "_attach", attach)
    with pytest.raises(VerificationError) as caught:
        onnxport.convert("tf", _wide(), tmp_path / "out")
    assert "/kernel" in caught.value.message
