"""A ledger in words."""

from __future__ import annotations

from collections.abc import Sequence

from onnxport.artifact.ledger import Ledger

_NAMES = {"checkpoint": "the checkpoint", "model in memory": "the model in memory"}


def ledger_summary(ledgers: Sequence[Ledger]) -> str:
    """One line for the list of steps: "90.9 MB of 90.9 MB proved against the checkpoint".

    Args:
        ledgers: of the graphs of one model.
    """
    if not ledgers:
        return "not compared"
    proved, total = (sum(size) for size in zip(*((one.proved_bytes, one.total_bytes) for one in ledgers), strict=True))
    against = " and ".join(dict.fromkeys(_NAMES.get(one.against, one.against) for one in ledgers))
    return f"{_size(proved)} of {_size(total)} proved against {against}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
