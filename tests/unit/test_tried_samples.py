"""What is found by running a model: the integers that it takes, and which axes must be equal. Models are functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxport.dummy_inputs.base import Arrays
from onnxport.dummy_inputs.declared import DeclaredInputGenerator
from onnxport.dummy_inputs.input_ranges import declared_generator
from onnxport.sources.base import Declared


def _generator(function: Callable[[Arrays], object], *inputs: Declared) -> DeclaredInputGenerator:
    def runs(arrays: Arrays) -> Arrays | None:
        try:
            return {"y": np.asarray(function(arrays))}
        except Exception:
            return None

    return declared_generator(inputs, runs)


def _take(table: np.ndarray) -> Callable[[Arrays], object]:
    def function(arrays: Arrays) -> object:
        if (arrays["ids"] < 0).any():
            raise IndexError
        return table[arrays["ids"]]

    return function


def test_indices_stay_in_the_table() -> None:
    generator = _generator(_take(np.ones(40)), Declared("ids", "int32", (None, None)))
    for seed in range(4):
        ids = generator.make({"batch_size": 3, "sequence_length": 50}, seed=seed)["ids"]
        assert ids.min() >= 0 and 32 <= ids.max() < 40


def test_negative_numbers_and_small_ones_where_any_number_is_taken() -> None:
    generator = _generator(lambda arrays: arrays["x"] // 3, Declared("x", "int64", (None, None)))
    sizes = {"batch_size": 4, "sequence_length": 60}
    assert generator.make(sizes, seed=2)["x"].min() >= 0
    numbers = generator.make(sizes, seed=3)["x"]
    assert 0.3 < (numbers < 0).mean() < 0.7
    assert (np.abs(numbers) < 10).sum() > 20 and np.abs(numbers).max() > 2**12


def test_no_zero_among_divisors() -> None:
    def function(arrays: Arrays) -> object:
        if (arrays["x"] == 0).any():
            raise ZeroDivisionError
        return 1 / arrays["x"]

    generator = _generator(function, Declared("x", "int32", (None, 8)))
    assert all((generator.make({"batch_size": 9}, seed=seed)["x"] != 0).all() for seed in range(4))


def test_an_index_into_another_input_is_small_enough_for_the_shortest() -> None:
    def function(arrays: Arrays) -> object:
        if (arrays["index"] < 0).any():
            raise IndexError
        return arrays["x"][:, arrays["index"]]

    generator = _generator(function, Declared("x", "float32", (None, None)), Declared("index", "int32", (3,)))
    assert generator.make({"batch_size": 2, "sequence_length": 5})["index"].max() < 5


def test_axes_that_must_be_equal_share_a_knob_whatever_their_places() -> None:
    a, b = Declared("a", "float32", (None, 3, None)), Declared("b", "float32", (None, None, 4))
    generator = _generator(lambda arrays: arrays["a"] @ arrays["b"], a, b)
    assert generator.dim_names["a", 2] == generator.dim_names["b", 1] == "sequence_length"


def test_pairs_of_axes_get_names_of_their_own() -> None:
    def function(arrays: Arrays) -> object:
        scores = arrays["q"] @ arrays["k"].transpose(0, 2, 1)
        if scores.shape != arrays["allowed"].shape:
            raise ValueError
        return scores

    inputs = (
        Declared("q", "float32", (None, None, 4)), Declared("k", "float32", (None, None, 4)),
        Declared("allowed", "bool", (None, None, None)),
    )  # fmt: skip
    places = _generator(function, *inputs).dim_names
    assert places["q", 1] == places["allowed", 1] != places["k", 1] == places["allowed", 2]


def test_a_mask_of_pairs_with_four_axes_is_no_image() -> None:
    def function(arrays: Arrays) -> object:
        return arrays["x"] @ arrays["x"].transpose(0, 2, 1) + arrays["attention_mask"][:, 0]

    mask = Declared("attention_mask", "float32", (None, 1, None, None))
    places = _generator(function, Declared("x", "float32", (None, None, 8)), mask).dim_names
    assert places["x", 1] == places["attention_mask", 2] == places["attention_mask", 3]


def test_names_of_axes_are_words() -> None:
    spec = Declared("my input-1", "float32", (None, 2, None))
    assert _generator(lambda arrays: arrays["my input-1"], spec).dim_names["my input-1", 2] == "my_input_1_dim_2"


def test_numbers_beyond_six_and_masks_of_pairs_with_gaps() -> None:
    inputs = (Declared("x", "float32", (None, 400)), Declared("attention_mask", "bool", (None, 20, 20)))
    generator = _generator(lambda arrays: arrays["x"], *inputs)
    first, second = (generator.make({dim.name: 4 for dim in generator.dims}, seed=seed) for seed in (0, 1))
    assert np.abs(first["x"]).max() < 6 < second["x"].max()
    assert first["attention_mask"].all() and 0.5 < second["attention_mask"].mean() < 0.9
    assert second["attention_mask"].any(-1).all()
