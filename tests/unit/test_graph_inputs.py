"""Random inputs for a graph whose source is not at hand."""

from __future__ import annotations

import pytest

from onnxport.graph.inputs import random_inputs
from onnxport.specs import TensorSpec


@pytest.mark.parametrize("patches", [4, 48, 60, 7])
def test_a_grid_has_as_many_patches_as_there_are(patches):
    specs = [TensorSpec("pixel_values", "float32", ("patches", 6)), TensorSpec("image_grid_thw", "int64", (1, 3))]
    grids = [random_inputs(specs, {"patches": patches}, 10, seed)["image_grid_thw"] for seed in range(20)]
    assert all(grid.shape == (1, 3) and grid.prod() == patches and grid[0, 0] == 1 for grid in grids)
    if patches % 4 == 0:
        assert all((grid[0, 1:] % 2 == 0).all() for grid in grids)
    if patches in (48, 60):
        assert len({tuple(grid[0]) for grid in grids}) > 2
