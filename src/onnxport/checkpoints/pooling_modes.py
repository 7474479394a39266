"""How sentence-transformers' config of a pooling names its modes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Old spelling of the pooling modes, in the order in which their results are concatenated.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING_MODES = tuple(_FLAGS.values())


def pooling_modes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The modes in the order of their results, from either spelling; they may be others than `POOLING_MODES`.

    Example:
        >>> pooling_modes({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})
        ('cls', 'mean')
    """
    named = settings.get("pooling_mode")
    if named is None:
        return tuple(mode for flag, mode in _FLAGS.items() if settings.get(flag)) or ("mean",)
    return (named,) if isinstance(named, str) else tuple(map(str, named))
