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
        job: for the worker.
        chat: of the chat endpoint.
        stream: piece by piece.
        usage: a last event with the number of tokens is wanted.
    """

    job: Job
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
    elif isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if not prompt or not isinstance(prompt, (str, list)) or (not chat and not isinstance(prompt, str)):
        raise UsageError("prompt is no text.", hint='{"prompt": "Once upon a time"}; one request for each prompt.')
    options = body.get("stream_options") or {}
    job = Job("write", prompt, _settings(body))
    usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
    return TextRequest(job, chat, bool(body.get("stream")), usage)


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


def text_response(model: str, pieces: Sequence[Piece], *, chat: bool) -> dict[str, Any]:
    """The response with the whole text."""
    text, last = "".join(piece.text for piece in pieces), pieces[-1]
    content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    choice = {"index": 0, **content, "logprobs": None, "finish_reason": last.finish}
    kind = "chat.completion" if chat else "text_completion"
    return {**_head(model, kind, _new_id(chat)), "choices": [choice], "usage": _usage(last)}


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

    def first(self) -> Iterator[dict[str, Any]]:
        """What comes before the text."""
        if self._request.chat:
            yield self._chunk({"delta": {"role": "assistant", "content": ""}}, None)

    def of(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """The chunks for a piece."""
        if piece.text:
            yield self._chunk({"delta": {"content": piece.text}} if self._request.chat else {"text": piece.text}, None)
        if piece.finish:
            yield self._chunk({"delta": {}} if self._request.chat else {"text": ""}, piece.finish)
            if self._request.usage:
                yield {**self._head, "choices": [], "usage": _usage(piece)}

    def _chunk(self, content: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
        return {**self._head, "choices": [choice]}


def _head(model: str, kind: str, own_id: str) -> dict[str, Any]:
    return {"id": own_id, "object": kind, "created": int(time.time()), "model": model}


def _new_id(chat: bool) -> str:
    return f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"


def _usage(piece: Piece) -> dict[str, int]:
    total = piece.prompt_tokens + piece.new_tokens
    return {"prompt_tokens": piece.prompt_tokens, "completion_tokens": piece.new_tokens, "total_tokens": total}
