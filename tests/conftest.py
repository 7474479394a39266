"""What holds for all tests."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.once import Once, of_this_run

if TYPE_CHECKING:
    from tests.conversions import Conversions

# A shell that starts the tests in the background hands on an ignored SIGINT, to them and to the
# processes that they start. The tests of interrupts need the usual one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes folders that all tests of a run share; see tests/once.py."""
    return of_this_run(tmp_path_factory)


@pytest.fixture(scope="session")
def converted(once: Once) -> Conversions:
    """Converts tiny checkpoints, each once in a run; see tests/conversions.py."""
    from tests.conversions import Conversions

    return Conversions(once)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests are quick unless they say otherwise."""
    for item in items:
        costs = any(item.get_closest_marker(name) for name in ("slow", "sweep"))
        if item.path.parent.name == "unit" and not costs:
            item.add_marker(pytest.mark.quick)
