"""What moves which output, without a model."""

from __future__ import annotations

import numpy as np

from onnxport.specs import TensorSpec
from onnxport.verification.case import Case
from onnxport.verification.structure import Change, Structure, differences

SPECS = (TensorSpec("kept", "float32", ("batch_size",)), TensorSpec("lost", "float32", ("batch_size",)))
UNMOVED = {name: np.ones(2, np.float32) for name in ("kept", "lost")}
MOVED = {"kept": np.array([1, 1.5], np.float32), "lost": np.array([1, 1.5], np.float32)}


def _structure() -> tuple[Structure, Change]:
    change = Change(Case("changed", {"batch_size": 2}, {}, MOVED), ("", "the second row"))
    return Structure(Case("base", {"batch_size": 2}, {}, UNMOVED), (change,)), change


def test_an_output_that_the_graph_lacks_is_passed_over() -> None:
    structure, change = _structure()
    graph = {"kept": UNMOVED["kept"]}, {"kept": MOVED["kept"]}
    assert differences(structure, change, *graph, SPECS) == []


def test_an_output_that_does_not_move_is_told_beside_one_that_is_missing() -> None:
    structure, change = _structure()
    graph = {"kept": UNMOVED["kept"]}, {"kept": UNMOVED["kept"]}
    assert len(differences(structure, change, *graph, SPECS)) == 1
