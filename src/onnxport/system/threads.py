"""Decide whether a run uses more than one thread.

Idle threads of torch and ONNX Runtime busy-wait for each other: on a loaded machine, 64 tokens of 92M parameters took
torch 57 CPU seconds with two threads, and 4 with one.
"""

from __future__ import annotations

# Parameters times input elements, a rough measure of work: about one second on one thread.
HEAVY_WORK = 2e10
# Several threads read weights above this size faster, even for a single token.
THREADED_BYTES = 2**31


def worth_threads(weight_bytes: int, work: float) -> bool:
    """Return whether more than one thread makes a run noticeably faster.

    Args:
        weight_bytes: size of the weights.
        work: parameters times elements of the input.
    """
    return weight_bytes >= THREADED_BYTES or work >= HEAVY_WORK
