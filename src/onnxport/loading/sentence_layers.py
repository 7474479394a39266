"""The modules that sentence-transformers puts after a transformer, as layers of a graph.

Each is called with the features so far and the mask, and sets one of the features. Written after sentence-transformers
6.2, whose configs of older versions are read too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = "token_embeddings"
SENTENCE = "sentence_embedding"


class Pooling(nn.Module):
    """Token embeddings (batch, tokens, width) to sentence embeddings (batch, modes * width)."""

    def __init__(self, modes: tuple[str, ...]) -> None:
        super().__init__()
        self.modes = modes

    def forward(self, features: dict[str, Tensor], mask: Tensor) -> None:
        """Set the sentence embedding; `mask` is (batch, tokens), 1 for a token and 0 for padding."""
        tokens = features[TOKENS]
        weights = mask.unsqueeze(-1).to(tokens.dtype)
        features[SENTENCE] = torch.cat([self._pool(mode, tokens, mask, weights) for mode in self.modes], dim=-1)

    @staticmethod
    def _pool(mode: str, tokens: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        if mode == "max":
            return tokens.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)
        if mode in {"cls", "lasttoken"}:
            # The first or last real token of each row: rows may be padded on either side.
            places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=torch.int32)
            order = places if mode == "lasttoken" else places.flip(0)
            chosen = (mask.to(torch.int32) * order).argmax(dim=1)
            return tokens.gather(1, chosen.view(-1, 1, 1).expand(-1, 1, tokens.shape[-1])).squeeze(1)
        if mode == "weightedmean":
            # A token counts by its place among the row's tokens; padding on the left is not counted.
            places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=torch.int32)
            padding = mask.to(torch.int32).argmax(dim=1, keepdim=True)
            weights = weights * (places - padding).unsqueeze(-1).to(tokens.dtype)
        total = (tokens * weights).sum(dim=1)
        count = weights.sum(dim=1).clamp(min=1e-9)
        return total / (count.sqrt() if mode == "mean_sqrt_len_tokens" else count)


class Dense(nn.Module):
    """A linear layer and an activation over one of the features; optionally added to its input.

    Attributes:
        stored: (weight files, their format) that its weights were read from.
    """

    stored: tuple[Sequence[Path], str] = (), "safetensors"

    def __init__(self, settings: Mapping[str, Any], activation: nn.Module) -> None:
        super().__init__()
        width, out = int(settings["in_features"]), int(settings["out_features"])
        self.linear = nn.Linear(width, out, bias=bool(settings.get("bias", True)))
        self.activation = activation
        self.source = str(settings.get("module_input_name") or SENTENCE)
        self.target = str(settings.get("module_output_name") or self.source)
        self.residual: nn.Module | None = None
        if settings.get("use_residual"):
            self.residual = nn.Identity() if width == out else nn.Linear(width, out, bias=False)

    def forward(self, features: dict[str, Tensor], mask: Tensor) -> None:
        value = features[self.source]
        result: Tensor = self.activation(self.linear(value))
        features[self.target] = result if self.residual is None else result + self.residual(value)


class Normalize(nn.Module):
    """Scale one of the features to length 1 (Euclidean, over the last axis)."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.source = str(settings.get("module_input_name") or SENTENCE)
        self.target = str(settings.get("module_output_name") or self.source)

    def forward(self, features: dict[str, Tensor], mask: Tensor) -> None:
        features[self.target] = nn.functional.normalize(features[self.source], p=2.0, dim=-1)


class SpladePooling(nn.Module):
    """Logits of a masked language model (batch, tokens, vocabulary) to a weight per word (batch, vocabulary).

    log(1 + max(logit, 0)) of every token, then the largest or the sum over the tokens. Formal and others, SPLADE v2:
    https://arxiv.org/abs/2109.10086, formula 2.
    """

    def __init__(self, strategy: str, *, twice: bool) -> None:
        super().__init__()
        self.strategy = strategy
        self.twice = twice  # log(1 + log(1 + max(logit, 0)))

    def forward(self, features: dict[str, Tensor], mask: Tensor) -> None:
        """Set the sentence embedding; `mask` is (batch, tokens), 1 for a token and 0 for padding."""
        logits = features[TOKENS]
        weights = torch.log1p(torch.relu(logits * mask.unsqueeze(-1).to(logits.dtype)))
        weights = torch.log1p(weights) if self.twice else weights
        features[SENTENCE] = weights.sum(dim=1) if self.strategy == "sum" else weights.amax(dim=1)
