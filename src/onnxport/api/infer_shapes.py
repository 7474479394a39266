"""The inputs and outputs of a pipeline, with their static and dynamic axes."""

from __future__ import annotations

from typing import Any

from onnxport.export.signature import infer_signature
from onnxport.loading.model_to_export import from_pipeline_or_model


def infer_shapes(nlp: Any, framework: str) -> tuple[list[str], list[str], dict[str, dict[int, str]], dict[str, Any]]:
    """Every input and output of a pipeline's model, with its static and dynamic axes.

    Args:
        nlp: a pipeline, as `pipeline` or `load_graph_from_args` returns it; of TensorFlow also a Keras model, or the
            path of a `.keras` file or a SavedModel.
        framework: "pt" or "tf", of its model.

    Returns:
        `(input_names, output_names, dynamic_axes, sample)`: `dynamic_axes` maps a tensor name to
        `{axis: name or expression}`, the form that `torch.onnx.export` takes; axes that it does not
        list are static. `sample` are the inputs (tensors of the framework, by name) that were used.

    Of an encoder-decoder they are those of both graphs; a name that both have gets the prefix `decoder_`, one that
    two signatures of a SavedModel have the name of the second.

    Raises:
        ExportError: the model does not run on its own preprocessing.
    """
    names: tuple[list[str], list[str]] = ([], [])
    dynamic: dict[str, dict[int, str]] = {}
    sample: dict[str, Any] = {}
    for part in from_pipeline_or_model(nlp, framework).parts:
        signature = infer_signature(part.source, part.generator)
        tensors = part.source.tensors(signature.sample)
        for known, specs in zip(names, (signature.inputs, signature.outputs), strict=True):
            for spec in specs:
                name = f"{part.name.partition('_')[0]}_{spec.name}" if spec.name in known else spec.name
                known.append(name)
                dynamic[name] = {axis: size for axis, size in enumerate(spec.axes) if isinstance(size, str)}
                if spec.name in tensors:
                    sample.setdefault(name, tensors[spec.name])
    return *names, dynamic, sample
