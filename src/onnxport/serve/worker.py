"""The model in a process of its own: it does jobs, several at a time."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np

from onnxport.artifact.folder import open_folder
from onnxport.errors import OnnxPortError, UsageError, did_you_mean
from onnxport.runtime.decoding.settings import read_settings
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.text_generation import TextGenerator
from onnxport.serve.jobs import Job, Piece, Reply, ServeSettings
from onnxport.serve.places import Places
from onnxport.system.library_errors import first_line
from onnxport.tasks import IMAGE_AND_TEXTS, MODULE, find_task

# A text shares a batch with texts of at most twice its length: padding costs as much as text.
_LONGER, _SHORT = 2, 64
_IMAGE_KEYS = frozenset({"image", "images", "url", "path", "base64"})
_NOBODY = Reply(problem="The client went away.", ours=True)
_FILES = "Give the file itself in base64, or as data:...;base64,...; the server opens no paths and no addresses."


class Worker:
    """A pipeline, and its graphs.

    Args:
        settings: what to load.
        places: which requests are still wanted; None for all.

    Raises:
        OnnxPortError: the folder cannot be loaded.
    """

    def __init__(self, settings: ServeSettings, places: Places | None = None) -> None:
        folder = open_folder(settings.folder)
        task = settings.task or folder.manifest.task
        where = {"provider": settings.provider, "threads": settings.threads}
        self.pipeline: Any = None
        if task == MODULE.name:
            self.kind = MODULE.kind
            sessions: Sequence[OnnxSession] = (OnnxSession(folder, settings.component, **where),)  # type: ignore[arg-type]
        else:
            from onnxport.runtime.pipeline import open_pipeline

            self.kind = find_task("translation" if task.startswith("translation_") else task).kind
            self.pipeline = open_pipeline(folder, task, settings.component, **where)  # type: ignore[arg-type]
            sessions = self.pipeline.sessions
        self.graphs = {(session.component.name if session.component else "model"): session for session in sessions}
        self.max_batch, self.timeout = settings.max_batch, settings.timeout
        self._places = places

    def run(self, jobs: Sequence[Job]) -> list[Reply]:
        """A reply for each job. Those that can share a batch do; a job that cannot be done leaves the others alone."""
        replies: list[Reply | None] = [None if self._wanted(job) else _NOBODY for job in jobs]
        left = [number for number, reply in enumerate(replies) if reply is None]
        for places in _together([jobs[number] for number in left]):
            numbers = [left[place] for place in places]
            found = self._batch([jobs[number] for number in numbers]) if len(numbers) > 1 else None
            for place, number in enumerate(numbers):
                replies[number] = self._one(jobs[number]) if found is None else Reply(found[place])
        return [reply or Reply(problem="The job was lost.", ours=True) for reply in replies]

    def write(self, job: Job) -> Iterator[Reply]:
        """The pieces of a text; or of another job the reply."""
        if job.kind != "write" or not self._wanted(job):
            yield self._one(job) if self._wanted(job) else _NOBODY
            return
        try:
            for piece in self._pieces(job):
                yield Reply(piece)
        except Exception as error:
            yield _failed(error)

    def _batch(self, jobs: Sequence[Job]) -> list[Any] | None:
        """The results of jobs with the same settings; None if one of them cannot be done."""
        try:
            if jobs[0].kind == "tensors":
                return _run_tensors_together(self._graph(jobs[0]), jobs)
            if jobs[0].kind == "embed":
                sizes = [len(job.inputs) for job in jobs]
                found = self._embed([text for job in jobs for text in job.inputs], jobs[0].settings)
                ends = np.cumsum([0, *sizes])
                return [found[first:last] for first, last in pairwise(ends)]
            inputs = [self._readable(job.inputs) for job in jobs]
            return list(self.pipeline(iter(inputs), batch_size=self.max_batch, **jobs[0].settings))
        except Exception:
            return None

    def _one(self, job: Job) -> Reply:
        try:
            if job.kind == "tensors":
                return Reply(_outputs(self._graph(job).run(job.inputs), job))
            if self.pipeline is None:
                raise UsageError("The model has no task; it takes tensors.", hint="POST /v2/models/model/infer")
            if job.kind == "embed":
                return Reply(self._embed(job.inputs, job.settings))
            if job.kind == "write":
                return Reply(self._written(job))
            inputs, settings = self._readable(job.inputs), dict(job.settings)
            if isinstance(inputs, Mapping) and self.kind in ("choices", "text-pair") and "text" not in inputs:
                return Reply(self.pipeline(**inputs, **settings))
            if isinstance(inputs, list) and inputs and all(isinstance(one, str) for one in inputs):
                settings["batch_size"] = self.max_batch  # several texts in one request
            return Reply(self.pipeline(inputs, **settings))
        except Exception as error:
            return _failed(error)

    def _embed(self, texts: Sequence[str], settings: Mapping[str, Any]) -> np.ndarray:
        """Embeddings, (texts, width)."""
        encode = getattr(self.pipeline, "encode", None)
        if encode is None:
            raise UsageError("The model has no sentence embeddings.", hint="POST /predict runs its own task.")
        return np.asarray(encode(list(texts), batch_size=self.max_batch, **settings))

    def _graph(self, job: Job) -> OnnxSession:
        name = str(job.settings["graph"])
        if name not in self.graphs:
            raise UsageError(
                f"There is no model {name!r}.",
                hint=did_you_mean(name, self.graphs) or f"There are {', '.join(self.graphs)}.",
            )
        return self.graphs[name]

    def _readable(self, inputs: Any) -> Any:
        """Inputs with images and sounds in the place of base64."""
        if self.kind == "audio":
            return _bytes_of(inputs) if isinstance(inputs, str) else _samples(inputs)
        if self.kind in ("image", "image+points", "video", *IMAGE_AND_TEXTS):
            # Several images in one request, or the frames of a clip.
            images = inputs if isinstance(inputs, list) and inputs else [inputs]
            if not all(isinstance(one, str) for one in images):
                raise UsageError("An image is needed.", hint=_FILES)
            read = [_image(one) for one in images]
            return read if isinstance(inputs, list) else read[0]
        if self.kind == "series":
            return _numbers(inputs)
        if self.kind == "image-in-text":
            given = [_decoded(one) for one in inputs] if isinstance(inputs, list) else _decoded(inputs)
            return _with_images(given)
        return inputs

    def _wanted(self, job: Job) -> bool:
        return self._places is None or self._places.wanted(job.place)

    def _pieces(self, job: Job) -> Iterator[Piece]:
        prompt, settings = job.inputs, job.settings
        generator = getattr(self.pipeline, "generator", None)
        if not isinstance(generator, TextGenerator):
            yield self._whole(prompt, settings)
            return
        from onnxport.runtime.generation import Answers, generate_tokens
        from onnxport.runtime.prompts.tokenizer import StreamDecoder

        chosen = read_settings(generator.folder, **settings)
        chat = not isinstance(prompt, str)
        text = generator.prompt_of(prompt) if chat else prompt
        encoded = generator.encode([text], chosen, special=not chat)
        length = encoded.ids.shape[1]
        pieces, stop = StreamDecoder(generator.texts), generator.texts.stop(chosen.stop_strings)
        answers = Answers(1, chosen.eos_token_id, stop)
        count, end = 0, time.monotonic() + self.timeout
        for tokens in generate_tokens(generator.decoder, encoded, chosen, stop=stop, answers=answers):
            count += 1
            if piece := pieces.add(int(tokens[0])):
                yield Piece(piece, length, count)
            if time.monotonic() > end or not self._wanted(job):  # nobody waits for the rest
                break
        yield Piece(pieces.rest(), length, count, "length" if answers.running.any() else "stop")

    def _whole(self, prompt: Any, settings: Mapping[str, Any]) -> Piece:
        """The text of a model that does not write piece by piece."""
        if not isinstance(prompt, str):
            raise UsageError("The model has no conversations.", hint="POST /v1/completions")
        if getattr(self.pipeline, "generator", None) is None:
            raise UsageError("The model writes no texts.", hint="POST /predict runs its own task.")
        [answer] = self.pipeline(prompt, **settings)
        text = next(iter(answer.values()))
        tokenizer = self.pipeline.generator.texts.tokenizer
        lengths = [len(tokenizer.encode(one, add_special_tokens=False).ids) for one in (prompt, text)]
        return Piece(text, lengths[0], lengths[1], "stop")

    def _written(self, job: Job) -> list[Piece]:
        return list(self._pieces(job))


def _together(jobs: Sequence[Job]) -> Iterator[list[int]]:
    """Numbers of the jobs that may share a batch: of the same kind and settings, and of similar length."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, job in enumerate(jobs):
        alone = job.kind == "write" or (job.kind == "call" and not isinstance(job.inputs, str))
        key = (number,) if alone else (job.kind, repr(sorted(job.settings.items())))
        groups.setdefault(key, []).append(number)
    for numbers in groups.values():
        ordered = sorted(numbers, key=lambda number: _length(jobs[number]))
        first = 0
        for place in range(1, len(ordered) + 1):
            longest = _LONGER * max(_length(jobs[ordered[first]]), _SHORT)
            if place == len(ordered) or _length(jobs[ordered[place]]) > longest:
                yield ordered[first:place]
                first = place


def _length(job: Job) -> int:
    """Characters; 0 where length does not matter."""
    if job.kind == "embed":
        return max((len(text) for text in job.inputs), default=0)
    return len(job.inputs) if job.kind == "call" and isinstance(job.inputs, str) else 0


def _run_tensors_together(session: OnnxSession, jobs: Sequence[Job]) -> list[Any] | None:
    """Run arrays of the same sizes as one batch; None where the graph has no axis of a batch, or sizes differ."""
    axes = {spec.axes[0] if spec.axes else None for spec in (*session.inputs, *session.outputs)}
    shapes = [{name: array.shape[1:] for name, array in job.inputs.items()} for job in jobs]
    one_batch = len(axes) == 1 and isinstance(next(iter(axes)), str) and session.static_axes is None
    if not one_batch or any(shape != shapes[0] for shape in shapes):
        return None
    rows = [len(next(iter(job.inputs.values()))) for job in jobs]
    made = session.run({name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs})
    ends = np.cumsum([0, *rows])
    if any(len(array) != ends[-1] for array in made.values()):
        return None
    return [
        _outputs({name: array[first:last] for name, array in made.items()}, job)
        for job, (first, last) in zip(jobs, pairwise(ends), strict=True)
    ]


def _outputs(made: dict[str, np.ndarray], job: Job) -> dict[str, np.ndarray]:
    wanted = job.settings.get("outputs") or list(made)
    missing = next((name for name in wanted if name not in made), None)
    if missing is not None:
        raise UsageError(f"The graph has no output {missing!r}.", hint=did_you_mean(missing, made))
    return {name: made[name] for name in wanted}


def _failed(error: Exception) -> Reply:
    if isinstance(error, OnnxPortError):
        return Reply(problem=error.message, hint=error.hint, ours=not isinstance(error, UsageError))
    return Reply(problem=f"{first_line(error, type(error).__name__)}.", ours=True)


def _bytes_of(text: str) -> bytes:
    """What a data URL or a base64 text holds.

    Raises:
        UsageError: neither.
    """
    body = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("The input is not base64.", hint=_FILES) from error


def _image(text: str) -> Any:
    """A PIL image, in RGB."""
    from PIL import Image

    from onnxport.runtime.preprocessing.images.load import load_image

    try:
        with Image.open(BytesIO(_bytes_of(text))) as image:
            return load_image(image)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"The input is not an image: {first_line(error)}.", hint=_FILES) from error


def _numbers(inputs: Any) -> np.ndarray:
    """A series; no text, which the pipeline would take for a path."""
    try:
        return np.asarray(inputs, np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError("A series is needed.", hint="Give a list of rows: one for each time step.") from error


def _samples(inputs: Any) -> dict[str, Any]:
    if not isinstance(inputs, Mapping) or "raw" not in inputs or "sampling_rate" not in inputs:
        raise UsageError("A sound is needed.", hint=_FILES)
    return {"raw": np.asarray(inputs["raw"], np.float32), "sampling_rate": inputs["sampling_rate"]}


def _decoded(value: Any) -> Any:
    return _image(value) if isinstance(value, str) else value


def _with_images(inputs: Any) -> Any:
    """Messages, or {"image", "text"}, with images in the place of base64."""
    if isinstance(inputs, Mapping):
        found = {key: _with_images(value) for key, value in inputs.items()}
        for key in _IMAGE_KEYS.intersection(found):  # no text under them reaches what opens paths and addresses
            value = found[key]
            found[key] = [_decoded(one) for one in value] if isinstance(value, list) else _decoded(value)
        return found
    return [_with_images(one) for one in inputs] if isinstance(inputs, list) else inputs
