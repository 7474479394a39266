"""What a model takes whose images stand in the sequence of its text: one image, tokens, embeddings over a past."""

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

_PICTURE = (120, 160)  # height and width of what the processor is given


class OneImageInputGenerator:
    """One image, or one tile of an image, at a time.

    Some models take their images apart in a list, whose length a graph cannot leave open. Masks of pixels hide a part
    where other content is asked for.

    Args:
        images: of several.
    """

    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, images: ImageInputGenerator) -> None:
        self.images = images
        self.can_pad, self.native = False, images.native
        self.dims = tuple(dim for dim in images.dims if dim.name != images.batch)

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        one = next(slices_of(self.images.make({**sizes, self.images.batch: 1}, seed=seed)))
        for name, array in one.items() if seed else ():
            if "mask" in name:
                array[..., array.shape[-2] * 2 // 3 :, :] = 0
                array[..., array.shape[-1] * 3 // 4 :] = 0
        return one


class OneGridInputGenerator:
    """One image as patches in a row, and the grid in which they lie (`image_grid_thw`).

    Args:
        processor: of images, with `patch_size` and `merge_size`.
    """

    can_pad = False
    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.dims: tuple[DynamicDim, ...] = (DynamicDim("image_size", 8, (13, 5), frames="num_patches", frames_axis=0),)

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        """`image_size` is the height in cells, each as large as what becomes one row of features."""
        cell = self.processor.patch_size * self.processor.merge_size
        height, width = sizes["image_size"], sizes["image_size"] // 2 + 1 + seed % 2
        picture = random_image(height * cell, width * cell, np.random.default_rng([seed, height]))
        made = as_arrays(self.processor([picture], do_resize=False, return_tensors="np"), None)
        return {"pixel_values": made["pixel_values"], GRID: made[GRID]}


class TokensInputGenerator:
    """Rows of tokens, and nothing beside them."""

    can_pad = False
    joint_axes: ClassVar[dict[tuple[str, int], str]] = {}

    def __init__(self, text: TextInputGenerator) -> None:
        # A table has no positions: what limits a tokenizer does not limit it.
        self.text, self.dims = text, tuple(replace(dim, maximum=None) for dim in text.dims)

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        return {"input_ids": self.text.make(sizes, seed=seed)["input_ids"]}


class EmbeddingsInputGenerator(DecoderInputGenerator):
    """Rows of embeddings over a past; a third of them are of no token, as image features are.

    Where the processor gives token types that the model takes, the types of all tokens are an input too.

    Args:
        text: makes the tokens.
        source: the decoder.
        embeddings: makes embeddings of tokens.
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
        self.typed = self._takes(TYPES) and TYPES in prompts.make(1, 3)
        self.on_three_axes = source.on_three_axes
        self.joint_axes = {**self.joint_axes, (TYPES, 1): TOTAL}

    def prompt(self, rows: int, length: int) -> Arrays:
        return self.prompts.make(rows, length)

    def make(self, sizes: Sizes, *, seed: int = 0, padded: bool = False) -> Arrays:
        arrays = super().make(sizes, seed=seed, padded=padded)
        embeds = self.embeddings.run({"input_ids": arrays.pop("input_ids")})[EMBEDS]
        rng = np.random.default_rng([seed, *embeds.shape])
        noise = (rng.standard_normal(embeds.shape) * embeds.std()).astype(embeds.dtype)
        chosen = rng.random((*embeds.shape[:2], 1)) < 1 / 3
        if self.typed:  # images are blocks of ones, also in the past
            total = sizes[SEQUENCE] + sizes[PAST]
            blocks = rng.integers(0, 2, (len(embeds), -(-total // 3))).repeat(3, 1)[:, :total]
            arrays[TYPES] = np.ascontiguousarray(blocks, np.int64)
        if self.on_three_axes:  # apart from each other, as those of images are
            infer_independent_axes = rng.integers(0, 4, (AXES, *embeds.shape[:2])) * chosen[None, :, :, 0]
            arrays["position_ids"] = np.ascontiguousarray(arrays["position_ids"][None] + infer_independent_axes)
        return {EMBEDS: np.ascontiguousarray(np.where(chosen, noise, embeds)), **arrays}


class ImagePrompts:
    """Texts with one image each, as the model's processor prepares them.

    Args:
        processor: of texts with images.
        image_token: the token that stands for a row of image features.
        name: of the model, for errors.

    Raises:
        ExportError: no text was found that the processor takes with an image.
    """

    def __init__(self, processor: Any, image_token: int, name: str) -> None:
        self.processor = processor
        self._marker = image_marker(processor, image_token, random_image(*_PICTURE, np.random.default_rng(0)))
        if not self._marker:
            raise ExportError(
                f"The processor of {name} ({type(processor).__name__}) puts no image token {image_token} into a text "
                f"with an image.",
                hint="Check that the checkpoint and its processor belong together.",
            )

    def make(self, rows: int, length: int) -> Arrays:
        """`input_ids` and `attention_mask` (rows, tokens), and what else the processor gives.

        Rows after the first have fewer words and are padded on the left.
        """
        rng = np.random.default_rng([rows, length])
        texts = [rng.choice(WORDS, max(1, length - 3 * row)).tolist() for row in range(rows)]
        # Near the end, so that what is done with an image shows in what follows.
        made: list[Arrays] = []
        for row, words in enumerate(texts):
            # Of images with a grid each row has another size; others must be one array.
            height, width = (side + (30 * row if made and GRID in made[0] else 0) for side in _PICTURE)
            picture = random_image(height, width, rng)
            made.append(self._prepared(" ".join([*words, self._marker, "this"]), picture))
        longest = max(one["input_ids"].shape[1] for one in made)
        return {name: np.concatenate([_padded(one, name, longest) for one in made]) for name in made[0]}

    def _prepared(self, text: str, picture: Any) -> Arrays:
        return as_arrays(self.processor(images=[picture], text=[text], return_tensors="np"), None)


def image_generators(
    pipeline: Any, accepts: frozenset[str] | None, source: EmbeddingsDecoderSource, embeddings: TokenEmbeddingsSource
) -> tuple[InputGenerator, InputGenerator, EmbeddingsInputGenerator]:
    """Samplers of image features, of embeddings and of the decoder.

    Args:
        pipeline: a pipeline with a processor.
        accepts: what the method that makes features takes.

    Raises:
        ExportError: the checkpoint has no processor, or one that does not fit.
    """
    processor, name = getattr(pipeline, "processor", None), source.architecture
    parts = [getattr(processor, part, None) for part in ("image_processor", "tokenizer")]
    if None in parts:
        raise ExportError(
            f"The checkpoint of {name} has no processor for texts with images, so it cannot be tried as it is used.",
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
    """What goes with the tokens of a row, padded on the left to `length`; other arrays as they are."""
    array = arrays[name]
    if array.shape != arrays["input_ids"].shape:
        return array
    # No padding token is asked for: what is masked may be any token, but for that of an image.
    return np.pad(array, ((0, 0), (length - array.shape[1], 0)))
