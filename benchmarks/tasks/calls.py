"""The call of every row: what a user gives to the pipeline. Images are files, sounds are arrays of 16 kHz."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_GREEDY = {"do_sample": False, "num_beams": 1, "max_new_tokens": 12}
_TEXT = "Ada Lovelace wrote the first program in London."
_CONTEXT = f"It was raining in Berlin. {_TEXT}"
_QUESTION = "Who wrote the first program?"
_LABELS = ["science", "sport", "cooking"]
_QUERIES = ["a cat", "two dogs in the garden", "paper"]
_FRAMES = 4
_IMAGE, _FRAME, _SOUND, _SERIES = "photo.png", "frame{}.png", "speech.npy", "series.npy"
_RATE = 16000

Call = tuple[tuple[Any, ...], dict[str, Any]]


def write_inputs(folder: Path) -> None:
    """Write the files that `call_of` names."""
    import numpy as np

    from onnxport.user_runs.inputs import sample_image, sample_sound

    sample_image(320, 240).save(folder / _IMAGE)
    for number in range(_FRAMES):
        sample_image(120 + number, 90).save(folder / _FRAME.format(number))
    np.save(folder / _SOUND, sample_sound(_RATE, 2.0))
    steps = np.arange(40)[:, None]
    np.save(folder / _SERIES, (np.sin(steps / 7 + np.arange(2)) * 5 + steps / 3).astype(np.float32))


def call_of(task: str, inputs: Path) -> Call:
    """Arguments and keywords of the pipeline of a row.

    Args:
        task: name of the row.
        inputs: the folder that `write_inputs` filled.
    """
    image = str(inputs / _IMAGE)
    calls: dict[str, Call] = {
        "fill-mask": (("Paris is the [MASK] of France.",), {}),
        "text-classification": ((_TEXT,), {"top_k": None}),
        "token-classification": ((_TEXT,), {"aggregation_strategy": "simple"}),
        "question-answering": ((), {"question": _QUESTION, "context": _CONTEXT}),
        "document-question-answering": (
            (), {"image": None, "question": _QUESTION, "word_boxes": _page(), "top_k": 3},
        ),
        "zero-shot-classification": ((_TEXT,), {"candidate_labels": _LABELS}),
        "text-generation": ((_TEXT,), _GREEDY),
        "multiple-choice": ((_TEXT,), {"choices": ["It was raining.", "The engine is finished."]}),
        "next-sentence-prediction": ((), {"text": "It rains.", "text_pair": "The street is wet."}),
        "zero-shot-image-classification": ((image,), {"candidate_labels": _QUERIES}),
        "zero-shot-object-detection": ((image,), {"candidate_labels": _QUERIES, "threshold": 0.02}),
        "object-detection": ((image,), {"threshold": 0.0}),
        "image-to-text": ((image,), _GREEDY),
        "image-text-to-text": ((image,), {"text": "<image>\nWhat is this?", **_GREEDY, "return_full_text": False}),
        "mask-generation": ((image,), {"input_points": [[[110, 120]]], "input_labels": [[1]]}),
        "video-classification": (([str(inputs / _FRAME.format(n)) for n in range(_FRAMES)],), {}),
    }  # fmt: skip
    if task in calls:
        return calls[task]
    if task in ("text2text-generation", "summarization", "translation"):
        return (_TEXT,), _GREEDY
    if "audio" in task or "speech" in task:
        return ({"raw": _array(inputs / _SOUND), "sampling_rate": _RATE},), {}
    if task == "time-series-forecasting":
        return (_array(inputs / _SERIES),), {}
    return (_TEXT if task == "feature-extraction" else image,), {}


def _array(path: Path) -> Any:
    import numpy as np

    return np.load(path)


def _page() -> list[tuple[str, list[int]]]:
    """Words in rows of ten; places are thousandths of the page."""
    words = _CONTEXT.split()
    places = [(10 + 90 * (n % 10), 20 + 40 * (n // 10)) for n in range(len(words))]
    return [(word, [x, y, x + 80, y + 30]) for word, (x, y) in zip(words, places, strict=True)]
