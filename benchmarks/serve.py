"""A load test of `onnxport serve`: is an answer lost or wrong, does memory grow, and how long do answers take?

    .venv/bin/python benchmarks/serve.py FOLDER                          # 10,000 requests from 64 clients
    .venv/bin/python benchmarks/serve.py FOLDER --requests 2000 --clients 16 --options "--workers 2 --max-batch 32"

The folder is one of text-classification or of sentence embeddings. Each client keeps one connection and sends its next
request when the last one is answered. Texts have 1 to 24 words. Every answer is compared with what the pipeline gives
for the text alone: a difference above 1e-4 is wrong. Answers 429 (the queue is full) are repeated and counted; any
other status is a loss. Memory is the resident memory of all processes of the server, every tenth of the way.

Prints a table; writes benchmarks/results/serve.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import platform
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import onnxruntime

from onnxport import pipeline
from tests.serving import Server

RESULTS = Path(__file__).parent / "results" / "serve.json"
WORDS = "the river of stone and a garden by water in Paris where seven people read books about light".split()
TOLERANCE = 1e-4
TEXTS = 200  # different ones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--options", default="", help="options of `onnxport serve`, as one string")
    arguments = parser.parse_args()
    random.seed(1)
    texts = [" ".join(random.choices(WORDS, k=random.randint(1, 24))) for _ in range(TEXTS)]
    path, make, read = _protocol(arguments.folder)
    wanted = _wanted(arguments.folder, texts, path)
    begun = time.perf_counter()
    with Server(arguments.folder, *arguments.options.split()) as server:
        start = time.perf_counter() - begun
        load = Load(server, path, [make(text) for text in texts], read, wanted)
        load.run(arguments.requests, arguments.clients)
        code, error = server.stop()
    found = {
        "folder": arguments.folder.name, "requests": arguments.requests, "clients": arguments.clients,
        "options": arguments.options, "seconds_to_start": round(start, 2), **load.summary(), "exit_code": code,
        "stderr": error[-500:], "processor": platform.processor() or platform.machine(),
        "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    for name, value in found.items():
        print(f"{name:20} {value}")
    if found["lost"] or found["wrong"] or code:
        raise SystemExit(1)


def _protocol(folder: Path) -> tuple[str, Any, Any]:
    """The path, and functions that make a request of a text and numbers of an answer."""
    task = json.loads((folder / "onnxport.json").read_text())["task"]
    if task == "feature-extraction":
        return "/v1/embeddings", lambda text: {"input": text}, lambda answer: answer["data"][0]["embedding"]
    settings = {"top_k": None, "truncation": True}
    return (
        "/predict",
        lambda text: {"inputs": text, "parameters": settings},
        lambda answer: [one["score"] for one in sorted(answer, key=lambda one: one["label"])],
    )


def _wanted(folder: Path, texts: list[str], path: str) -> np.ndarray:
    with pipeline(model=str(folder)) as run:
        if path == "/v1/embeddings":
            return np.stack([run.encode(text) for text in texts])
        answers = [sorted(run(text, top_k=None, truncation=True), key=lambda one: one["label"]) for text in texts]
    return np.array([[one["score"] for one in answer] for answer in answers])


class Load:
    """Clients that send requests, and what came of them."""

    def __init__(self, server: Server, path: str, bodies: list[Any], read: Any, wanted: np.ndarray) -> None:
        self._server, self._path, self._read, self._wanted = server, path, read, wanted
        self._bodies = [json.dumps(body).encode() for body in bodies]
        self._lock = threading.Lock()
        self.seconds: list[float] = []
        self.lost: list[str] = []
        self.worst, self.wrong, self.full = 0.0, 0, 0
        self.memory: list[int] = []

    def run(self, requests: int, clients: int) -> None:
        """Send them all."""
        self._left = iter(range(requests))
        self._every = max(1, requests // 10)
        for _ in range(3):  # libraries allocate their buffers
            self._one(http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=120), 0)
        self.seconds.clear()
        begun = time.perf_counter()
        threads = [threading.Thread(target=self._client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.elapsed = time.perf_counter() - begun

    def _client(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=120)
        while True:
            with self._lock:
                number = next(self._left, None)
                if number is not None and number % self._every == 0:
                    self.memory.append(_resident(self._server.process.pid))
            if number is None:
                connection.close()
                return
            try:
                self._one(connection, number)
            except Exception as error:
                with self._lock:
                    self.lost.append(f"{number}: {type(error).__name__}: {error}")
                connection.close()

    def _one(self, connection: http.client.HTTPConnection, number: int) -> None:
        which = number % len(self._bodies)
        begun = time.perf_counter()
        while True:
            connection.request("POST", self._path, self._bodies[which], {"Content-Type": "application/json"})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 429:
                break
            with self._lock:
                self.full += 1
            time.sleep(0.05)
        taken = time.perf_counter() - begun
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}: {body[:200]!r}")
        error = float(np.abs(np.array(self._read(json.loads(body))) - self._wanted[which]).max())
        with self._lock:
            self.seconds.append(taken)
            self.worst = max(self.worst, error)
            self.wrong += error > TOLERANCE

    def summary(self) -> dict[str, Any]:
        """Counts, times in ms and memory in MiB."""
        cuts = statistics.quantiles(self.seconds, n=100)
        return {
            "answered": len(self.seconds), "lost": len(self.lost), "first_losses": self.lost[:3], "wrong": self.wrong,
            "largest_difference": self.worst, "answers_429": self.full,
            "requests_per_second": round(len(self.seconds) / self.elapsed, 1),
            "ms_p50": round(cuts[49] * 1e3, 1), "ms_p90": round(cuts[89] * 1e3, 1), "ms_p99": round(cuts[98] * 1e3, 1),
            "resident_mib": [round(one / 2**20) for one in self.memory],
        }  # fmt: skip


def _resident(parent: int) -> int:
    """Resident memory of a process and all that it started, without what they share."""
    total, pending = 0, [parent]
    while pending:
        process = pending.pop()
        try:
            pending += [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total * 1024


if __name__ == "__main__":
    main()
