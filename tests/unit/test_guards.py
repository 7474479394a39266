"""Guards that torch.export states and cannot prove."""

from __future__ import annotations

import pytest

from onnxport.export.guards import valid_sizes

SIZE = "L['input_values'].size()[1]"


def refusal(*guards):
    lines = "".join(
        f"  - Not all values of num_samples = {SIZE} in the specified range satisfy the generated guard {guard}.\n"
        for guard in guards
    )
    return f"Constraints violated (num_samples)!\n{lines}Suggested fixes:\n  num_samples = 384*_num_samples - 223\n"


LENGTH = f"((-1) + (((-127) + {SIZE}) // 384))"


@pytest.mark.parametrize(
    ("guards", "sizes"),
    [
        ([f"{LENGTH}*{LENGTH} != 1", f"{LENGTH} < {LENGTH}*{LENGTH}", f"(1 % {LENGTH}) != 0"], (1279, None)),
        ([f"1279 <= {SIZE} and {SIZE} <= IntInfinity()"], (1279, None)),
        ([f"{SIZE} != 7"], (8, None)),
        ([f"{SIZE} >= 0"], (1, None)),
        ([f"720 <= {SIZE} and {SIZE} <= 1600399"], (720, 1600399)),  # a table of positions
        ([f"{SIZE} <= 8009"], None),  # a larger input breaks it
        ([f"({SIZE} % 32) == 1"], None),  # true at 4001 and 8001, not between
        ([f"{SIZE} != 5000"], None),
        ([f"Max(1, {SIZE}) > 0"], None),  # a function that we do not know
        (["os.system('x') == 0"], None),
        ([], None),
    ],
)
def test_valid_sizes(guards, sizes):
    assert valid_sizes(refusal(*guards), "num_samples", 4001) == sizes


def test_no_size_beyond_the_limit_of_the_axis_is_tried():
    message = refusal(f"12 <= {SIZE} and {SIZE} <= 128", f"({SIZE} // 4) - 1 != 1")
    limited = message.replace("specified range satisfy", "specified range num_samples <= 128 satisfy")
    assert valid_sizes(limited, "num_samples", 29) == (12, 128)
    assert valid_sizes(limited, "num_samples", 11) is None
    assert valid_sizes(message, "num_samples", 29) is None


def test_another_sentence_about_the_axis_is_no_guard():
    message = refusal(f"{SIZE} > 3").replace(
        "Suggested", f"  - The values of num_samples = {SIZE} must be 3.\nSuggested"
    )
    assert valid_sizes(message, "num_samples", 4001) is None
