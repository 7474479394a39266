"""Where graphs run: the execution provider of ONNX Runtime, and the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from onnxport.errors import FolderError, UsageError, did_you_mean
from onnxport.system.threads import usable_processors

# Name -> ONNX Runtime's name, and options under which the numbers are those that were verified: without `use_tf32=0`,
# CUDA multiplies float32 with 10 bits of mantissa (4e-4 to 1.5e-3 relative instead of 6e-7).
_PROVIDERS: dict[str, tuple[str, dict[str, str]]] = {
    "CPU": ("CPUExecutionProvider", {}),
    "CUDA": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    "CoreML": ("CoreMLExecutionProvider", {}),
    "DirectML": ("DmlExecutionProvider", {}),
    "OpenVINO": ("OpenVINOExecutionProvider", {}),
    "WebGPU": ("WebGpuExecutionProvider", {}),
}
PROVIDERS = tuple(_PROVIDERS)
_CPU = "CPU"


@dataclass(frozen=True)
class Execution:
    """How a graph is run.

    Attributes:
        provider: a name in `PROVIDERS`, in any case.
        threads: threads of one operator; None: as many as the process may use processors.
    """

    provider: str = _CPU
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads is {self.threads}, it must be at least 1.", hint="threads=2")
        known = {name.lower(): name for name in PROVIDERS}
        name = known.get(str(self.provider).lower())
        if name is None:
            raise UsageError(
                f"There is no provider {self.provider!r}.",
                hint=did_you_mean(str(self.provider), PROVIDERS) or f"There are {', '.join(PROVIDERS)}.",
            )
        object.__setattr__(self, "provider", name)


_DEFAULT = Execution()
_chosen: ContextVar[Execution] = ContextVar("execution", default=_DEFAULT)


@contextmanager
def running_on(provider: str | None = None, threads: int | None = None) -> Iterator[None]:
    """Sessions that are opened in the block run like this, unless they are told otherwise.

    Example:
        with running_on(threads=2):
            pipeline = open_pipeline("out/my-model")

    Args:
        provider: a name in `PROVIDERS`; None leaves it as it is outside of the block.
        threads: threads of one operator; None likewise.

    Raises:
        UsageError: an unknown provider, or no thread.
    """
    outer = _chosen.get()
    changes: dict[str, Any] = {"provider": provider, "threads": threads}
    token = _chosen.set(replace(outer, **{name: value for name, value in changes.items() if value is not None}))
    try:
        yield
    finally:
        _chosen.reset(token)


def execution(provider: str | None = None, threads: int | None = None) -> Execution:
    """The arguments of a session, completed by those of the block around it; raises as `running_on`."""
    with running_on(provider, threads):
        return _chosen.get()


def open_session(graph: str | bytes, options: Any, how: Execution) -> Any:
    """The onnxruntime.InferenceSession of a graph.

    Args:
        graph: its path, or the graph itself.
        options: onnxruntime.SessionOptions; threads are set here.

    Raises:
        UsageError: the installed onnxruntime does not have the provider; the message lists those it has.
        FolderError: the provider does not start on this machine.
        Exception: what ONNX Runtime raises on a graph that it cannot load.
    """
    import onnxruntime

    threads = how.threads or usable_processors()
    if threads is not None:
        options.intra_op_num_threads = threads
    name, settings = _PROVIDERS[how.provider]
    has = onnxruntime.get_available_providers()
    if name not in has:
        known = [short for short, (long, _) in _PROVIDERS.items() if long in has]
        raise UsageError(
            f"The installed onnxruntime {onnxruntime.__version__} has no provider {how.provider}; "
            f"it has {', '.join(known)}.",
            hint=f"Install a build of onnxruntime with {how.provider}, or use --provider {known[0]}.",
        )
    if how.provider == _CPU:
        return onnxruntime.InferenceSession(graph, sess_options=options, providers=[name])
    if how.provider == "DirectML":  # it supports neither
        options.enable_mem_pattern = False
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    session = onnxruntime.InferenceSession(
        graph, sess_options=options, providers=[(name, settings), _PROVIDERS[_CPU][0]]
    )
    if name not in session.get_providers():  # ONNX Runtime goes on without a provider that does not start
        raise FolderError(
            f"The provider {how.provider} does not start on this machine.",
            hint="Install the libraries and drivers that it needs, or use --provider CPU.",
        )
    return session
