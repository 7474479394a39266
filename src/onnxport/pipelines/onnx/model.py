"""Converted folders as models of transformers' pipelines; ONNX Runtime runs the graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import ModelOutput

from onnxport.artifact.folder import Folder, open_folder
from onnxport.errors import UsageError
from onnxport.runtime.session import OnnxSession
from onnxport.specs import TensorSpec

# Inputs that preprocessing often leaves out: they are ones or zeros of the shape of another input.
_ONES = {"attention_mask": "input_ids", "pixel_mask": "pixel_values", "pixel_attention_mask": "pixel_values"}
_ZEROS = {"token_type_ids": "input_ids", "bbox": "input_ids"}
_MAIN_INPUTS = ("input_ids", "pixel_values", "input_values", "input_features")


class OnnxModel:
    """A model that runs the graph of a folder, with the attributes and methods that pipelines use.

    Args:
        folder: a folder that onnxport wrote, by its path or opened already.
        component: name of the graph.
        threads: threads of one operator; None lets ONNX Runtime choose.

    Raises:
        FolderError: no onnxport folder, or its graph cannot be loaded.
    """

    dtype = torch.float32
    device = torch.device("cpu")
    training = False

    def __init__(self, folder: str | Path | Folder, component: str = "model", threads: int | None = None) -> None:
        opened = open_folder(folder)
        self.folder, self.manifest = opened.path, opened.manifest
        self.config = folder_config(self.folder)
        self._describe(OnnxSession(opened, component, threads))

    def _describe(self, session: OnnxSession) -> None:
        """Set the attributes about inputs and types from a graph."""
        self.session = session
        names = [spec.name for spec in self.session.inputs]
        self.main_input_name = next((name for name in _MAIN_INPUTS if name in names), names[0])
        self.input_modalities: tuple[str, ...] = ("image",) if self.main_input_name == "pixel_values" else ("text",)
        floats = [spec.dtype for spec in self.session.inputs if spec.dtype.startswith("float")]
        if floats:
            self.dtype = getattr(torch, floats[0])

    def __call__(self, **tensors: Any) -> ModelOutput:
        return self.forward(**tensors)

    def forward(self, **tensors: Any) -> ModelOutput:
        """Run the graph.

        Args:
            tensors: torch tensors by name. Those that are not inputs of the graph are ignored; masks that are left
                out are ones, and token types are zeros.

        Returns:
            Every output as a torch tensor on the CPU.

        Raises:
            UsageError: an input is missing, or has a size that the graph cannot take.
        """
        feed = {spec.name: self._input(spec, tensors) for spec in self.session.inputs}
        outputs = self.session.run(feed)
        return ModelOutput({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in outputs.items()})

    def _input(self, spec: TensorSpec, tensors: dict[str, Any]) -> Any:
        value = tensors.get(spec.name)
        if value is None:
            like = tensors.get(_ONES.get(spec.name) or _ZEROS.get(spec.name) or "")
            if like is None:
                raise UsageError(f"The input {spec.name!r} of the graph is missing.", hint=f"Pass {spec.name}=...")
            # A mask of pixels has no channels: (batch, channels, height, width) to (batch, height, width).
            shape = [like.shape[0], *like.shape[2:]] if _ONES.get(spec.name) == "pixel_values" else like.shape
            # Boxes have four numbers for each token.
            sides = [axis for axis in spec.axes[len(shape) :] if isinstance(axis, int)]
            value = torch.full((*shape, *sides), int(spec.name in _ONES))
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        return array.astype(spec.dtype, copy=False)

    def to(self, *_: Any, **__: Any) -> OnnxModel:
        """Returns self: the session runs on the CPU."""
        return self

    def eval(self) -> OnnxModel:
        """Returns self: a graph has no training mode."""
        return self

    def can_generate(self) -> bool:
        return False


def folder_config(folder: Path) -> PreTrainedConfig:
    """The folder's config; a PreTrainedConfig if transformers does not have the model type."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError):
        config = PreTrainedConfig.from_pretrained(folder, local_files_only=True)
    except OSError:
        config = PreTrainedConfig()
    return config
