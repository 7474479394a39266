"""What holds sessions, and can be closed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from onnxport.runtime.session import OnnxSession


class Closing:
    """`close`, or the end of a `with` block, frees the graphs; a later call is a UsageError."""

    @property
    def sessions(self) -> Sequence[OnnxSession]:
        """The loaded graphs."""
        raise NotImplementedError

    def close(self) -> None:
        """Free the graphs and their weights."""
        for session in self.sessions:
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
