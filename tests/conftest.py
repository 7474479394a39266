"""What holds for all tests."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
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


# Files that take longest, by the wall seconds that --costs tells: the two processes of `make test` begin with them, and
# the many short files at the end fill the gap.
_LONGEST = (
    "test_convert", "test_fixed_graphs", "test_environment_create", "test_decoders", "test_batch", "test_keras",
    "test_environment_calls", "test_keras_recurrent", "test_fixed_sizes", "test_tensorflow_decoders",
    "test_weight_only", "test_tensorflow_checkpoints", "test_tensorflow_encoder_decoders", "test_folder_runs",
    "test_large_models", "test_encoder_decoders", "test_fused_decoder", "test_tensorflow_texts",
    "test_images_and_texts", "test_keras_hub", "test_interrupts", "test_transformers_js", "test_keras_2_files",
    "test_variable_ledger", "test_inner_decoders", "test_tensorflow_images_and_sounds", "test_sources",
    "test_cli_convert", "test_memory_limits", "test_text_generation", "test_killed_steps", "test_weight_ledger",
    "test_tensorflow_environment", "test_minilm", "test_modules", "test_bench", "test_after_steps",
    "test_basic_pitch",
)  # fmt: skip


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Behind a file: what imported libraries made stays, so the garbage collector need not look at it again.

    A conversion collects garbage when it lets go of its model, which takes half a second where PyTorch is imported.
    """
    yield
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first. Unit tests are quick unless they say otherwise."""
    items.sort(key=lambda item: _LONGEST.index(item.path.stem) if item.path.stem in _LONGEST else len(_LONGEST))
    for item in items:
        costs = any(item.get_closest_marker(name) for name in ("slow", "sweep"))
        if item.path.parent.name == "unit" and not costs:
            item.add_marker(pytest.mark.quick)
