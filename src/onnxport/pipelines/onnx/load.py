"""Load a converted folder as a model of a pipeline."""

from __future__ import annotations

from pathlib import Path

from onnxport.artifact.folder import Folder, open_folder
from onnxport.pipelines.onnx.model import OnnxModel
from onnxport.runtime.image_text_generation import has_images_in_text
from onnxport.runtime.sequence_generation import is_encoder_decoder


def load_onnx_model(folder: str | Path | Folder, component: str = "model", threads: int | None = None) -> OnnxModel:
    """An OnnxModel of the right kind, in a class with the name of the converted architecture.

    transformers' pipelines check the name of the model's class.

    Raises:
        FolderError: no onnxport folder, or its graph cannot be loaded.
    """
    opened = open_folder(folder)
    architecture, base, names = opened.manifest.architecture, OnnxModel, opened.names
    if has_images_in_text(names):
        from onnxport.pipelines.onnx.image_text_model import OnnxImageTextModel

        base = OnnxImageTextModel
    elif is_encoder_decoder(names):
        from onnxport.pipelines.onnx.sequence_model import OnnxSequenceModel

        base = OnnxSequenceModel
    named: type[OnnxModel] = type(architecture, (base,), {}) if architecture.isidentifier() else base
    return named(opened, component, threads)
