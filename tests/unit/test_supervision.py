"""What the parent process of a command tells, whatever ended the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onnxport.system.time_limit import time_limit

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fork")


def outcome(body: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`onnxport convert` whose command is the Python code `body`."""
    code = (
        "import os, signal, sys, time\n"
        "import onnxport.__main__ as program\n"
        "from onnxport.system.time_limit import time_limit\n"
        f"def main():\n    {body}\n"
        "program.main = main\nsys.argv = ['onnxport', 'convert', 'x']\nsys.exit(program.program())\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **variables})


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_the_exit_code_of_a_command_that_ends_as_it_should(code: int) -> None:
    done = outcome(f"print('data'); return {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "data\n", "")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("os._exit(0)", "ended with exit code 0"),
        ("os._exit(7)", "ended with exit code 7"),
        ("os.abort()", "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "memory runs out"),
    ],
)
def test_a_process_that_ends_otherwise_is_exit_2(body: str, words: str) -> None:
    done = outcome(body)
    assert done.returncode == 2
    assert words in done.stderr and done.stderr.startswith("error: ")


def test_a_call_that_does_not_end_is_ended() -> None:
    done = outcome("exec('with time_limit(\"load it\"): time.sleep(60)')", ONNXPORT_TIME_LIMIT="0.3")
    assert done.returncode == 2
    assert "load it" in done.stderr


def test_there_is_no_limit_in_the_process_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXPORT_TIME_LIMIT", "0.000001")
    with time_limit("nothing"):
        assert sum(range(1000)) == 499500


def test_a_signal_for_the_parent_reaches_the_command(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import signal, sys, time\nfrom pathlib import Path\n"
        "from onnxport.system.supervision import supervised\n"
        "def command():\n"
        "    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        f"    Path({str(ready)!r}).touch()\n"
        "    try:\n        time.sleep(60)\n    except SystemExit:\n        return 9\n"
        "sys.exit(supervised(command, lambda words: 3))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not ready.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 9
