"""`onnxport bench`: latency, start-up time and memory of a folder's graphs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from onnxport.cli import options
from onnxport.cli.options import Json, MemoryLimit, Quiet, Verbose
from onnxport.cli.shell import shell_of
from onnxport.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from onnxport.api.bench import Benchmark, GraphBenchmark


def bench(
    context: typer.Context,
    folder: options.Folder,
    batch: options.Batches = "1,8",
    length: options.Lengths = None,
    threads: options.Threads = None,
    provider: options.Provider = None,
    against: options.Against = None,
    seconds: options.Seconds = 1.0,
    chart: options.ChartFile = None,
    memory_limit: MemoryLimit = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure the graphs of a folder on this machine.

    Every graph and its variants run in processes of their own, in random order, with the same inputs.
    """
    from onnxport.api.bench import bench as run_bench

    shell = shell_of(context, json=json, quiet=quiet, verbose=verbose, memory_limit=memory_limit)
    batches, lengths = _numbers(batch, "--batch"), None if length is None else _numbers(length, "--length")
    with shell.working() as reporter:
        found = run_bench(
            folder, batches=batches, lengths=lengths, threads=threads, provider=provider, against=against,
            seconds=seconds, reporter=reporter,
        )  # fmt: skip
    if chart is not None:
        chart.write_text(_chart(found), encoding="utf-8")
    if shell.json:
        shell.write_json(asdict(found))
    else:
        shell.write_table(*(table for graph in found.graphs for table in _tables(graph)))


def _numbers(text: str, option: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and int(word) for word in words):
        raise UsageError(f"{option} {text!r} is no list of sizes.", hint=f"{option} 1,8")
    return [int(word) for word in words]


def _chart(found: Benchmark) -> str:
    from onnxport.bench.chart import latency_chart

    timings = [timing for graph in found.graphs for timing in graph.timings]
    threads = "" if found.threads is None else f", {found.threads} thread{'s' if found.threads > 1 else ''}"
    return latency_chart(timings, f"{found.path.name} on {found.machine['processor']}{threads}")


def _tables(graph: GraphBenchmark) -> list[Table]:
    from rich.table import Table

    from onnxport.cli.tables import bytes_text

    starts = Table(title=f"{graph.component}: start", title_justify="left", box=None, pad_edge=False, padding=(0, 2))
    for column in ("arm", "size", "to the first result", "memory"):
        starts.add_column(column, justify="left" if column == "arm" else "right")
    for arm, opened in graph.starts.items():
        size = bytes_text(graph.sizes[arm]) if graph.sizes[arm] else ""
        starts.add_row(arm, size, f"{opened.seconds:.2f} s", bytes_text(opened.memory_bytes))
    times = Table(title=f"{graph.component}: times", title_justify="left", box=None, pad_edge=False, padding=(0, 2))
    for column in ("call", "arm", "p50 ms", "p90", "p99", "rows/s", "of the first"):
        times.add_column(column, justify="left" if column in {"call", "arm"} else "right")
    before = None
    for t in graph.timings:
        call = f"{t.label} {t.batch} x {t.length}".strip() if t.length else f"batch {t.batch}"
        times.add_row(
            call if call != before else "", t.arm, f"{t.p50 * 1e3:.2f}", f"{t.p90 * 1e3:.2f}", f"{t.p99 * 1e3:.2f}",
            f"{t.rows_per_second:.1f}", f"{t.of_first:.2f}",
        )  # fmt: skip
        before = call
    return [starts, times]
