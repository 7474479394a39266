"""What `convert` and `verify` return."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from onnxport.artifact.manifest import Manifest
from onnxport.specs import Verification


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    Attributes:
        path: the folder or the graph file.
        manifest: components, axes and the evidence of verification.
        files: everything that was written.
        timings, cpu: wall and CPU seconds of each step.
        peak_memory_bytes: highest resident memory of the process.
    """

    path: Path
    manifest: Manifest
    files: tuple[Path, ...]
    timings: dict[str, float]
    cpu: dict[str, float]
    peak_memory_bytes: int

    @property
    def passed(self) -> bool:
        """Whether every component and the folder agree with the source; False only with `allow_mismatch`."""
        if self.manifest.folder_run is not None and not self.manifest.folder_run.equal:
            return False
        checks = [component.verification for component in self.manifest.components]
        return all(check is not None and check.passed for check in checks)


@dataclass(frozen=True)
class VerifiedFolder:
    """What `verify` found.

    Attributes:
        files_checked: files whose sha256 is the manifest's (0 for a bare graph).
        verifications: per component the comparison with the source, or None when no source was given.
        ok: everything that was checked holds.
        notes: what was checked, and what could not be.
    """

    path: Path
    files_checked: int
    verifications: dict[str, Verification | None]
    ok: bool
    notes: tuple[str, ...] = field(default=())
