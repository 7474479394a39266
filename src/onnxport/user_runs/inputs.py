"""Real inputs for a pipeline: texts, pairs of texts, images, sounds and conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxport.dummy_inputs.image_marker import image_marker
from onnxport.tasks import Task

SHORT = "Ada Lovelace wrote the first program in London."
_MIXED = "ZÜRICH, naïve Café — Привет, 世界! İstanbul 🙂 ﬁne\t3.14 <b>bold</b>"
_BARE = " a."
_PARAGRAPH = (
    "It was raining in Berlin, and the street was wet. Charles Babbage built an engine of brass, which nobody could "
    "finish. On Monday two hundred people read the letter by the river. "
)
_QUESTION = "Who wrote the first program?"
_LABELS = ["science", "sport", "cooking"]
# Longer texts cost more than they show: beyond this, what is cut is compared as a setting of the tokenizer.
_LONGEST_TOKENS = 520
_RATE = 16000  # of sounds, samples per second, where the feature extractor has none
_TOKENS = 12  # of a generated answer
GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "max_new_tokens": _TOKENS}


CONVERSATION = [
    {"role": "user", "content": _QUESTION},
    {"role": "assistant", "content": "Ada did."},
    {"role": "user", "content": "Where?"},
]


@dataclass(frozen=True)
class Call:
    """One call of a pipeline.

    Attributes:
        shown: the input in words, for messages.
        arguments, keywords: of the call.
    """

    shown: str
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)


def calls_for(task: Task, pipeline: Any) -> list[Call]:
    """Calls for a pipeline of `task`, the cheapest first.

    Args:
        task: a row of the table.
        pipeline: the source's; its tokenizer and processors say which tokens and sizes are worth a try.
    """
    make = _BY_TASK.get(task.name) or _BY_KIND[task.kind]
    return list(make(task, pipeline))


def shortened(call: Call, tokens: int) -> Call:
    """The call with at most `tokens` generated tokens, where it generates."""

    def short(keywords: dict[str, Any]) -> dict[str, Any]:
        named = {name: short(value) if isinstance(value, dict) else value for name, value in keywords.items()}
        return named | ({"max_new_tokens": tokens} if "max_new_tokens" in named else {})

    return replace(call, keywords=short(call.keywords))


def sample_texts(tokenizer: Any) -> list[str]:
    """Texts for a tokenizer: plain, in several scripts, nearly empty, with its special tokens, and too long for it."""
    special = " ".join(dict.fromkeys(getattr(tokenizer, "all_special_tokens", [])))
    texts = [SHORT, _MIXED, _BARE, *([f"{special} in a text"] if special else [])]
    longest = getattr(tokenizer, "model_max_length", 0)
    if 0 < longest <= _LONGEST_TOKENS:
        texts.append(_PARAGRAPH * (1 + longest // 25))
    return texts


def sample_image(width: int = 97, height: int = 71) -> Any:
    """An RGB image that is no square, in which channels, directions and sizes of patterns differ."""
    from PIL import Image

    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red, green = 255 * x / width, 255 * y / height
    blue = 127 + 120 * np.sin(x / 5) * np.cos(y / 9)
    pixels = np.stack([red, green, blue], -1)
    pixels[height // 4 : height // 2, width // 3 : width // 2] = (240, 20, 60)
    return Image.fromarray(pixels.astype(np.uint8), "RGB")


def sample_sound(rate: int, seconds: float = 1.0) -> np.ndarray:
    """A tone that rises from 200 to 2,000 Hz over noise, (samples,) float32."""
    time = np.arange(int(rate * seconds)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time))
    tone = np.sin(2 * np.pi * (200 * time + 900 / seconds * time**2))
    return (0.5 * tone + 0.05 * noise).astype(np.float32)


def _texts(task: Task, pipeline: Any) -> Iterator[Call]:
    if task.generates:
        yield from _generations(task, pipeline)
        return
    cut = {"truncation": True} if task.name != "token-classification" else {}
    every = {"top_k": None} if task.name == "text-classification" else {}
    for text in sample_texts(pipeline.tokenizer):
        yield Call(_shown(text), (text,), {**cut, **every})
    if task.name == "text-classification" and _makes_pairs(pipeline.tokenizer):
        pair = {"text": "It rains.", "text_pair": "The street is wet."}
        yield Call(f"{pair['text']!r} and {pair['text_pair']!r}", (pair,), {**cut, **every})


def _makes_pairs(tokenizer: Any) -> bool:
    """Whether a tokenizer puts a mark between two texts."""
    count = getattr(tokenizer, "num_special_tokens_to_add", None)
    return count is not None and count(pair=True) > count(pair=False)


def _generations(task: Task, pipeline: Any) -> Iterator[Call]:
    for text in sample_texts(pipeline.tokenizer):
        yield Call(_shown(text), (text,), {**GREEDY, "truncation": True})


def _masked(task: Task, pipeline: Any) -> Iterator[Call]:
    mask = pipeline.tokenizer.mask_token
    for text in sample_texts(pipeline.tokenizer)[:3]:
        yield Call(_shown(f"{text} {mask}."), (f"{text} {mask}.",), {"top_k": 5})
    long = f"{mask} {_PARAGRAPH * 30}"
    if pipeline.tokenizer.model_max_length <= _LONGEST_TOKENS:
        yield Call(_shown(long), (long,), {"tokenizer_kwargs": {"truncation": True}})


def _prompts(task: Task, pipeline: Any) -> Iterator[Call]:
    for text in sample_texts(pipeline.tokenizer)[:4]:
        yield Call(_shown(text), (text,), GREEDY)


def _questions(task: Task, pipeline: Any) -> Iterator[Call]:
    context = f"{SHORT} {_PARAGRAPH}"
    for shown, text in (("a question", context), ("several scripts", f"{_MIXED} {SHORT}"), ("long", context * 8)):
        yield Call(f"{_QUESTION!r} about {shown}", (), {"question": _QUESTION, "context": text, "top_k": 3})


def _pages(task: Task, pipeline: Any) -> Iterator[Call]:
    """Words of a page with their places, in thousandths; no text recognition is run."""
    words = f"{SHORT} {_PARAGRAPH}".split()
    places = [(10 + 90 * (n % 10), 20 + 40 * (n // 10)) for n in range(len(words))]
    page = [(word, [x, y, x + 80, y + 30]) for word, (x, y) in zip(words, places, strict=True)]
    for shown, boxes in (("a page", page[:20]), ("a longer page", page)):
        given = {"image": None, "question": _QUESTION, "word_boxes": boxes, "top_k": 3}
        yield Call(f"{_QUESTION!r} about {shown}", (), given)


def _pairs(task: Task, pipeline: Any) -> Iterator[Call]:
    for second in ("The street is wet.", _MIXED, _PARAGRAPH):
        yield Call(_shown(second), (), {"text": "It rains.", "text_pair": second})


def _choices(task: Task, pipeline: Any) -> Iterator[Call]:
    for text in (SHORT, _MIXED):
        yield Call(_shown(text), (text,), {"choices": ["It was raining.", "The engine is finished.", _BARE]})


def _labelled_texts(task: Task, pipeline: Any) -> Iterator[Call]:
    for text in (SHORT, _MIXED):
        yield Call(_shown(text), (text,), {"candidate_labels": _LABELS})


def _images(task: Task, pipeline: Any) -> Iterator[Call]:
    settings = dict(GREEDY) if task.generates else {}
    if task.name == "object-detection":
        settings = {"threshold": 0.0}  # all that it finds
    for width, height in ((97, 71), (64, 90)):
        yield Call(f"an image of {width} x {height}", (sample_image(width, height),), settings)


def _labelled_images(task: Task, pipeline: Any) -> Iterator[Call]:
    settings: dict[str, Any] = {"candidate_labels": ["a cat", "a photo of dogs"]}
    if task.decision == "box":
        settings["threshold"] = 0.0  # all that it finds
    for width, height in ((97, 71), (64, 90)):
        yield Call(f"an image of {width} x {height}", (sample_image(width, height),), settings)


def _marked_images(task: Task, pipeline: Any) -> Iterator[Call]:
    for width, height in ((97, 71), (64, 90)):
        points = [[[width / 3, height / 2]], [[5, 7], [width - 9, height / 3]]]
        given = {"input_points": points, "input_labels": [[1], [1, 0]]}
        yield Call(f"points in an image of {width} x {height}", (sample_image(width, height),), given)


def _series(task: Task, pipeline: Any) -> Iterator[Call]:
    config = pipeline.model.config
    steps = np.arange(config.context_length + 5)[:, None]
    values = np.sin(steps / 7 + np.arange(config.num_input_channels)) * 5 + steps / 3
    for shown, one in (("a series", values), ("a series of small values", values[5:] / 1000)):
        yield Call(shown, (one.astype(np.float32),))


def _clips(task: Task, pipeline: Any) -> Iterator[Call]:
    from onnxport.dummy_inputs.clip import frames_of

    frames = frames_of(pipeline.model.config)
    for width, height in ((97, 71), (64, 90)):
        wide = [sample_image(width + number, height) for number in range(frames)]
        clip = [image.crop((0, 0, width, height)) for image in wide]
        yield Call(f"a clip of {frames} frames of {width} x {height}", (clip,))


def _sounds(task: Task, pipeline: Any) -> Iterator[Call]:
    rate = getattr(pipeline.feature_extractor, "sampling_rate", None) or _RATE
    generate = {"generate_kwargs": GREEDY} if pipeline.model.can_generate() else {}
    for seconds in (1.0, 0.4):
        sound = {"raw": sample_sound(rate, seconds), "sampling_rate": rate}
        yield Call(f"a sound of {seconds} s", (sound,), generate)


def _images_in_texts(task: Task, pipeline: Any) -> Iterator[Call]:
    question, image = "What is this?", sample_image()
    if getattr(pipeline.processor, "chat_template", None):
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        yield Call("an image in a conversation", (messages,), {**GREEDY, "return_full_text": False})
        return
    marker = image_marker(pipeline.processor, pipeline.model.config.image_token_id, image)
    text = f"{marker}\n{question}"
    yield Call("an image in a text", ([image],), {"text": text, **GREEDY, "return_full_text": False})


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


_Make = Callable[[Task, Any], Iterator[Call]]
_BY_KIND: dict[str, _Make] = {
    "text": _texts, "text-pair": _pairs, "choices": _choices, "decoder": _prompts, "image": _images,
    "image-in-text": _images_in_texts, "audio": _sounds, "video": _clips, "image+texts": _labelled_images,
    "image+queries": _labelled_images, "image+points": _marked_images, "series": _series,
}  # fmt: skip
_BY_TASK: dict[str, _Make] = {
    "fill-mask": _masked, "question-answering": _questions, "document-question-answering": _pages,
    "zero-shot-classification": _labelled_texts,
}  # fmt: skip
