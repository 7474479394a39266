"""Manifests of schema version 1, which onnxport 0.1 wrote: they do not say which graph was made from which."""

from __future__ import annotations

from typing import Any

# What onnxport 0.1 put behind the name of a graph, for the graphs that it made from it.
_ENDINGS = ("optimized", "quantized", "q4", "int8", "fixed", "fused")


def add_origins(data: dict[str, Any]) -> dict[str, Any]:
    """The same document with `derived_from` in every component, from the names: "model_q4" was made from "model".

    Whatever is not as a manifest should be stays as it is: the decoder refuses it.
    """
    components = data.get("components")
    if not isinstance(components, list) or not all(isinstance(component, dict) for component in components):
        return data
    names = {str(component.get("name")) for component in components}
    return data | {
        "components": [
            component
            if "derived_from" in component
            else component | {"derived_from": _base(str(component.get("name")), names)}
            for component in components
        ]
    }


def _base(name: str, names: set[str]) -> str | None:
    """The graph of which the name is this one without an ending; "predict_proba" is no "predict" with one."""
    base, _, ending = name.rpartition("_")
    return base if ending in _ENDINGS and base in names else None
