"""Check the three graphs of a model whose images stand in its texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.coverage import prompts
from benchmarks.coverage.comparison import TYPES, Arrays, Checked, empty_state, judge, named

_TILED = 5
_DECODERS = ("language_model", "text_model")
_LAST = 3  # tokens of the second call of the decoder


def images_in_text(model: Any, sessions: dict[str, Any], loaded: Any, result: Checked) -> None:
    """Features of an image put among the embeddings of a text, in two calls of the decoder, against torch's logits.

    Args:
        model: of torch.
        sessions: of the graphs "vision_encoder", "embed_tokens" and the decoder.
        loaded: preprocessing with a processor.
        result: gets the comparisons.
    """
    vision, embed = sessions["vision_encoder"], sessions["embed_tokens"]
    decoder = next(session for name, session in sessions.items() if "decoder" in name)
    for number, words in enumerate((5, 14)):
        inputs = prompts.prompt(model, loaded, np.random.default_rng(number + 1), words=words)
        expected, positions = _of_torch(model, inputs)
        arrays = {name: value.numpy() for name, value in inputs.items()}
        ids = arrays["input_ids"]
        places = ids == prompts.media_token(model.config)
        features = np.concatenate([vision.run(None, feed)[0] for feed in _images(vision, arrays)])
        embeds = embed.run(None, {"input_ids": np.where(places, 0, ids)})[0]
        if len(features) != places.sum():
            result.problem = f"{len(features)} rows of features for {places.sum()} image tokens"
            return
        embeds[places] = features
        whole = _decoded(decoder, embeds, positions, arrays)
        result.cases += 1
        judge("logits", whole, expected, result)


def _of_torch(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits, and the positions that the model gives its decoder."""
    found: list[torch.Tensor] = []

    def watch(_: Any, args: Any, values: dict[str, Any]) -> None:
        if isinstance(positions := values.get("position_ids"), torch.Tensor):
            found.append(positions)

    decoder = next((one for name, one in model.named_modules() if name.endswith(_DECODERS)), None)
    handle = decoder.register_forward_pre_hook(watch, with_kwargs=True) if decoder is not None else None
    with torch.no_grad():
        logits = named(model(**inputs, use_cache=False))["logits"]
    if handle is not None:
        handle.remove()
    return logits, found[0].numpy() if found else None


def _images(vision: Any, arrays: Arrays) -> Iterator[Arrays]:
    """What the graph takes, one image or tile after the other; tiles of zeros are padding."""
    given = {one.name: arrays[one.name].astype(TYPES[one.type]) for one in vision.get_inputs()}
    pixels = given["pixel_values"]
    if pixels.ndim == _TILED:
        for place in np.ndindex(*pixels.shape[:2]):
            if pixels[place].any():
                yield {name: value[place][None, None] for name, value in given.items()}
    elif "image_grid_thw" in given:
        yield given
    else:
        for row in range(len(pixels)):
            yield {name: value[row : row + 1] for name, value in given.items()}


def _decoded(decoder: Any, embeds: np.ndarray, positions: np.ndarray | None, arrays: Arrays) -> np.ndarray:
    specs = {one.name: one for one in decoder.get_inputs()}
    rows, tokens = embeds.shape[:2]
    rank = len(specs["position_ids"].shape) if "position_ids" in specs else 2
    if positions is None or positions.ndim != rank:
        positions = np.broadcast_to(np.arange(tokens), (rows, tokens))
    elif rank > 2:  # some have the plain positions in front of those on three axes
        positions = positions[-specs["position_ids"].shape[0] :]
    states = {name: empty_state(spec, rows) for name, spec in specs.items() if name.startswith("past_")}
    logits = []
    for start, end in ((0, tokens - _LAST), (tokens - _LAST, tokens)):
        feed = {
            "inputs_embeds": embeds[:, start:end],
            "attention_mask": np.ones((rows, end), np.int64),
            "position_ids": positions[..., start:end].astype(np.int64),
        }
        if "token_type_ids" in specs:
            feed["token_type_ids"] = arrays["token_type_ids"][:, :end].astype(np.int64)
        feed = {name: value for name, value in feed.items() if name in specs} | states
        names = [one.name for one in decoder.get_outputs()]
        got = dict(zip(names, decoder.run(None, feed), strict=True))
        logits.append(got["logits"])
        states = {name: got[name.replace("past_key_values", "present").replace("past_", "present_")] for name in states}
    return np.concatenate(logits, 1)
