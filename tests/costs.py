"""What each test costs, as a plugin: `pytest -p tests.costs --costs FILE`.

A line for each phase of a test: CPU seconds of the process and of the children that it waited for, wall seconds,
outcome, phase and test, with tabs between. Wall time alone says little on a machine that does other things too.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

_last = 0.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", type=Path, help="append the CPU seconds of each test to this file")


def cpu_seconds() -> float:
    """CPU seconds, user and system, of this process and of the children that it waited for."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    global _last
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    cpu, _last = cpu_seconds() - _last, cpu_seconds()
    if file := item.config.getoption("--costs"):
        with Path(file).open("a", encoding="utf-8") as lines:
            lines.write(f"{cpu:.2f}\t{report.duration:.2f}\t{report.outcome}\t{report.when}\t{report.nodeid}\n")


def pytest_runtest_logstart(nodeid: str) -> None:
    """What passed between two tests is not the second one's."""
    global _last
    _last = cpu_seconds()
