"""Whether a run is worth more than one thread.

Threads that have too little to do wait for each other, and those of torch and ONNX Runtime wait by turning in
circles: on a busy machine 64 tokens of 92M parameters took torch 57 CPU seconds on two threads, and 4 on one.
"""

from __future__ import annotations

# Parameters times elements that pass through them, as a rough measure of a run's work: a second on one thread.
HEAVY_WORK = 2e10
# Weights that several threads read faster, however few the tokens.
THREADED_BYTES = 2**31


def worth_threads(weight_bytes: int, work: float) -> bool:
    """Whether more than one thread shortens a run enough to be noticed.

    Args:
        work: parameters times the elements of the input.
    """
    return weight_bytes >= THREADED_BYTES or work >= HEAVY_WORK
