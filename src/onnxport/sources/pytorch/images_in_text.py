"""A model whose images stand in the sequence of its text, as three sources, so that each becomes a graph of its own.

Such a model makes features of an image, one row for each image token of the text, puts them in the places of those
tokens among the embeddings of the others, and goes on as any decoder does. So one graph makes features, one makes
embeddings, and one is the decoder over what the run time merges of both. The three verbs are conventions that
transformers' models share (`get_image_features`, `get_input_embeddings`, `inputs_embeds`): no architecture is named
here. What a model does with its images beside that, no graph of these would know; `require_parts_suffice` finds
that out before anything is captured.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import ExportError
from onnxport.runtime.image_positions import positions_behind
from onnxport.runtime.prompts.images import FEATURES, GRID, POSITIONS, TYPES, image_prompt, slices_of, with_features
from onnxport.sources.pytorch.decoder import DecoderSource
from onnxport.sources.pytorch.image_grids import grid_encoder, traced_patches
from onnxport.sources.pytorch.source import Arrays, TorchSource
from onnxport.system.library_errors import first_line

if TYPE_CHECKING:
    import torch

EMBEDS = "inputs_embeds"
# Two ways through the same torch operators differ by rounding alone.
_ROUNDING = 1e-4


def has_images_in_text(model: Any) -> bool:
    """Whether the model follows the conventions that this module needs, and is no encoder-decoder."""
    return (
        not getattr(model.config, "is_encoder_decoder", False)
        and model.can_generate()
        and callable(getattr(model, "get_image_features", None))
        and isinstance(image_token_of(model), int)
        and EMBEDS in inspect.signature(model.forward).parameters
    )


def image_token_of(model: Any) -> int | None:
    """The token that stands for a row of image features in a text."""
    token = getattr(model.config, "image_token_id", None)
    return token if isinstance(token, int) else None


class ImageFeaturesSource(TorchSource):
    """From what the image processor gives for one image to `image_features`, (image tokens, hidden).

    Attributes:
        takes_grids: images are patches in a row, with a grid that says how they lie.
    """

    def __init__(self, model: torch.nn.Module, architecture: str | None = None) -> None:
        super().__init__(model, (FEATURES,), architecture)
        self.takes_grids = grid_encoder(model) is not None

    def accepts(self) -> frozenset[str] | None:
        return frozenset(inspect.signature(self._method).parameters)

    def invoke(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        """The features of all images, one after the other; the text half of the model does not run."""
        import torch

        if self.takes_grids and torch.compiler.is_exporting():
            return {FEATURES: traced_patches(grid_encoder(self.model), tensors["pixel_values"], tensors[GRID])}
        made: Any = self._method(**tensors)
        found = getattr(made, "pooler_output", made)
        parts = [found] if isinstance(found, torch.Tensor) else list(found)
        return {FEATURES: torch.cat([part.reshape(-1, part.shape[-1]) for part in parts], 0)}

    @property
    def _method(self) -> Callable[..., Any]:
        method: Callable[..., Any] = self.model.get_image_features  # type: ignore[assignment]
        return method


class TokenEmbeddingsSource(TorchSource):
    """From `input_ids` (rows, tokens) to `inputs_embeds` (rows, tokens, hidden)."""

    def __init__(self, model: torch.nn.Module, architecture: str | None = None) -> None:
        super().__init__(model, (EMBEDS,), architecture)

    def accepts(self) -> frozenset[str] | None:
        return frozenset({"input_ids"})

    def invoke(self, forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        model: Any = self.model
        return {EMBEDS: model.get_input_embeddings()(tensors["input_ids"])}


class EmbeddingsDecoderSource(DecoderSource):
    """The decoder over `inputs_embeds` (rows, tokens, hidden) in the place of tokens.

    Its prompts have `input_ids` and `attention_mask` with image tokens, and what the image processor gives.

    Attributes:
        image_token: stands for a row of image features in a prompt.
        on_three_axes: its `position_ids` are (3, rows, tokens): frame, row and column.
    """

    def __init__(self, model: torch.nn.Module, outputs: tuple[str, ...] = (), architecture: str | None = None) -> None:
        super().__init__(model, outputs, architecture)
        self.image_token = image_token_of(model)
        # transformers' own way to tell such models, as in its exporter.
        self.on_three_axes = any(hasattr(part, "get_rope_index") for part in model.modules())

    def accepts(self) -> frozenset[str] | None:
        return frozenset((super().accepts() or frozenset()) - {"input_ids"})


def require_parts_suffice(
    features: ImageFeaturesSource, embeddings: TokenEmbeddingsSource, decoder: EmbeddingsDecoderSource, prompt: Arrays
) -> None:
    """Make sure that the three parts, one after the other in torch, are the whole model.

    They are not where image tokens attend to those after them and nothing tells the decoder so, where they have
    positions of their own, or where images reach the decoder on another way than as embeddings.

    Args:
        prompt: what the processor gives for texts with images.

    Raises:
        ExportError: the logits after a prompt differ from those with which the model's `generate` begins; or numbers
            that the processor gives beside pixels and masks (sizes of images, grids) decide what becomes of them: a
            graph would have those of one image in it.
    """
    numbers = _numbers_about_images(features, prompt)
    if numbers:
        raise ExportError(
            f"{decoder.architecture} takes images with {', '.join(numbers)}, whose values shape what is computed. A "
            "graph would be right for one of them, so nothing was written.",
            hint="onnxport converts models that need pixels of an image and masks of pixels, or patches with a grid.",
        )
    whole = decoder.first_logits(prompt)
    try:
        found = _logits_of_parts(features, embeddings, decoder, prompt)
    except Exception as error:
        raise ExportError(
            f"{decoder.architecture} does not run in parts, images and tokens apart: {first_line(error)}.",
            hint="onnxport converts models that put image features in the places of image tokens, and no others.",
        ) from error
    off, scale = float(np.abs(found - whole).max()), float(np.abs(whole).max())
    if not off <= _ROUNDING * scale:  # also where it is no number
        raise ExportError(
            f"{decoder.architecture} does more with images than to put their features in the places of image tokens: "
            f"without that its logits are off by {off:.3g} of {scale:.3g}. The graph of a decoder cannot know it, so "
            "nothing was written.",
            hint="It may let image tokens attend to later ones, or give them positions of their own; onnxport cannot "
            "convert such models yet.",
        )


def _numbers_about_images(features: ImageFeaturesSource, prompt: Arrays) -> list[str]:
    """What a processor gives for images beside pixels and masks that the model's method takes."""
    about = {name: array for name, array in prompt.items() if array.shape != prompt["input_ids"].shape}
    accepted = features.accepts() or frozenset()
    return [
        name
        for name, array in about.items()
        if not (features.takes_grids and name == GRID)
        and (name not in accepted or (array.dtype.kind != "f" and "mask" not in name))
    ]  # fmt: skip


def _logits_of_parts(
    features: ImageFeaturesSource, embeddings: TokenEmbeddingsSource, decoder: EmbeddingsDecoderSource, prompt: Arrays
) -> np.ndarray:
    """What the parts make of a prompt: logits after its last token, (rows, vocabulary)."""
    assert decoder.image_token is not None
    names = [name for name in prompt if name in (features.accepts() or ()) and name not in ("input_ids",)]
    made = [features.run(one)[FEATURES] for one in slices_of({name: prompt[name] for name in names})]
    merged = image_prompt(prompt, made, decoder.image_token)
    embeds = with_features(
        lambda ids: embeddings.run({"input_ids": ids})[EMBEDS], merged.ids, list(merged.encoder_inputs[FEATURES]),
        decoder.image_token,
    )[0]  # fmt: skip
    mask = prompt["attention_mask"]
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    if decoder.on_three_axes:
        positions = positions_behind(positions, mask, merged.encoder_inputs.get(POSITIONS, positions[None, :, :0]))
    arrays = {EMBEDS: embeds, "attention_mask": mask, "position_ids": positions}
    arrays |= {TYPES: prompt[TYPES]} if TYPES in prompt else {}
    accepted = decoder.accepts() or ()
    empty = {state.past: np.zeros(state.empty(len(mask)), state.dtype) for state in decoder.states}
    return decoder.run({**{name: array for name, array in arrays.items() if name in accepted}, **empty})["logits"][
        :, -1
    ]
