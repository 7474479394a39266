"""Manifests for the tests of the report: a model that passed, and one that did not, with names that attack the page."""

from __future__ import annotations

from dataclasses import replace

from onnxport.artifact.ledger import Ledger, UnusedTensors
from onnxport.artifact.manifest import Component, Manifest
from onnxport.specs import (
    CaseCheck,
    Difference,
    Distance,
    ModuleError,
    OutputCheck,
    Restriction,
    TensorSpec,
    Verification,
)

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"
_LIMIT = Restriction.from_rule("sequence_length", "at most 512", "the configuration's limit")
_RUNTIME = "onnxruntime 1.32.0 (CPUExecutionProvider)"
_BATCH = ("batch_size", "sequence_length")


def sample_manifest() -> Manifest:
    """An encoder-decoder with a quantized encoder."""
    encoder = _graph(
        "encoder_model", (("input_ids", "int64", _BATCH), ("attention_mask", "int64", _BATCH)), "last_hidden_state"
    )
    states = [(f"past_key_values.{n}.key", "float32", ("batch_size", 8, "past_sequence_length", 64)) for n in range(6)]
    decoder = _graph(
        "decoder_model_merged",
        (("input_ids", "int64", _BATCH), ("encoder_hidden_states", "float32", (*_BATCH, 512)), *states),
        "logits",
    )
    ledger = Ledger("checkpoint", {}, {"exact": 61_000_000, "transformed": 29_000_000, "constant": 400_000}, 10**8)
    quantized = replace(
        encoder, name="encoder_model_quantized", file="onnx/encoder_model_quantized.onnx", precision="int8",
        derived_from="encoder_model", size_bytes=36_000_000, ledger=replace(ledger, bytes={"bounded": 22_000_000}),
        verification=replace(
            encoder.verification, cases=encoder.verification.cases[:2],
            distance=Distance("the graph encoder_model.onnx (float32)", 0.031, 0.012, "token", 0.987),
        ),
    )  # fmt: skip
    return Manifest(
        "summarization", "pt", "example/small-t5", "T5ForConditionalGeneration",
        {"onnxport": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "onnx": "1.23.2", "onnxruntime": "1.32.0"},
        (replace(encoder, ledger=ledger), replace(decoder, ledger=ledger), quantized),
        {"config.json": "0" * 64, "onnx/encoder_model.onnx": "1" * 64},
        ("the tokenizer has no special token for padding",),
        UnusedTensors({"decoder.extra.weight": "an expected leftover of training"}, {}),
    )  # fmt: skip


def failed_manifest() -> Manifest:
    """One graph that differs from its source from one module on."""
    names = [
        f"bert.encoder.layer.{n}.{part}" for n in range(4) for part in ("attention.self", "intermediate", "output")
    ]
    errors = [2e-7 * (n + 1) if n < 7 else 0.02 * (n - 5) for n in range(len(names))]
    difference = Difference(
        "traced", {"batch_size": 2, "sequence_length": 11}, names[7], "BertIntermediate", "node_gelu_2", "Gelu",
        "gelu_2", (2, 11, 64), 1.4e-6, 0.04, ("attention-mask-rows",), "",
        tuple(ModuleError(name, "BertLayer", error) for name, error in zip(names, errors, strict=True)),
    )  # fmt: skip
    graph = _graph("model", (("input_ids", "int64", _BATCH),), "logits")
    cases = tuple(
        replace(case, ok=False, outputs=tuple(replace(one, graph_error=0.3, ok=False) for one in case.outputs))
        for case in graph.verification.cases
    )
    broken = CaseCheck(
        "longer", {"batch_size": 1, "sequence_length": 61}, (), error="missing outputs: logits", ok=False
    )
    verification = replace(graph.verification, passed=False, cases=(*cases, broken), difference=difference)
    return replace(sample_manifest(), components=(replace(graph, verification=verification),), unused=None)


def hostile_manifest() -> Manifest:
    """Every text of the manifest is an attack."""
    spec = TensorSpec(ATTACK, ATTACK, (ATTACK, 4))
    case = CaseCheck(ATTACK, {ATTACK: 2}, (_output(ATTACK, 1e-6),), ATTACK, 0.5, ATTACK, False)
    difference = Difference(
        ATTACK, {ATTACK: 1}, ATTACK, ATTACK, ATTACK, ATTACK, ATTACK, (1,), 0.0, float("nan"), (ATTACK,), ATTACK,
        (ModuleError(ATTACK, ATTACK, float("inf")),),
    )  # fmt: skip
    verification = Verification(False, ATTACK, ATTACK, 1e-5, 1e-4, (case,), Distance(ATTACK, 1.0, 1.0), difference)
    ledger = Ledger(ATTACK, {}, {"exact": 5, ATTACK: 3}, 8)
    component = Component(
        ATTACK, "onnx/model.onnx", 23, ATTACK, 7, (spec,), (spec,),
        (Restriction.from_rule(ATTACK, ATTACK, ATTACK),), verification, (ATTACK,), {ATTACK: 3}, 9, ledger=ledger,
    )  # fmt: skip
    return Manifest(
        ATTACK, ATTACK, ATTACK, ATTACK, {ATTACK: ATTACK, "onnxport": ATTACK},
        (component, replace(component, name=ATTACK + "2", derived_from=ATTACK)), {ATTACK: "0" * 64}, (ATTACK,),
        UnusedTensors({ATTACK: ATTACK}, {ATTACK: ATTACK}),
    )  # fmt: skip


def _graph(name: str, inputs: tuple[tuple[str, str, tuple[int | str, ...]], ...], output: str) -> Component:
    sizes = ((2, 11), (1, 11), (2, 61), (5, 5))
    names = ("traced", "batch of one", "larger", "larger batch, smaller")
    cases = tuple(
        CaseCheck(
            case, {"batch_size": rows, "sequence_length": tokens}, (_output(output, 1e-7 * (n + 1)),), "token", 1.0
        )
        for n, (case, (rows, tokens)) in enumerate(zip(names, sizes, strict=True))
    )
    return Component(
        name, f"onnx/{name}.onnx", 23, "float32", 22_600_000, tuple(TensorSpec(*one) for one in inputs),
        (TensorSpec(output, "float32", (*_BATCH, 512)),), (_LIMIT,),
        Verification(True, "torch 2.13.0 (T5ForConditionalGeneration)", _RUNTIME, 1e-5, 1e-4, cases),
        operators={"MatMul": 72, "Add": 40, "LayerNormalization": 25, "Gelu": 12}, size_bytes=90_300_000,
    )  # fmt: skip


def _output(name: str, error: float) -> OutputCheck:
    return OutputCheck(name, (2, 11, 512), error, error / 4, 4.0, 6e-6, True, "float64", 2.5 * error, error)
