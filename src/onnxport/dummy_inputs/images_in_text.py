"""Inputs of models with image features among the token embeddings: one image, tokens, embeddings with a past."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from onnxport.dummy_inputs.base import Arrays, DynamicDim, InputGenerator, Sizes, as_arrays
from onnxport.dummy_inputs.decoder import PAST, SEQUENCE, TOTAL, DecoderInputGenerator
from onnxport.dummy_inputs.image import ImageInputGenerator, random_image
from onnxport.dummy_inputs.image_marker import image_marker
from onnxport.dummy_inputs.text import WORDS, TextInputGenerator
from onnxport.errors import ExportError
from onnxport.runtime.image_positions import AXES
from onnxport.runtime.prompts.images import GRID, TYPES, slices_of
from onnxport.sources.pytorch.images_in_text import EMBEDS, EmbeddingsDecoderSource, TokenEmbeddingsSource

_IMAGE_SIZE = (120, 160)  # height and width of images for prompts, in pixels


class OneImageInputGenerator:
    """Makes one image, or one tile of an image.

    Some models split images into a list of tiles, whose length a graph cannot leave open. With a seed other than 0,
    pixel masks hide a part of the image.

    Args:
        images: makes rows of images.
    """

    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, images: ImageInputGenerator) -> None:
        self.images = images
        self.can_pad, self.processor_size = False, images.processor_size
        self.dims = tuple(dim for dim in images.dims if dim.name != images.batch)

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        inputs = next(slices_of(self.images.make({**sizes, self.images.batch: 1}, seed=seed)))
        for name, array in inputs.items() if seed else ():
            if "mask" in name:
                array[..., array.shape[-2] * 2 // 3 :, :] = 0
                array[..., array.shape[-1] * 3 // 4 :] = 0
        return inputs


class OneGridInputGenerator:
    """Makes one image as a row of patches, and its patch grid (`image_grid_thw`).

    Args:
        processor: an image processor with `patch_size` and `merge_size`.
    """

    can_pad = False
    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.dims: tuple[DynamicDim, ...] = (
            DynamicDim("image_size", 8, (13, 5), derived_axis="num_patches", derived_axis_index=0),
        )

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name. `image_size` is the height in cells; each cell becomes one row of features."""
        cell = self.processor.patch_size * self.processor.merge_size
        height, width = sizes["image_size"], sizes["image_size"] // 2 + 1 + seed % 2
        picture = random_image(height * cell, width * cell, np.random.default_rng([seed, height]))
        prepared = as_arrays(self.processor([picture], do_resize=False, return_tensors="np"), None)
        return {"pixel_values": prepared["pixel_values"], GRID: prepared[GRID]}


class TokensInputGenerator:
    """Makes rows of tokens without any other input.

    Args:
        text: makes the tokens.
    """

    can_pad = False
    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, text: TextInputGenerator) -> None:
        # An embedding table has no positions, so the limit of the tokenizer does not apply.
        self.text, self.dims = text, tuple(replace(dim, maximum=None) for dim in text.dims)

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        return {"input_ids": self.text.make(sizes, seed=seed)["input_ids"]}


class EmbeddingsInputGenerator(DecoderInputGenerator):
    """Makes rows of embeddings with a past; a third of them belong to no token, like image features.

    If the processor returns token types that the model takes, the types of all tokens are an input too.

    Args:
        text: makes the tokens.
        source: the decoder.
        embeddings: computes embeddings of tokens.
        prompts: makes texts with images.
    """

    def __init__(
        self,
        text: TextInputGenerator,
        source: EmbeddingsDecoderSource,
        embeddings: TokenEmbeddingsSource,
        prompts: ImagePrompts,
    ) -> None:
        super().__init__(text, source.states, source.accepts())
        self.embeddings, self.prompts = embeddings, prompts
        self.has_token_types = self._takes(TYPES) and TYPES in prompts.make(1, 3)
        self.on_three_axes = source.on_three_axes
        self.joint_axes = {**self.joint_axes, (TYPES, 1): TOTAL}

    def prompt(self, rows: int, length: int) -> Arrays:
        """Return inputs with images; see `ImagePrompts.make`.

        Args:
            rows: number of rows.
            length: number of words.
        """
        return self.prompts.make(rows, length)

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """Return inputs by name; see `InputGenerator.make`."""
        arrays = super().make(sizes, seed=seed, padded=padded)
        embeds = self.embeddings.run({"input_ids": arrays.pop("input_ids")})[EMBEDS]
        rng = np.random.default_rng([seed, *embeds.shape])
        noise = (rng.standard_normal(embeds.shape) * embeds.std()).astype(embeds.dtype)
        chosen = rng.random((*embeds.shape[:2], 1)) < 1 / 3
        if self.has_token_types:  # images are blocks of ones, in the past too
            total = sizes[SEQUENCE] + sizes[PAST]
            blocks = rng.integers(0, 2, (len(embeds), -(-total // 3))).repeat(3, 1)[:, :total]
            arrays[TYPES] = np.ascontiguousarray(blocks, np.int64)
        if self.on_three_axes:  # image positions differ between the axes
            axis_offsets = rng.integers(0, 4, (AXES, *embeds.shape[:2])) * chosen[None, :, :, 0]
            arrays["position_ids"] = np.ascontiguousarray(arrays["position_ids"][None] + axis_offsets)
        return {EMBEDS: np.ascontiguousarray(np.where(chosen, noise, embeds)), **arrays}


class ImagePrompts:
    """Makes texts with one image each, prepared by the model's processor.

    Args:
        processor: a processor of texts with images.
        image_token: id of the token that stands for one row of image features.
        name: name of the model, for errors.

    Raises:
        ExportError: the processor accepts no text with an image.
    """

    def __init__(self, processor: Any, image_token: int, name: str) -> None:
        self.processor = processor
        self._marker = image_marker(processor, image_token, random_image(*_IMAGE_SIZE, np.random.default_rng(0)))
        if not self._marker:
            raise ExportError(
                f"The processor of {name} ({type(processor).__name__}) adds no image token {image_token} to a text "
                "with an image.",
                hint="Check that the checkpoint and its processor belong together.",
            )

    def make(self, rows: int, length: int) -> Arrays:
        """Return `input_ids` and `attention_mask`, (rows, tokens), and other outputs of the processor.

        Rows after the first have fewer words and are padded on the left.

        Args:
            rows: number of rows.
            length: number of words of the first row.
        """
        rng = np.random.default_rng([rows, length])
        texts = [rng.choice(WORDS, max(1, length - 3 * row)).tolist() for row in range(rows)]
        # The image is near the end of the text, so that it influences the first new tokens.
        prepared: list[Arrays] = []
        for row, words in enumerate(texts):
            # Images with a grid have a different size in each row; others must be one array.
            height, width = (side + (30 * row if prepared and GRID in prepared[0] else 0) for side in _IMAGE_SIZE)
            picture = random_image(height, width, rng)
            prepared.append(self._prepared(" ".join([*words, self._marker, "this"]), picture))
        longest = max(inputs["input_ids"].shape[1] for inputs in prepared)
        return {name: np.concatenate([_padded(inputs, name, longest) for inputs in prepared]) for name in prepared[0]}

    def _prepared(self, text: str, picture: Any) -> Arrays:
        return as_arrays(self.processor(images=[picture], text=[text], return_tensors="np"), None)


def image_generators(
    pipeline: Any, accepts: frozenset[str] | None, source: EmbeddingsDecoderSource, embeddings: TokenEmbeddingsSource
) -> tuple[InputGenerator, InputGenerator, EmbeddingsInputGenerator]:
    """Return input generators of image features, of token embeddings, and of the decoder.

    Args:
        pipeline: a pipeline with a processor.
        accepts: parameter names of the method that computes image features.
        source: the decoder.
        embeddings: computes embeddings of tokens.

    Raises:
        ExportError: the checkpoint has no processor, or one that does not fit.
    """
    processor, name = getattr(pipeline, "processor", None), source.architecture
    parts = [getattr(processor, part, None) for part in ("image_processor", "tokenizer")]
    if None in parts:
        raise ExportError(
            f"The checkpoint of {name} has no processor for texts with images.",
            hint="Copy processor_config.json, preprocessor_config.json and the tokenizer beside the weights.",
        )
    assert source.image_token is not None
    prompts = ImagePrompts(processor, source.image_token, name)
    text = TextInputGenerator(parts[1], source.model.config)
    images: InputGenerator
    if all(hasattr(parts[0], name) for name in ("patch_size", "merge_size")) and GRID in (accepts or ()):
        images = OneGridInputGenerator(parts[0])
    else:
        images = OneImageInputGenerator(ImageInputGenerator(parts[0], source.model.config, accepts))
    return images, TokensInputGenerator(text), EmbeddingsInputGenerator(text, source, embeddings, prompts)


def _padded(arrays: Arrays, name: str, length: int) -> np.ndarray:
    """Pad arrays of the shape of the tokens on the left to `length`; return other arrays unchanged."""
    array = arrays[name]
    if array.shape != arrays["input_ids"].shape:
        return array
    # Any token can be padding, because it is masked, except an image token.
    return np.pad(array, ((0, 0), (length - array.shape[1], 0)))
