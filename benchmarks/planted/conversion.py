"""One real conversion, continued in a fork for each fault from the place where the fault is planted.

The conversion stops at each stage; for each fault of that stage a copy of the process (fork) plants it and goes on to
the end, on a copy of the files. Then the conversion itself goes on. So faults do not meet, and what comes before a
fault is computed once. The conversion itself ends without any fault: it is the check for a false alarm.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.planted.fault import Fault, Model, NothingToPlantError, Result
from benchmarks.planted.stages import wrappers

# Stages at which the framework still has to run.
EARLY = ("checkpoint", "loading", "loaded", "exporter")
TIMEOUT = 300  # seconds of a conversion from a fault on


class Conversion:
    """A conversion with places where faults are planted.

    Args:
        root: an empty folder: "source" is the checkpoint, "place" holds what is written, "kept" what was published.
        report: called with what became of each fault, in the process of the fault.
    """

    def __init__(self, name: str, model: Model, root: Path, report: Callable[[dict[str, Any]], None]) -> None:
        self.name, self.model, self.root, self.report = name, model, root, report
        self.place = root / "place"
        self.output = self.place / model.output
        self.faults: Sequence[Fault] = ()
        self.planted: Fault | None = None  # in this process
        self.parts: Sequence[Any] = ()
        self.built = 0
        self._started = time.process_time()

    def run(self, faults: Sequence[Fault]) -> None:
        """Convert once, and once from each fault on; returns in the first process only."""
        self.faults = faults
        try:
            self._run()
        except BaseException:
            if self.planted is None:
                raise
            self._result("broken", message=traceback.format_exc()[-1500:])
        if self.planted is not None:
            os._exit(0)

    def alone(self, fault: Fault) -> None:
        """Convert with one fault in this process."""
        self.faults, self.planted = (fault,), fault
        self._run()

    def _run(self) -> None:
        self.place.mkdir(parents=True)
        given = self.model.make(self.root / "source")
        for fault in [f for f in self.faults if f.stage == "checkpoint"]:
            if self.enter(fault):
                fault.plant(self.root / "source")
        self._convert(given)
        for fault in [f for f in self.faults if f.stage == "quantized"]:
            if self.enter(fault):
                self._quantize(fault)
        for precision in sorted({fault.precision for fault in self.faults} - {""}):
            sound = Fault(f"{self.name}: sound, {precision}", self.name, "none", lambda _: None, precision=precision)
            if self.enter(sound):
                self._quantize(sound)

    def _convert(self, given: dict[str, Any]) -> None:
        import onnxport

        arguments = {**given, **self.model.settings}
        self._started = time.process_time()
        with self._stops():
            try:
                made = onnxport.convert(None, arguments.pop("model"), self.output, **arguments)
            except BaseException as error:
                self._raised(error)
            else:
                self._published(made.manifest.components, dict(made.cpu))

    def _quantize(self, fault: Fault) -> None:
        import onnxport

        self._started = time.process_time()
        with self._stops():
            try:
                onnxport.quantize(self.output, fault.precision)
            except BaseException as error:
                self._raised(error)
            else:
                self._published((), {})

    # Results

    @property
    def _wrong(self) -> bool:
        """Whether this process has a fault."""
        return self.planted is not None and self.planted.stage != "none"

    def _raised(self, error: BaseException) -> None:
        import onnxport

        if isinstance(error, NothingToPlantError):
            self._result("broken", message=f"nothing to plant it in: {error}")
        elif not isinstance(error, onnxport.OnnxPortError):
            self._result("broken", type(error).__name__, "".join(traceback.format_exception(error))[-1500:])
        else:
            found = getattr(error, "verification", None)
            code = getattr(error, "exit_code", 1 if found is not None else 2)
            ratio = largest_ratio([found]) if found is not None else None
            outcome = "caught" if self._wrong else "FALSE ALARM"
            self._result(outcome, f"{type(error).__name__} {code}", str(error), ratio)

    def _published(self, components: Sequence[Any], steps: dict[str, float]) -> None:
        ratio = largest_ratio([component.verification for component in components])
        self._result("MISSED" if self._wrong else "sound", ratio=ratio, steps=steps)
        if self.planted:
            shutil.move(self.place, self.root / "kept" / file_name(self.planted.name))

    def _result(
        self, outcome: str, by: str = "", message: str = "", ratio: float | None = None,
        steps: dict[str, float] | None = None,
    ) -> None:  # fmt: skip
        fault = self.planted
        seconds = time.process_time() - self._started
        name, stage = (fault.name, fault.stage) if fault else (f"{self.name}: sound", "none")
        self._say(Result(name, self.name, stage, outcome, by, message, ratio, "", seconds, steps or {}))

    def _say(self, result: Result) -> None:
        self.report(asdict(result))

    # Forks

    def enter(self, fault: Fault) -> bool:
        """Whether this is the fork in which `fault` is to be planted."""
        if self.planted is not None or (fault.stage in EARLY and not self.model.forks):
            return self.planted is fault
        saved = self.root / "saved"
        linked = self.model.settings.get("link_weights", False)
        source = (self.root / "source",) if fault.stage == "checkpoint" or linked else ()
        for folder in (self.place, *source):
            shutil.copytree(folder, saved / folder.name, symlinks=True)
        sys.stdout.flush()
        gc.freeze()  # a collection in the fork would write to every object, and so copy the memory
        child = os.fork()
        if child == 0:
            self.planted, self._started = fault, time.process_time()
            return True
        self._wait(child, fault)
        for folder in (self.place, *source):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.move(saved / folder.name, folder)
        return False

    def _wait(self, child: int, fault: Fault) -> None:
        deadline = time.monotonic() + TIMEOUT
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                self._say(Result(fault.name, self.name, fault.stage, "timeout", seconds=TIMEOUT))
                return
            time.sleep(0.01)
        if status != 0:
            said = f"its process ended with {os.waitstatus_to_exitcode(status)}"
            self._say(Result(fault.name, self.name, fault.stage, "broken", message=said))

    # Stages

    def at(self, stage: str, where: Any, part: int | None = None) -> None:
        """Plant what belongs here: in forks, or in this process."""
        for fault in self.faults:
            if fault.stage == stage and part in (None, fault.part) and self.enter(fault):
                fault.plant(where)
                return

    @contextmanager
    def _stops(self) -> Iterator[None]:
        """Our own functions, wrapped so that a conversion stops at the stages."""
        with ExitStack() as stack:
            for owner, name, wrap in wrappers(self):
                original = getattr(owner, name)
                setattr(owner, name, wrap(original))
                stack.callback(setattr, owner, name, original)
            yield


def largest_ratio(found: Sequence[Any]) -> float | None:
    """Error over tolerance, over all outputs that were compared."""
    ratios = [
        check.judged_error / check.tolerance if check.tolerance else float(check.judged_error > 0)
        for verification in found if verification is not None
        for case in verification.cases for check in case.outputs
    ]  # fmt: skip
    return max(ratios, default=None)


def file_name(fault: str) -> str:
    """A fault's name as that of a file."""
    return "".join(letter if letter.isalnum() else "_" for letter in fault)
