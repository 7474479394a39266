"""basic-pitch: a trained SavedModel, against TensorFlow and against its authors' own ONNX graph."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from onnxport import convert
from onnxport.runtime.session import OnnxSession

pytestmark = pytest.mark.real

_PACKAGE = importlib.util.find_spec("basic_pitch")
assert _PACKAGE is not None and _PACKAGE.origin is not None
SAVED_MODEL = Path(_PACKAGE.origin).parent / "saved_models" / "icassp_2022" / "nmp"
THEIRS = SAVED_MODEL.with_suffix(".onnx")
# Their names for what the signature calls note, onset and contour.
NAMES = {name: f"StatefulPartitionedCall:{number}" for number, name in enumerate(("contour", "note", "onset"))}


def chords(rows: int) -> np.ndarray:
    """Two seconds of chords at 22050 samples a second, as the model takes them: (rows, 43844, 1)."""
    time = np.arange(43844) / 22050
    chords = [(220.0, 277.2, 329.6), (261.6, 329.6, 392.0), (196.0, 246.9, 293.7)]
    waves = [sum(np.sin(2 * np.pi * tone * time) for tone in chords[row % 3]) / 4 for row in range(rows)]
    return np.stack(waves)[..., None].astype(np.float32)


def test_it_is_what_tensorflow_and_the_authors_say(tmp_path: Path) -> None:
    from onnxport.sources.tensorflow.saved_optimizers import register_saved_optimizers
    from onnxport.sources.tensorflow.source import tensorflow

    conversion = convert(None, SAVED_MODEL, tmp_path / "out")
    assert conversion.passed
    (component,) = conversion.manifest.components
    assert {spec.name: spec.axes for spec in component.outputs} == {
        "contour": ("batch_size", 172, 264),
        "note": ("batch_size", 172, 88),
        "onset": ("batch_size", 172, 88),
    }
    audio = chords(7)
    found = OnnxSession(tmp_path / "out" / component.file).run({component.inputs[0].name: audio})
    tf = tensorflow()
    register_saved_optimizers()
    signature = tf.saved_model.load(str(SAVED_MODEL)).signatures["serving_default"]
    wanted = signature(tf.constant(audio))
    # The model amplifies rounding: its own outputs move when the input moves by one unit in the last place.
    moved = [signature(tf.constant(np.nextafter(audio, np.float32(side)))) for side in (-2, 2)]
    theirs_session = onnxruntime.InferenceSession(THEIRS, providers=["CPUExecutionProvider"])
    theirs = {
        value.name: array
        for value, array in zip(
            theirs_session.get_outputs(),
            theirs_session.run(None, {theirs_session.get_inputs()[0].name: audio}),
            strict=True,
        )
    }
    for name, array in found.items():
        noise = max(float(np.abs(one[name] - wanted[name]).max()) for one in moved)
        assert noise < 1e-3
        # How far ONNX Runtime and TensorFlow are apart depends on the processor; the authors' graph has the same
        # operators, so ours may not be further from TensorFlow than theirs.
        authors = theirs[NAMES[name]]
        apart = float(np.abs(authors - wanted[name]).max())
        np.testing.assert_allclose(array, wanted[name], rtol=0, atol=noise + apart)
        np.testing.assert_allclose(array, authors, rtol=0, atol=noise)
        assert 0.3 < array.max() <= 1  # it hears the chords
