"""Managed environments: frameworks that cannot live beside the ones that onnxport is installed with.

Hugging Face's TensorFlow models need transformers 4, PyTorch's are exported by transformers 5. So the former get a
virtual environment of their own, with pinned packages, in the user's data folder. It is made only when a user asks
for it (`onnxport env create NAME`). The code that runs in it is this very onnxport (`bridge`), called through pipes
(`call`, `worker`) in such a way that steps, results and errors are those of a call in this process.

Nothing here imports a framework, or pip.
"""

from __future__ import annotations

from onnxport.environments.call import call_in
from onnxport.environments.creation import create, remove
from onnxport.environments.definition import ENVIRONMENTS, Definition, find_definition
from onnxport.environments.state import State, Status, require, status_of, statuses

__all__ = [
    "ENVIRONMENTS",
    "Definition",
    "State",
    "Status",
    "call_in",
    "create",
    "find_definition",
    "remove",
    "require",
    "status_of",
    "statuses",
]
