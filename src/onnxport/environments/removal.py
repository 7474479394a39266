"""Deleting an environment."""

from __future__ import annotations

import os
import shutil

from onnxport.artifact.destination import write_errors
from onnxport.environments.creation import require_own
from onnxport.environments.definition import Definition
from onnxport.environments.locks import changing
from onnxport.environments.places import folder_of
from onnxport.environments.state import Status, status_of, unmark
from onnxport.errors import UsageError
from onnxport.progress import Reporter, Silent


def remove(definition: Definition, reporter: Reporter | None = None) -> Status:
    """Delete the environment. Interrupted, it leaves an incomplete one, which can be removed or completed.

    Returns:
        What was there.

    Raises:
        UsageError: there is none.
        ManagedEnvironmentError: a process uses it.
        OutputError: its folder is a link, or cannot be written.
    """
    reporter = reporter or Silent()
    folder = folder_of(definition.name)
    if not os.path.lexists(folder):
        raise UsageError(
            f"There is no environment {definition.name} at {folder}. Nothing was removed.", hint="onnxport env list"
        )
    require_own(folder)
    with write_errors(folder), changing(definition.name):
        status = status_of(definition)
        with reporter.step("Remove environment") as step:
            unmark(folder)
            shutil.rmtree(folder)
            step.done(f"{status.size_bytes / 1e6:.0f} MB")
    return status
