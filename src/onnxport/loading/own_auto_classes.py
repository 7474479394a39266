"""Auto classes for heads that transformers has, but that none of its auto classes loads."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from importlib import import_module
from typing import Any

# Auto class -> model type -> class. Models whose forecasts are random draws (Autoformer, Informer) are not here.
_CLASSES = {
    "AutoModelForForecasting": {
        "patchtst": "PatchTSTForPrediction",
        "patchtsmixer": "PatchTSMixerForPrediction",
    },
}  # fmt: skip


@cache
def auto_class(name: str) -> Any:
    """Return an auto class of transformers, or one of the table here; None where neither has it.

    Args:
        name: its name, such as "AutoModelForMaskedLM".
    """
    modeling = import_module("transformers.models.auto.modeling_auto")
    found = getattr(modeling, name, None)
    if found is not None or name not in _CLASSES:
        return found
    factory = import_module("transformers.models.auto.auto_factory")
    configs = import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING_NAMES
    mapping = factory._LazyAutoMapping(configs, OrderedDict(_CLASSES[name]))  # a dict takes no attributes
    return type(name, (factory._BaseAutoModelClass,), {"_model_mapping": mapping})
