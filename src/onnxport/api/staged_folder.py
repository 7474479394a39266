"""The step "Run the folder": the staged folder as its user runs it, before it is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.artifact.folder import write_draft
from onnxport.artifact.manifest import FolderRun, Manifest
from onnxport.errors import VerificationError
from onnxport.system.timing import Stopwatch

if TYPE_CHECKING:
    from onnxport.api.capture import CapturedGraph
    from onnxport.user_runs.record import SourceAnswers

_CASES = 2  # of each graph, where the user has arrays; verification has run all of them


def run_staged(
    root: Path, manifest: Manifest, digests: Mapping[str, str], source: SourceAnswers,
    graphs: Sequence[CapturedGraph], watch: Stopwatch, *, allow_mismatch: bool,
) -> Manifest:  # fmt: skip
    """Run the staged folder `root`, and compare its results and its files with the source.

    Args:
        digests: sha256 of the files that are complete, by path.

    Returns:
        The manifest with the result.

    Raises:
        VerificationError: they differ; names the input, both results, and what else differs.
    """
    from onnxport.user_runs.check import Recorded, run_folder

    write_draft(root, manifest, digests)
    with watch.step("run folder", "Run the folder") as step:
        recorded = [
            Recorded(captured.name, case.name, case.inputs, case.outputs)
            for captured in graphs
            for case in captured.evidence.cases[:_CASES]
        ]
        found = run_folder(root, source, recorded)
        step.done(_summary(found))
    if not found.equal and not allow_mismatch:
        more = f" {len(found.differences) - 1} more differences." if len(found.differences) > 1 else ""
        error = VerificationError(
            f"The folder does not give what the source pipeline gives. {found.differences[0]}.{more}",
            hint="Were files of the checkpoint changed meanwhile? Run the command again; --allow-mismatch "
            "(allow_mismatch=True) publishes the folder as it is.",
        )
        error.manifest = replace(manifest, folder_run=found)
        raise error
    return replace(manifest, folder_run=found)


def _summary(found: FolderRun) -> str:
    count = f"{found.inputs} inputs, " if found.inputs else ""
    result = "same results as the source pipeline" if found.equal else "DIFFERS from the source pipeline"
    own = len(found.run_time_differences)
    return f"{count}{result}" + (f" ({own} with the pipeline of transformers alone)" if own else "")
