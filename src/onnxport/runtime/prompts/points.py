"""Points that mark objects in an image, and the names that the two graphs of a model of masks exchange.

The names are those of transformers.js.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxport.errors import UsageError

VISION, DECODER = "vision_encoder", "prompt_encoder_mask_decoder"
PIXELS = "pixel_values"
EMBEDDINGS, POSITIONS = "image_embeddings", "image_positional_embeddings"
POINTS, LABELS = "input_points", "input_labels"
NO_POINT = -10  # the label of a place without a point


def as_objects(points: Sequence[Any], labels: Sequence[Any] | None = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Points and labels of objects, those with fewer points filled up.

    Args:
        points: [[x, y], ...] for one object, or a list of such lists.
        labels: 1 or 0 for each point, in lists as `points`; None: all are 1.

    Returns:
        (objects, points, 2) float64 and (objects, points) int64.

    Raises:
        UsageError: no points, points that are not two numbers, or another number of labels.

    Example:
        >>> as_objects([[3, 4], [5, 6]])[0].shape
        (1, 2, 2)
    """
    hint = "input_points=[[x, y]] in pixels of the image"
    try:
        one = np.ndim(points[0][0]) == 0
        objects = [np.asarray(rows, np.float64) for rows in ([points] if one else points)]
        if any(rows.ndim != 2 or rows.shape[1] != 2 for rows in objects):
            raise ValueError("a point is x and y")
        given = [np.ones(len(rows)) for rows in objects] if labels is None else ([labels] if one else labels)
        marks = [np.asarray(row, np.int64).reshape(-1) for row in given]
    except (TypeError, ValueError, IndexError, KeyError):
        raise UsageError(f"The points {points!r} and labels {labels!r} mark no object.", hint=hint) from None
    if [len(rows) for rows in objects] != [len(row) for row in marks] or not all(len(rows) for rows in objects):
        raise UsageError(
            f"There are {[len(rows) for rows in objects]} points and {[len(row) for row in marks]} labels.", hint=hint
        )
    longest = max(len(rows) for rows in objects)
    places = [np.pad(rows, ((0, longest - len(rows)), (0, 0))) for rows in objects]
    filled = [np.pad(row, (0, longest - len(row)), constant_values=NO_POINT) for row in marks]
    return np.stack(places), np.stack(filled)
