"""Kills a command before each step that changes a file, as a command of its own.

    python -m tests.killed COMMAND PATH [EVERY]

runs `COMMAND` (a key of `COMMANDS`) on PATH, a folder or a graph, and kills it before the first, second, ... step.
Before each try the files beside PATH are as they were, except for what killed processes left. Prints a JSON object: the
number of steps, and what was wrong after a kill. Libraries are imported once; each try is a fork.
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


def number_of_steps(command: Callable[[Path], Any], path: Path) -> int:
    """How many steps a whole run has; afterwards the run is done."""
    read, write = os.pipe()

    def work() -> None:
        counted(path.parent, lambda _: os.write(write, b".") and None)
        command(path)

    code = forked(work)
    os.close(write)
    steps = 0
    while block := os.read(read, 65536):
        steps += len(block)
    assert code == 0, f"the command ended with {code}"
    return steps


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
    kept = parent.parent / "kept"
    shutil.copytree(parent, kept)

    def restore() -> None:
        for entry in parent.iterdir():
            if not entry.name.startswith("."):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        shutil.copytree(kept, parent, dirs_exist_ok=True)

    steps = number_of_steps(command, path)
    done = sorted(entry.name for entry in parent.iterdir())
    problems = []
    for step in range(1, steps + 1, every):
        restore()

        def work(last: int = step) -> None:
            counted(parent, lambda now: os.kill(os.getpid(), signal.SIGKILL) if now == last else None)
            command(path)

        code = forked(work)
        if code != -signal.SIGKILL:
            problems.append(f"step {step}: ended with {code}")
        elif (problem := problem_after(path)) is not None:
            problems.append(f"step {step}: {problem}")
    restore()
    code = forked(lambda: command(path) and None)
    left = sorted(entry.name for entry in parent.iterdir())
    if code or left != done or problem_after(path):
        problems.append(f"the next run: ended with {code}, {problem_after(path)}, {left} instead of {done}")
    return {"steps": steps, "problems": problems}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)))
