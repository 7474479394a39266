"""Little work on few weights is one thread's."""

from __future__ import annotations

from onnxport.system.threads import worth_threads


def test_a_decoder_of_92m_parameters_reads_three_rows_of_71_tokens_on_one_thread():
    assert not worth_threads(368_000_000, 92e6 * 3 * 71)


def test_much_work_and_many_weights_are_worth_threads():
    assert worth_threads(100_000_000, 25e6 * 3 * 233 * 233)  # ResNet-50, an image
    assert worth_threads(8 * 2**30, 2e9)  # a step of a decoder of two billion parameters
