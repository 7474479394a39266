"""Which opsets can be written, and which one is written by default."""

from __future__ import annotations

from onnxport.errors import UsageError

# torch.onnx translates to opset 18 and converts from there; the converter has no way below 17
# (LayerNormalization) and stops without a word, so that a model would silently stay at 18.
OLDEST = 17
# Above 23 torch.onnx and onnxscript lose their fused forms: 24 decomposes RMSNormalization and
# RotaryEmbedding, and with 25 onnxruntime 1.32 fuses nothing (MiniLM, 8 x 128 tokens: 97 ms
# against 84 ms). So 23 is the newest opset that onnxruntime runs at full speed.
DEFAULT = 23
_TRANSLATED = 25


def newest() -> int:
    """The newest opset that both torch.onnx writes and the installed onnxruntime runs."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    known = max(schema.since_version for schema in get_all_operator_schema() if schema.domain in ("", "ai.onnx"))
    return min(known, _TRANSLATED)


def choose_opset(requested: int | None) -> int:
    """The opset to write.

    Raises:
        UsageError: `requested` is outside the range that can be written and run.
    """
    limit = newest()
    if requested is None:
        return min(DEFAULT, limit)
    if not OLDEST <= requested <= limit:
        raise UsageError(
            f"Opset {requested} is out of range: {OLDEST} to {limit} can be written and run here. Nothing was written.",
            hint=f"Use --opset {OLDEST if requested < OLDEST else limit}, or leave it out for {min(DEFAULT, limit)}.",
        )
    return requested
