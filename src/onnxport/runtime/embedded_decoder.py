"""A decoder graph over embeddings, which another graph makes of tokens, and image features among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError
from onnxport.runtime.decoder import Decoder, Progress
from onnxport.runtime.decoding.prefill import Prompt
from onnxport.runtime.image_positions import AXES, positions_behind
from onnxport.runtime.prompts.images import FEATURES, POSITIONS, TYPES, Floats, image_prompt, slices_of, with_features
from onnxport.runtime.session import OnnxSession


@dataclass
class EmbeddedProgress(Progress):
    """Where a generation stands.

    Attributes:
        waiting: image features of each row that no image token has taken yet.
        types: (rows, tokens of the prompt), what kind of token each is.
        positions: (3, rows, tokens of the prompt), of a decoder with positions on three axes.
    """

    waiting: list[Floats] = field(default_factory=list)
    types: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    positions: NDArray[np.int64] = field(default_factory=lambda: np.zeros((AXES, 0, 0), np.int64))


class EmbeddedDecoder(Decoder):
    """Feeds tokens through a graph of embeddings to a decoder, and gives the logits of the next.

    Args:
        session: a graph with `inputs_embeds`, states `past_...` and outputs `logits` and `present...`.
        embeddings: a graph from `input_ids` to `inputs_embeds`.
        image_token: takes image features in a prompt.

    Raises:
        FolderError: the graph has no states.
    """

    token_inputs = ("inputs_embeds",)
    more_inputs = (TYPES,)

    def __init__(self, session: OnnxSession, embeddings: OnnxSession, image_token: int) -> None:
        super().__init__(session)
        self.embeddings, self.image_token = embeddings, image_token
        self.typed = any(spec.name == TYPES for spec in session.inputs)
        self.on_three_axes = any(spec.name == "position_ids" and len(spec.axes) == 3 for spec in session.inputs)
        # Tokens of one image attend to each other, also to those after them: all must be there.
        self.needs_full_prefill = self.typed

    def start(self, rows: int, fixed: Mapping[str, Any] | None = None) -> EmbeddedProgress:
        """As `Decoder.start`, for what `image_prompt` gives as `fixed`.

        Raises:
            UsageError: also where the graph takes token types and there are images without them.
        """
        begun = super().start(rows, fixed)
        given = fixed or {}
        waiting = list(given.get(FEATURES) or [np.zeros((0, 0), np.float32)] * rows)
        if self.typed and TYPES not in given and any(map(len, waiting)):
            raise UsageError(
                f"{self.session.file.name} needs {TYPES!r} with images.", hint="Give all that the processor makes."
            )
        types = np.asarray(given.get(TYPES, np.zeros((rows, 0))), np.int64)
        positions = np.asarray(given.get(POSITIONS, np.zeros((AXES, rows, 0))), np.int64)
        return EmbeddedProgress(
            begun.mask, begun.states, begun.fixed, waiting=waiting, types=types, positions=positions
        )

    def select(self, progress: Progress, rows: NDArray[np.int64], *, fixed: bool = True) -> None:
        """As `Decoder.select`."""
        super().select(progress, rows, fixed=fixed)
        assert isinstance(progress, EmbeddedProgress)
        progress.waiting = [progress.waiting[row] for row in rows]
        progress.types, progress.positions = progress.types[rows], progress.positions[:, rows]

    def positions(self, progress: Progress, mask: NDArray[np.int64], past: int) -> NDArray[np.int64]:
        """As `Decoder.positions`; (3, rows, tokens) where the graph has positions on three axes."""
        assert isinstance(progress, EmbeddedProgress)
        text = super().positions(progress, mask, past)
        return positions_behind(text, mask, progress.positions) if self.on_three_axes else text

    def token_feeds(self, progress: Progress, input_ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Embeddings (rows, tokens, hidden) of tokens, image tokens take the features that wait; and the types of
        all tokens up to these, (rows, tokens so far)."""
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
    """Makes features of images, one image a call.

    Args:
        session: a graph from `pixel_values` (and what it needs beside them) to `image_features`.
    """

    def __init__(self, session: OnnxSession) -> None:
        self.session = session
        self.inputs = tuple(spec.name for spec in session.inputs)

    def features(self, inputs: Mapping[str, NDArray[Any]]) -> list[Floats]:
        """Features of each image, (tokens, hidden); none where no image is given.

        Raises:
            UsageError: an input is missing, or of a size that the graph cannot take.
        """
        given = {name: np.asarray(inputs[name]) for name in self.inputs if name in inputs}
        missing = [name for name in self.inputs if name not in given]
        if given and missing:
            raise UsageError(f"The images lack {', '.join(missing)}.", hint="Use the model's processor.")
        types = {spec.name: spec.dtype for spec in self.session.inputs}
        slices = slices_of({name: array.astype(types[name], copy=False) for name, array in given.items()})
        return [self.session.run(one)[FEATURES] for one in slices]

    def prompt(self, inputs: Mapping[str, NDArray[Any]], image_token: int) -> Prompt:
        """`image_prompt` with the features of the images among `inputs`."""
        return image_prompt(inputs, self.features(inputs), image_token)
