"""`onnxport serve` as a process of its own, for tests.

with Server(folder, "--queue", "8") as server:
    status, document = server.post("/predict", {"inputs": "A text."})
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


class Server:
    """Starts when the block begins, and ends with it; `port` is free before."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._command = [sys.executable, "-m", "onnxport", "serve", str(folder), "--port", str(self.port), *options]

    def __enter__(self) -> Server:
        paths = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if f":{self.port}" not in line:
            raise AssertionError(f"{line}{self.process.communicate(timeout=30)[1]}")
        while self.get("/health")[0] != 200:  # its workers are ready, and it begins to listen
            pass
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it; the exit code, and what it wrote on stderr."""
        self.process.send_signal(number)
        error = self.process.communicate(timeout=60)[1]
        return self.process.returncode, error

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, str]:
        try:
            status, body, _ = self.request("GET", path)
        except ConnectionRefusedError:
            return 0, ""
        return status, body.decode()

    def post(self, path: str, document: Any) -> tuple[int, Any]:
        status, body, _ = self.request("POST", path, json.dumps(document).encode())
        return status, json.loads(body)

    def events(self, path: str, document: Any) -> list[Any]:
        """The documents of a stream; the last event is [DONE]."""
        status, body, headers = self.request("POST", path, json.dumps(document).encode())
        assert status == 200 and headers["content-type"].startswith("text/event-stream")
        lines = [line for line in body.decode().split("\n\n") if line]
        assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
        return [json.loads(line[6:]) for line in lines[:-1]]
