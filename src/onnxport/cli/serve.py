"""`onnxport serve`: a folder behind HTTP."""

from __future__ import annotations

import typer

from onnxport.cli import options
from onnxport.cli.shell import shell_of
from onnxport.cli.sizes import parse_size


def serve(
    context: typer.Context,
    folder: options.Folder,
    component: options.Component = "model",
    task: options.Task = None,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    workers: options.ServeWorkers = 1,
    max_batch: options.MaxBatch = 16,
    batch_delay: options.BatchDelay = 2.0,
    queue: options.Queue = 256,
    max_body: options.MaxBody = "16MiB",
    timeout: options.RequestTimeout = 60.0,
    provider: options.Provider = None,
    threads: options.Threads = None,
) -> None:
    """Serve a converted model over HTTP, with a page to try it.

    Ctrl-C or SIGTERM ends it when the requests that are running are answered.
    """
    from onnxport.serve.jobs import ServeSettings
    from onnxport.serve.server import serve as run_server

    shell = shell_of(context)
    settings = ServeSettings(
        folder=folder, component=component, task=task, provider=provider, threads=threads, workers=workers,
        max_batch=max_batch, batch_delay=batch_delay / 1000, queue=queue, max_body=parse_size(max_body, "--max-body"),
        timeout=timeout, host=host, port=port,
    )  # fmt: skip
    run_server(settings, lambda address: shell.write(f"{folder} on {address} (Ctrl-C ends it)"))
