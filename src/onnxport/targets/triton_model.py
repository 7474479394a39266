"""Tokens of texts: `model.py` of a model of Triton's Python backend. It needs `pip install onnxport` beside the server.

Triton calls `initialize` once and `execute` with requests; source: README.md of its python_backend.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.errors import OnnxPortError
from onnxport.runtime.preprocessing.texts import EncodingSettings, TextEncoder, pad_row

_SETTINGS = EncodingSettings(truncation=True)


class TritonPythonModel:
    """Texts (rows, 1) in, token ids, masks and types (rows, tokens) out; rows are padded to the longest."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer that lies beside this file."""
        import triton_python_backend_utils  # type: ignore[import-not-found]

        self._triton = triton_python_backend_utils
        self._texts = TextEncoder(Path(args["model_repository"]) / args["model_version"])
        self._names = [output["name"] for output in json.loads(args["model_config"])["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each request; one that cannot be encoded has an error."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        given = self._triton.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
        try:
            arrays = self._encoded([one.decode("utf-8") if isinstance(one, bytes) else str(one) for one in given])
        except (OnnxPortError, UnicodeDecodeError) as error:
            return self._triton.InferenceResponse(error=self._triton.TritonError(str(error)))
        tensors = [self._triton.Tensor(name, arrays[name]) for name in self._names]
        return self._triton.InferenceResponse(output_tensors=tensors)

    def _encoded(self, texts: list[str]) -> dict[str, np.ndarray]:
        rows = [self._texts.text_row(text, settings=_SETTINGS) for text in texts]
        longest = max(len(row["input_ids"]) for row in rows)
        padded = [pad_row(row, self._texts.padding(), longest, self._texts.side) for row in rows]
        return {name: np.stack([row[name] for row in padded]) for name in self._names}
