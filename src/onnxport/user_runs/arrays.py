"""A model between its tokenizer or processor and its labels, for TensorFlow's classes, which have few pipelines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxport.tasks import Task
from onnxport.user_runs.inputs import GREEDY, Call

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class ArrayModel:
    """What answers a call.

    Attributes:
        parts: tokenizer, image processor and feature extractor by name; None for those that are absent.
        run: from arrays by name to outputs by name.
        labels: index -> label, of the config.
        generate: from the text or arrays of a call to the text that follows; None for models that do not generate.
    """

    task: Task
    parts: Mapping[str, Any]
    run: Callable[[Arrays], Mapping[str, np.ndarray]]
    labels: Mapping[int, str] = field(default_factory=dict)
    generate: Callable[[Any], str] | None = None

    def ask(self, call: Call) -> dict[str, Any]:
        """Outputs by name, and where a person sees a label the label of each choice; or the generated text."""
        if self.generate is not None and self.task.kind in ("text", "decoder"):
            return {"generated_text": self.generate(call.arguments[0])}
        arrays = prepare(self.task, self.parts, call)
        if self.generate is not None:
            return {"generated_text": self.generate(arrays)}
        outputs = dict(self.run(arrays))
        if self.task.decision in ("label", "token") and self.labels and "logits" in outputs:
            best = outputs["logits"].argmax(-1).reshape(-1)
            return {"labels": [self.labels.get(int(one)) for one in best[:64]], **outputs}
        return outputs


def prepare(task: Task, parts: Mapping[str, Any], call: Call) -> Arrays:
    """The arrays that a tokenizer and processors make of a call for a pipeline."""
    given, named = call.arguments, call.keywords
    if task.kind == "audio":
        sound = given[0]
        made = parts["feature_extractor"](sound["raw"], sampling_rate=sound["sampling_rate"], return_tensors="np")
    elif task.kind == "image":
        made = parts["image_processor"](images=given[0], return_tensors="np")
    elif task.kind == "image+texts":
        texts = parts["tokenizer"](named["candidate_labels"], padding=True, return_tensors="np")
        made = {**texts, **parts["image_processor"](images=given[0], return_tensors="np")}
    else:
        made = _texts(parts["tokenizer"], call)
    arrays = {name: np.asarray(value) for name, value in made.items()}
    return {name: value[None] for name, value in arrays.items()} if task.kind == "choices" else arrays


def generation_of(config: Any, task: Task) -> tuple[str, dict[str, Any]]:
    """What config.json says for a task: the prefix of texts, and settings of `generate` with greedy search."""
    row = (getattr(config, "task_specific_params", None) or {}).get(task.name) or {}
    prefix = row.get("prefix") or getattr(config, "prefix", None) or ""
    return prefix, {name: value for name, value in row.items() if name != "prefix"} | GREEDY


def _texts(tokenizer: Any, call: Call) -> Mapping[str, Any]:
    named = call.keywords
    texts: tuple[list[str], ...] = ([call.arguments[0]] if call.arguments else [],)
    if second := named.get("choices") or named.get("candidate_labels"):
        texts = ([call.arguments[0]] * len(second), second)
    elif "question" in named:
        texts = ([named["question"]], [named["context"]])
    elif "text_pair" in named:
        texts = ([named["text"]], [named["text_pair"]])
    elif call.arguments and isinstance(call.arguments[0], Mapping):
        texts = tuple([text] for text in call.arguments[0].values())
    made: Mapping[str, Any] = tokenizer(*texts, truncation=True, padding=True, return_tensors="np")
    return made
