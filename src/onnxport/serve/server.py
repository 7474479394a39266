"""Start the server, and stop it when asked to."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from onnxport.artifact.folder import open_folder
from onnxport.errors import FolderError, MissingDependencyError, UsageError
from onnxport.serve.jobs import ServeSettings
from onnxport.system.requirements import is_installed
from onnxport.tasks import MODULE, find_task

_HOSTS = ("127.0.0.1", "0.0.0.0", "::")
_LOWEST_PORT = 1024


def serve(settings: ServeSettings, started: Callable[[str], None] | None = None) -> None:
    """Serve a folder until the process gets SIGINT or SIGTERM; requests that are running are answered first.

    Args:
        settings: what, where and with which limits.
        started: called with the address when workers are ready.

    Raises:
        MissingDependencyError: LitServe is not installed.
        UsageError: a setting out of range, or the port is taken.
        FolderError: no such folder or graph, or a worker cannot load it.
    """
    _require_installed()
    folder = open_folder(settings.folder)
    name = settings.task or folder.manifest.task
    task = MODULE if name == MODULE.name else find_task("translation" if name.startswith("translation_") else name)
    _check(settings)
    ending = settings.component.removeprefix("model")  # models of several graphs have none of that name
    if not any(one.endswith(ending) for one in folder.names):
        folder.component(settings.component)
    from litserve import LitServer

    from onnxport.serve.endpoints import Endpoints, ModelAPI, page
    from onnxport.serve.limits import Limits

    streams = task.kind == "decoder"
    endpoints = Endpoints(folder, settings, task.name, streams=streams)
    server = LitServer(
        ModelAPI(settings, endpoints, streams=streams),
        accelerator="cpu",  # LitServe moves nothing; the provider is the session's
        devices=1,
        workers_per_device=settings.workers,
        timeout=settings.timeout,
        middlewares=[(Limits, {"settings": settings})],
        disable_openapi_url=True,
        restart_workers=True,
    )
    routes = server.app.router.routes
    routes[:] = [route for route in routes if getattr(route, "path", None) != "/"]
    server.app.add_api_route("/", page, methods=["GET"])
    server.uvicorn_graceful_timeout = int(settings.timeout) + 1
    address = f"http://{'[::1]' if settings.host == '::' else settings.host}:{settings.port}"
    ready = server.verify_worker_status

    def verify() -> None:
        ready()
        if started is not None:
            started(address)

    server.verify_worker_status = verify
    try:
        with _interrupts(), contextlib.suppress(KeyboardInterrupt):
            server.run(
                host=settings.host, port=settings.port, num_api_servers=1, generate_client_file=False,
                log_level="warning", access_log=False, timeout_keep_alive=30, server_header=False,
            )  # fmt: skip
    except RuntimeError as error:
        from onnxport.serve.worker import Worker

        Worker(settings)  # raises what the worker raised
        raise FolderError(
            f"No worker could load {settings.folder}.", hint=f"onnxport run {settings.folder} INPUT shows why."
        ) from error
    finally:  # where it ended before it had begun to listen
        for child in multiprocessing.active_children():
            child.terminate()


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt in this process, and in none that it forks.

    uvicorn, in a process of its own, answers what is running, and then sends itself the signal once more.
    """
    own = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() == own:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _require_installed() -> None:
    missing = [name for name in ("litserve", "prometheus_client") if not is_installed(name)]
    if missing:
        raise MissingDependencyError(
            f"Serving needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            hint='pip install "onnxport[serve]"',
        )


def _check(settings: ServeSettings) -> None:
    """Raises UsageError: an address, a port or a limit that cannot be used."""
    if settings.host not in _HOSTS:
        raise UsageError(f"--host {settings.host} cannot be used.", hint=f"Use {', '.join(_HOSTS)}.")
    if not _LOWEST_PORT <= settings.port < 2**16:
        raise UsageError(f"--port {settings.port} cannot be used.", hint=f"Use {_LOWEST_PORT} to {2**16 - 1}.")
    if min(settings.workers, settings.max_batch, settings.queue, settings.max_body) < 1 or settings.timeout <= 0:
        raise UsageError("A limit is below 1.", hint="Give positive numbers.")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise UsageError(
                f"Port {settings.port} of {settings.host} cannot be used: {error.strerror}.",
                hint=f"--port {settings.port + 1}",
            ) from error
