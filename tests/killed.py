"""Kills a command before each step that changes a file, as a command of its own.

    python -m tests.killed COMMAND PATH [EVERY]

runs `COMMAND` (a key of `COMMANDS`) on PATH, a folder or a graph, and kills it before its first step; runs it again and
kills it before the second; and so on, until a run ends by itself. Prints a JSON object: the number of steps, what was
wrong after a kill, and what is there in the end. Libraries are imported once; each run is a fork.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxport
from onnxport.artifact.folder import read_folder
from onnxport.artifact.hashes import check_files
from onnxport.errors import OnnxPortError
from onnxport.publishing import atomic_rename

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_MOST = 1000  # steps
_CHANGES = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate"}


def _target(name: str) -> Callable[[Path], Any]:
    from onnxport.targets import find_target

    write = find_target(name)
    return lambda path: write(path, **({"output": path.parent / "js"} if name == "transformers.js" else {}))


COMMANDS: dict[str, Callable[[Path], Any]] = {
    "quantize int8": lambda path: onnxport.quantize(path),
    "quantize int4": lambda path: onnxport.quantize(path, "int4"),
    "optimize": lambda path: onnxport.optimize(path),
    "optimize --for cpu": lambda path: onnxport.optimize(path, for_="cpu"),
    "optimize --sizes": lambda path: onnxport.optimize(
        path, sizes={"batch_size": 1, "sequence_length": 1, "past_sequence_length": 32}
    ),
    "target genai": lambda path: _target("genai")(path),
    "target transformers.js": lambda path: _target("transformers.js")(path),
}


def counted(root: Path, at_step: Callable[[int], None]) -> None:
    """Call `at_step` with 1, 2, ... before each change of a file below `root` in this process."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        at_step(steps)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if writes or event in _CHANGES:
            named = arguments[0]
            # shutil.rmtree names files by the descriptor of their folder.
            ours = isinstance(named, (str, bytes, Path)) and (
                not (path := Path(os.fsdecode(named))).is_absolute() or path.is_relative_to(root)
            )
            if ours:
                step()

    rename = atomic_rename._renameat2

    def renaming(source: Path, target: Path, flags: int) -> bool:
        step()
        return rename(source, target, flags)

    atomic_rename._renameat2 = renaming
    sys.addaudithook(hook)


def forked(work: Callable[[], None]) -> int:
    """Do `work` in a child; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except OnnxPortError as error:
            print(error, file=sys.stderr)
            os._exit(2)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def problem_after(path: Path) -> str | None:
    """What is wrong with the folders and graphs that are in place; None if all are whole."""
    try:
        for folder in (entry for entry in path.parent.iterdir() if (entry / "onnxport.json").is_file()):
            if not folder.name.startswith("."):
                check_files(folder, read_folder(folder))
        for graph in path.parent.glob("*.onnx"):
            import onnxruntime

            onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(name: str, path: Path, every: int) -> dict[str, Any]:
    command, parent = COMMANDS[name], path.parent
    problems, step, code = [], 1, -signal.SIGKILL
    while code == -signal.SIGKILL and step < _MOST:
        shutil.rmtree(parent / "js", ignore_errors=True)  # which a target does not replace

        def work(last: int = step) -> None:
            counted(parent, lambda now: os.kill(os.getpid(), signal.SIGKILL) if now == last else None)
            command(path)

        code = forked(work)
        if (problem := problem_after(path)) is not None:
            problems.append(f"step {step}: {problem}")
        step += every
    hidden = [entry.name for entry in parent.iterdir() if entry.name.startswith(".")]
    if code or hidden:
        problems.append(f"the last run ended with {code} and left {hidden}")
    return {"steps": step, "problems": problems, "left": sorted(entry.name for entry in parent.iterdir())}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)))
