"""What a model reads is decided by the parameters of its forward, not by a name that its class inherits."""

from __future__ import annotations

import pytest

from onnxport.dummy_inputs.choose import main_input_of
from onnxport.loading.task_detection import tasks_of_type


class _Inherits:
    main_input_name = "input_ids"

    def forward(self, pixel_values: object, interpolate: bool = False) -> None: ...


class _Names:
    main_input_name = "pixel_values"

    def forward(self, input_ids: object, pixel_values: object) -> None: ...


class _Neither:
    main_input_name = "input_ids"

    def forward(self, series: object) -> None: ...


class _Anything:
    def forward(self, **inputs: object) -> None: ...


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(_Inherits, "pixel_values"), (_Names, "pixel_values"), (_Neither, "series"), (_Anything, "input_ids")],
)
def test_main_input(kind: type, expected: str) -> None:
    assert main_input_of(kind) == expected


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("idefics3_vision", ["image-feature-extraction"]),
        ("glm4v_vision", []),  # takes patches that no processor gives alone
        ("llava", ["image-to-text", "image-text-to-text"]),
        ("layoutlm", "feature-extraction"),
    ],
)
def test_base_models_are_for_what_they_read(model_type: str, expected: object) -> None:
    names = [row.name for row in tasks_of_type(model_type)]
    assert names == expected if isinstance(expected, list) else expected in names
