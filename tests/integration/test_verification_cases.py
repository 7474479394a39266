"""What verification looks at: ends of axes, thresholds, token types, padding, rows, positions; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BigBirdConfig, BigBirdModel, MistralConfig, MistralForCausalLM

from onnxport.dummy_inputs.decoder import DecoderInputGenerator
from onnxport.dummy_inputs.text import TextInputGenerator
from onnxport.errors import ExportError
from onnxport.export.signature import infer_signature
from onnxport.loading.extra_inputs import extra_inputs
from onnxport.loading.model_to_export import load_model_to_export
from onnxport.loading.parts import Part
from onnxport.loading.resolve import resolve_model
from onnxport.sources.pytorch.decoder import DecoderSource
from onnxport.sources.pytorch.source import TorchSource
from onnxport.specs import CaseCheck, Limit
from onnxport.verification.cases import Recorded, record
from onnxport.verification.compare import check_case, check_structure
from onnxport.verification.level import Level
from onnxport.verification.tolerance import TOLERANCES
from tests.tiny import save

pytestmark = pytest.mark.integration
Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


class Recording:
    """A source, what it gave, and checks of another model in the place of its graph."""

    def __init__(self, part: Part, level: Level = Level.STANDARD) -> None:
        self.source, self.decision = part.source, part.decision
        self.signature = infer_signature(part.source, part.generator)
        self.found: Recorded = record(part.source, self.signature, level)

    def failures(self) -> list[CaseCheck]:
        """Of the source as it is now."""
        fixed = TOLERANCES["float32"]
        outputs = self.signature.outputs
        checks = [check_case(self.source.run, c, self.decision, outputs, *fixed) for c in self.found.cases]
        if self.found.structure is not None:
            checks += check_structure(self.source.run, self.found.structure, self.decision, outputs, "float32")
        return [check for check in checks if not check.ok]

    def largest(self, axis: str) -> int:
        return max(case.sizes[axis] for case in self.found.cases)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = save("bert-feature-extraction", tmp_path_factory.mktemp("bert") / "model")
    return Recording(load_model_to_export(resolve_model(folder), "feature-extraction").parts[0])


@pytest.fixture(scope="module")
def mistral() -> Recording:
    config = MistralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=99, sliding_window=40, max_position_embeddings=256,
    )  # fmt: skip
    torch.manual_seed(0)
    source = DecoderSource(MistralForCausalLM(config).eval(), ("logits",))
    text = TextInputGenerator(None, config)
    return Recording(Part("model", source, DecoderInputGenerator(text, source.states, source.accepts()), "token"))


@contextmanager
def changed(source: Any, change: Change) -> Iterator[None]:
    """The source calls its model with other inputs than it gets."""
    original = type(source).invoke

    def invoke(forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        return original(source, forward, change({name: tensor.clone() for name, tensor in tensors.items()}))

    source.invoke = invoke
    try:
        yield
    finally:
        del source.invoke


def no_types_from_row_6(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    given["token_type_ids"][6:] = 0
    return given


def no_types(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return given | {"token_type_ids": torch.zeros_like(given["token_type_ids"])}


def positions_to_60(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    length = given["input_ids"].shape[1]
    return given | {"position_ids": torch.arange(length).clamp(max=60)[None]}


def no_mask_in_row_16(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    given["attention_mask"][16:] = 1
    return given


def no_mask_on_the_left(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    left = given["attention_mask"].cumsum(1) == 0
    given["attention_mask"][left] = 1
    return given


def one_token_is_another(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if given["input_ids"].shape[1] == 1:
        given["input_ids"] = given["input_ids"] + 1
    return given


def first_token_of_a_batch(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Row 0 decides about the others."""
    given["token_type_ids"][1:, 0] = given["token_type_ids"][:1, 0]
    return given


def no_special_tokens(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mask token, which stands in no ordinary text, is read as another."""
    return given | {"input_ids": torch.where(given["input_ids"] == 4, 7, given["input_ids"])}


FAULTS = (
    no_types_from_row_6, no_types, positions_to_60, no_mask_in_row_16, no_mask_on_the_left, one_token_is_another,
    first_token_of_a_batch, no_special_tokens,
)  # fmt: skip


def test_a_sound_model_agrees_with_itself(bert: Recording, mistral: Recording) -> None:
    assert bert.failures() == [] and mistral.failures() == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(bert: Recording, fault: Change) -> None:
    with changed(bert.source, fault):
        assert bert.failures()


def test_a_window_is_found(mistral: Recording) -> None:
    for module in mistral.source.model.modules():
        if hasattr(module, "sliding_window"):
            module.sliding_window = 44
    mistral.source.model.config.sliding_window = 44
    try:
        assert mistral.failures()
    finally:
        mistral.source.model.config.sliding_window = 40
        for module in mistral.source.model.modules():
            if hasattr(module, "sliding_window"):
                module.sliding_window = 40


def test_a_look_ahead_that_changes_little_is_found(mistral: Recording) -> None:
    """A few millionths of the logits."""
    source = mistral.source
    original = type(source).invoke

    def invoke(forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> Any:
        found = original(source, forward, tensors)
        ahead = found["logits"][:, 1:2] if found["logits"].shape[1] > 1 else 0.0
        return found | {"logits": found["logits"] + 3e-6 * ahead}

    source.invoke = invoke
    try:
        failed = mistral.failures()
    finally:
        del source.invoke
    assert "every input changed" in [check.name for check in failed]


def test_the_ends_of_what_is_declared_are_compared(bert: Recording, mistral: Recording) -> None:
    lengths = {case.sizes["sequence_length"] for case in bert.found.cases}
    limit = bert.source.model.config.max_position_embeddings
    assert {1, limit} <= lengths and bert.largest("batch_size") >= 17
    assert mistral.largest("past_sequence_length") > 40
    rows = {case.name: case.inputs for case in bert.found.cases}
    every = np.unique(rows["every token"]["input_ids"])
    assert len(every) == bert.source.model.config.vocab_size
    assert any(case.inputs["token_type_ids"].any() for case in bert.found.cases)
    assert (rows["padded rows, on the left"]["attention_mask"][:, 0] == 0).any()


def test_quick_compares_what_it_always_did_and_the_structure(tmp_path: Path) -> None:
    folder = save("bert-feature-extraction", tmp_path / "model")
    recording = Recording(load_model_to_export(resolve_model(folder), "feature-extraction").parts[0], Level.QUICK)
    assert len(recording.found.cases) == 6  # of five lengths one is even
    assert recording.found.structure is not None
    with changed(recording.source, no_types):
        assert recording.failures()


def big_bird() -> BigBirdModel:
    config = BigBirdConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, block_size=4,
        num_random_blocks=1, max_position_embeddings=128, vocab_size=99,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BigBirdModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_a_short_input_does_not_change_the_reference_of_a_long_one() -> None:
    """BigBird switches itself to full attention after a short input, and never back."""
    model = big_bird()
    rng = np.random.default_rng(0)
    long = {"input_ids": rng.integers(5, 99, (2, 96)), "attention_mask": np.ones((2, 96), np.int64)}
    short = {name: value[:, :11] for name, value in long.items()}
    fresh = TorchSource(big_bird(), ("last_hidden_state",)).run(long)["last_hidden_state"]
    source = TorchSource(model, ("last_hidden_state",))
    source.run(short)
    np.testing.assert_array_equal(source.run(long)["last_hidden_state"], fresh)
    source.measured(short).in_float64()
    source.shapes(short)
    np.testing.assert_array_equal(source.run(long)["last_hidden_state"], fresh)
    assert model.attention_type == "block_sparse"
    with torch.no_grad():
        model(**source.tensors(short))
        contaminated = model(**source.tensors(long)).last_hidden_state.numpy()
    assert np.abs(contaminated - fresh).max() > 1e-3  # that is what the test is about


def test_a_model_that_works_otherwise_at_long_inputs_is_limited_to_short_ones() -> None:
    source = TorchSource(big_bird(), ("last_hidden_state",))
    text = TextInputGenerator(None, source.model.config)
    recording = Recording(Part("model", source, text))
    limited = {
        case.sizes["sequence_length"]: case.limit.operand
        for case in recording.found.cases
        if case.limit is not None and case.limit.limit is Limit.AT_MOST
    }
    sparse_from = (5 + 2 * 1) * 4  # up to that many tokens its code uses full attention
    lengths = {case.sizes["sequence_length"] for case in recording.found.cases}
    assert limited == {length: sparse_from for length in lengths if length > sparse_from} and limited


class _Counts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.linear(x) * self.calls


class _Draws(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        return torch.nn.functional.dropout(self.linear(x), 0.5, training=True)


@pytest.mark.parametrize(("module", "word"), [(_Counts, "calls"), (_Draws, "random")])
def test_what_is_no_function_of_its_inputs_is_refused(module: type[torch.nn.Module], word: str) -> None:
    from onnxport.dummy_inputs.tensors import TensorInputGenerator

    sample = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}
    source = TorchSource(module().eval())
    with pytest.raises(ExportError) as caught:
        Recording(Part("model", source, TensorInputGenerator(sample)))
    assert word in caught.value.message


class _Passes(torch.nn.Module):
    """Takes token types in `**kwargs` only."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.types = torch.nn.Embedding(50, 8), torch.nn.Embedding(2, 8)

    def forward(self, input_ids, attention_mask=None, **kwargs):
        types = kwargs.get("token_type_ids", torch.zeros_like(input_ids))
        return self.words(input_ids) + self.types(types)


def test_an_input_behind_keywords_is_found_by_what_it_changes() -> None:
    source = TorchSource(_Passes().eval())

    class Maker:
        dims = ()

        def make(self, sizes, *, seed=0, padded=False):
            ids = np.arange(6).reshape(2, 3)
            return {"input_ids": ids, "token_type_ids": ids * 0, "unused": ids}

    assert extra_inputs(source, Maker) == ("token_type_ids",)
    source.extra_inputs = ("token_type_ids",)
    assert "token_type_ids" in source.accepts()


def test_sizes_and_what_is_computed_of_them_are_even_and_odd(tmp_path: Path, bert: Recording) -> None:
    """SEW pads its frames to an even number: where it is traced nothing is missing, so all even numbers agree."""
    assert {case.sizes["sequence_length"] % 2 for case in bert.found.cases[:6]} == {0, 1}
    folder = save("wav2vec2-automatic-speech-recognition", tmp_path / "model")
    sound = Recording(load_model_to_export(resolve_model(folder), "automatic-speech-recognition").parts[0], Level.QUICK)
    frames = {case.outputs["logits"].shape[1] for case in sound.found.cases}
    assert {case.sizes["num_samples"] % 2 for case in sound.found.cases} == {0, 1}
    assert {number % 2 for number in frames} == {0, 1}, frames
