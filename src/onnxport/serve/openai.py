"""The OpenAI-compatible API: requests become jobs, and replies become responses.

Source: https://platform.openai.com/docs/api-reference (embeddings, completions, chat).
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxport.errors import UsageError
from onnxport.serve.jobs import Job, Piece

_NEW_TOKENS = 256  # where the request names no number
# Their settings that change an answer and have no counterpart here, with the value that changes nothing.
_UNSUPPORTED: dict[str, Any] = {
    "n": 1, "best_of": 1, "logprobs": None, "top_logprobs": None, "logit_bias": None, "frequency_penalty": 0,
    "presence_penalty": 0, "suffix": None, "echo": False, "tools": None, "functions": None, "response_format": None,
}  # fmt: skip


@dataclass(frozen=True)
class TextRequest:
    """A request for texts.

    Attributes:
        jobs: for workers, one for each prompt.
        chat: of the chat endpoint.
        stream: piece by piece.
        usage: a last event with the number of tokens is wanted.
    """

    jobs: tuple[Job, ...]
    chat: bool
    stream: bool
    usage: bool


def read_embeddings(body: Mapping[str, Any]) -> tuple[Job, str]:
    """The job of an embeddings request, and the encoding of the vectors, "float" or "base64".

    Raises:
        UsageError: no texts, or a setting that cannot be kept.
    """
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
        raise UsageError("input is no text and no list of texts.", hint='{"input": "A sentence."}')
    if body.get("dimensions") is not None:
        raise UsageError("dimensions cannot be chosen.", hint="Leave dimensions out.")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise UsageError(f"encoding_format is {encoding!r}.", hint="Use float or base64.")
    named = {name: body[name] for name in ("prompt_name", "normalize_embeddings") if name in body}
    return Job("embed", texts, named), encoding


def embeddings(model: str, vectors: np.ndarray, encoding: str) -> dict[str, Any]:
    """The response with an embedding for each text, (texts, width)."""
    data = [
        {
            "object": "embedding",
            "index": number,
            "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
            if encoding == "base64"
            else vector.tolist(),
        }
        for number, vector in enumerate(np.asarray(vectors, np.float32))
    ]
    return {"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": 0, "total_tokens": 0}}


def read_text_request(body: Mapping[str, Any], *, chat: bool) -> TextRequest:
    """A request of `/v1/chat/completions` or `/v1/completions`.

    Raises:
        UsageError: no prompt, or a setting that cannot be kept.
    """
    for name, neutral in _UNSUPPORTED.items():
        if body.get(name) not in (None, neutral, [], {"type": "text"}):
            raise UsageError(f"{name}={body[name]!r} is not supported.", hint=f"Leave {name} out.")
    prompt = body.get("messages" if chat else "prompt")
    if chat:
        if not isinstance(prompt, list) or not prompt or not all(isinstance(one, Mapping) for one in prompt):
            raise UsageError("messages is no list of messages.", hint='[{"role": "user", "content": "Hello."}]')
        prompt = [_message(one) for one in prompt]
    prompts = prompt if isinstance(prompt, list) and not chat else [prompt]
    if not prompts or (not chat and not all(isinstance(one, str) and one for one in prompts)):
        raise UsageError("prompt is no text and no list of texts.", hint='{"prompt": "Once upon a time"}')
    options = body.get("stream_options") or {}
    settings = _settings(body)
    jobs = tuple(Job("write", one, settings) for one in prompts)
    usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
    return TextRequest(jobs, chat, bool(body.get("stream")), usage)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as chat templates take it: parts that are texts alone are one text."""
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(one, Mapping) and one.get("type") == "text" for one in content):
        content = "".join(str(one.get("text", "")) for one in content)
    if not isinstance(message.get("role"), str) or not isinstance(content, (str, list)):
        raise UsageError("A message needs a role and a content.", hint='{"role": "user", "content": "Hello."}')
    return {**message, "content": content}


def _settings(body: Mapping[str, Any]) -> dict[str, Any]:
    """Generation settings. Sampling is off unless a temperature above 0 or `top_p` asks for it, as in the folder."""
    longest = body.get("max_completion_tokens", body.get("max_tokens"))
    found: dict[str, Any] = {"max_new_tokens": _NEW_TOKENS if longest is None else longest}
    temperature = body.get("temperature")
    if temperature is not None:
        found["do_sample"] = temperature > 0 if isinstance(temperature, (int, float)) else temperature
        if found["do_sample"]:
            found["temperature"] = float(temperature)
    if body.get("top_p") is not None:
        found["top_p"] = body["top_p"]
    if body.get("seed") is not None:
        found["seed"] = body["seed"]
    stop = body.get("stop")
    if stop:
        found["stop_strings"] = [stop] if isinstance(stop, str) else stop
    for name in ("top_k", "min_p", "repetition_penalty", "num_beams"):  # as other servers take them
        if name in body:
            found[name] = body[name]
    return found


def text_response(model: str, texts: Sequence[Sequence[Piece]], *, chat: bool) -> dict[str, Any]:
    """The response with whole texts, one for each prompt."""
    choices = []
    for index, pieces in enumerate(texts):
        text = "".join(piece.text for piece in pieces)
        content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choices.append({"index": index, **content, "logprobs": None, "finish_reason": pieces[-1].finish})
    kind = "chat.completion" if chat else "text_completion"
    return {**_head(model, kind, _new_id(chat)), "choices": choices, "usage": _usage([one[-1] for one in texts])}


class TextEvents:
    """Pieces of a text as chunks of a stream.

    Args:
        model: its name.
        request: what was asked for.
    """

    def __init__(self, model: str, request: TextRequest) -> None:
        kind = "chat.completion.chunk" if request.chat else "text_completion"
        self._head = _head(model, kind, _new_id(request.chat))
        self._request = request
        self._ends: list[Piece] = []

    def first(self) -> Iterator[dict[str, Any]]:
        """What comes before the text."""
        if self._request.chat:
            yield self._chunk({"delta": {"role": "assistant", "content": ""}}, 0, None)

    def of(self, piece: Piece, index: int) -> Iterator[dict[str, Any]]:
        """The chunks for a piece of the text for a prompt."""
        chat = self._request.chat
        if piece.text:
            yield self._chunk({"delta": {"content": piece.text}} if chat else {"text": piece.text}, index, None)
        if piece.finish:
            yield self._chunk({"delta": {}} if chat else {"text": ""}, index, piece.finish)
            self._ends.append(piece)

    def last(self) -> Iterator[dict[str, Any]]:
        """What comes after the texts."""
        if self._request.usage:
            yield {**self._head, "choices": [], "usage": _usage(self._ends)}

    def _chunk(self, content: dict[str, Any], index: int, finish: str | None) -> dict[str, Any]:
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish}
        return {**self._head, "choices": [choice]}


def _head(model: str, kind: str, own_id: str) -> dict[str, Any]:
    return {"id": own_id, "object": kind, "created": int(time.time()), "model": model}


def _new_id(chat: bool) -> str:
    return f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"


def _usage(ends: Sequence[Piece]) -> dict[str, int]:
    """The numbers of tokens of texts, from their last pieces."""
    prompt, new = sum(piece.prompt_tokens for piece in ends), sum(piece.new_tokens for piece in ends)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
