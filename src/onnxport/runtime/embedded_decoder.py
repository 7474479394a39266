"""A decoder over embeddings: another graph computes them from tokens, and image features replace some of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.cache.progress import Progress
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.decoding.prefill import Prompt
from onnxport.runtime.image_positions import AXES, positions_behind
from onnxport.runtime.prompts.images import FEATURES, POSITIONS, TYPES, Floats, image_prompt, slices_of, with_features
from onnxport.runtime.session import OnnxSession


@dataclass
class EmbeddedProgress(Progress):
    """The state of a generation.

    Attributes:
        waiting: image features of each row whose image tokens come in a later call.
        types: (rows, tokens of the prompt) `token_type_ids`.
        positions: (3, rows, tokens of the prompt) positions of a decoder with positions on three axes.
    """

    waiting: list[Floats] = field(default_factory=list)
    types: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    positions: NDArray[np.int64] = field(default_factory=lambda: np.zeros((AXES, 0, 0), np.int64))


class EmbeddedDecoder(Decoder):
    """Feeds tokens through the graph of embeddings to the decoder's, and returns the logits of the next token.

    Args:
        session: a graph with `inputs_embeds`, a cache `past_...`, and outputs `logits` and `present...`.
        embeddings: a graph from `input_ids` to `inputs_embeds`.
        image_token: the token whose embeddings are image features.

    Raises:
        FolderError: the graph has no cache.
    """

    token_inputs = ("inputs_embeds",)
    more_inputs = (TYPES,)

    def __init__(self, session: OnnxSession, embeddings: OnnxSession, image_token: int) -> None:
        super().__init__(session)
        self.embeddings, self.image_token = embeddings, image_token
        self.typed = any(spec.name == TYPES for spec in session.inputs)
        self.on_three_axes = any(spec.name == "position_ids" and len(spec.axes) == 3 for spec in session.inputs)
        # The tokens of an image attend to each other in both directions, so they must be in one call.
        self.needs_full_prefill = self.typed

    def start(self, rows: int, encoder_inputs: Mapping[str, Any] | None = None) -> EmbeddedProgress:
        """As `Decoder.start`, with the `encoder_inputs` of an `image_prompt`.

        Raises:
            UsageError: also if the graph takes token types, and there are images without them.
        """
        begun = super().start(rows, encoder_inputs)
        given = encoder_inputs or {}
        waiting = list(given.get(FEATURES) or [np.zeros((0, 0), np.float32)] * rows)
        if self.typed and TYPES not in given and any(map(len, waiting)):
            raise UsageError(
                f"{self.session.file.name} needs {TYPES!r} with images.",
                hint="Pass everything that the model's processor returns.",
            )
        types = np.asarray(given.get(TYPES, np.zeros((rows, 0))), np.int64)
        positions = np.asarray(given.get(POSITIONS, np.zeros((AXES, rows, 0))), np.int64)
        return EmbeddedProgress(
            begun.mask, begun.states, begun.encoder_inputs, waiting=waiting, types=types, positions=positions
        )

    def select(self, progress: Progress, rows: NDArray[np.int64], *, encoder_inputs: bool = True) -> None:
        """As `Decoder.select`."""
        super().select(progress, rows, encoder_inputs=encoder_inputs)
        assert isinstance(progress, EmbeddedProgress)
        progress.waiting = [progress.waiting[row] for row in rows]
        progress.types, progress.positions = progress.types[rows], progress.positions[:, rows]

    def positions(self, progress: Progress, mask: NDArray[np.int64], past: int) -> NDArray[np.int64]:
        """As `Decoder.positions`; (3, rows, tokens) if the graph has positions on three axes."""
        assert isinstance(progress, EmbeddedProgress)
        text = super().positions(progress, mask, past)
        return positions_behind(text, mask, progress.positions) if self.on_three_axes else text

    def token_feeds(self, progress: Progress, input_ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Embeddings (rows, tokens, hidden), with image features for image tokens; and `token_type_ids` of all tokens
        so far, (rows, tokens so far)."""
        assert isinstance(progress, EmbeddedProgress)
        embeds, progress.waiting = with_features(
            lambda ids: self.embeddings.run({"input_ids": ids})["inputs_embeds"],
            input_ids, progress.waiting, self.image_token,
        )  # fmt: skip
        known = progress.types[:, : progress.mask.shape[1] + input_ids.shape[1]]
        types = np.zeros((len(input_ids), progress.mask.shape[1] + input_ids.shape[1]), np.int64)
        types[:, : known.shape[1]] = known
        return {"inputs_embeds": embeds, TYPES: types}


class ImageReader:
    """Computes image features, one image a call.

    Args:
        session: a graph from `pixel_values` and other inputs of images to `image_features`.
    """

    def __init__(self, session: OnnxSession) -> None:
        self.session = session
        self.inputs = tuple(spec.name for spec in session.inputs)

    def features(self, inputs: Mapping[str, NDArray[Any]]) -> list[Floats]:
        """Features of each image, (tokens, hidden); an empty list without images.

        Raises:
            UsageError: an input is missing, or of a size that the graph cannot take.
        """
        given = {name: np.asarray(inputs[name]) for name in self.inputs if name in inputs}
        missing = [name for name in self.inputs if name not in given]
        if given and missing:
            raise UsageError(
                f"The inputs {', '.join(missing)} of the images are missing.", hint="Use the model's processor."
            )
        types = {spec.name: spec.dtype for spec in self.session.inputs}
        slices = slices_of({name: array.astype(types[name], copy=False) for name, array in given.items()})
        return [self.session.run(one)[FEATURES] for one in slices]

    def prompt(self, inputs: Mapping[str, NDArray[Any]], image_token: int) -> Prompt:
        """The prompt of texts with images; as `image_prompt`, whose features it computes."""
        return image_prompt(inputs, self.features(inputs), image_token)
