"""Is a graph with quantized weights right, and how far is it from the graph that it was made from?

Its outputs differ from that graph's, because its weights do. So it is compared with the float32 graph that has the
quantized weights (each block turned back into float32). With float32 activations both must agree within the tolerance
of float32: then data, scales, layout and operators are right. As it is written, with activations of 8 bits, it has
a tolerance of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.graph.inputs import Arrays, random_inputs
from onnxport.graph.quantization.quantize import PRECISIONS
from onnxport.graph.write import WeightFiles, write_graph
from onnxport.progress import Silent
from onnxport.specs import CaseCheck, Distance, TensorSpec, Verification
from onnxport.tensor_names import is_past

EXACT_SUFFIX = ", float32 activations"
# Precisions whose activations are not rounded to integers, with the row of `TOLERANCES` for the same weights.
_EXACT_ROWS = {"q4f16": "float16", "bnb4": "float32"}
_PROMPT = (2, 16)  # rows, tokens


@dataclass(frozen=True)
class GraphUnderTest:
    """A graph file, and what is known about it.

    Attributes:
        file: the graph.
        inputs, outputs: as declared.
        sizes: at which it is run.
        vocabulary: number of tokens.
        decision: what a user sees in its outputs (`Task.decision`).
        encoder: the graph that runs before a decoder's, with the encoder's inputs; None for any other.
    """

    file: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sizes: Sequence[dict[str, int]]
    vocabulary: int
    decision: str | None = None
    encoder: tuple[Path, tuple[TensorSpec, ...]] | None = None


@dataclass
class _Held:
    model: Any


def check_rounded(
    base: GraphUnderTest, target: Path, precision: str, *, encoder: Path | None = None, work: Path | None = None
) -> Verification:
    """Hold a graph of rounded weights against its base.

    Args:
        base: the float32 graph.
        target: made from it by `write_weight_only` or `write_half_blocks`.
        precision: one of `graph.quantize.PRECISIONS` with bits.
        encoder: the graph that runs before `target`, rounded too, where there is one.
        work: an existing folder on a disk with room for the float32 weights; a temporary one by default.

    Returns:
        Where activations are rounded to integers, the cases with float32 activations (their names end in
        `EXACT_SUFFIX`); then those of the target as it is; and the `distance` to the base.
    """
    from onnxport.verification.compare import compare
    from onnxport.verification.graph_cases import random_cases

    with tempfile.TemporaryDirectory(dir=work, prefix=".rounding-") as name:
        folder = Path(name)
        reference, exact = folder / "rounded.onnx", folder / "exact.onnx"
        _write_reference(base.file, reference, precision, target)
        source = f"the graph {base.file.name} with weights rounded to {precision}"
        cases = random_cases(reference, base.inputs, base.sizes, base.vocabulary)
        about: dict[str, Any] = {"decision": base.decision, "outputs": base.outputs, "source": source}
        if precision in _EXACT_ROWS:
            found = compare(target, cases, precision=_EXACT_ROWS[precision], **about)
            return replace(found, distance=_distance(base, target, precision, encoder))
        _write_exact(target, exact)
        proof = compare(exact, cases, precision="float32", **about)
        found = compare(target, cases, precision=precision, **about)
    proven = tuple(replace(case, name=f"{case.name}{EXACT_SUFFIX}") for case in proof.cases)
    return replace(
        found,
        passed=found.passed and proof.passed,
        cases=(*proven, *found.cases),
        distance=_distance(base, target, precision, encoder),
    )


def _write_reference(base: Path, file: Path, precision: str, target: Path) -> None:
    """The base with the weights that the target has."""
    from onnxport.graph.quantization.nf4 import use_nf4_values
    from onnxport.graph.quantization.weight_only import find_quantized, load_graph, use_dequantized_weights

    model, rounded = load_graph(base), load_graph(target)
    if precision == "bnb4":
        use_nf4_values(model)
    else:
        bits = PRECISIONS[precision].bits or 0
        half = find_quantized(rounded, bits) if precision == "q4f16" else None
        use_dequantized_weights(model, bits, find_quantized(rounded), half=half)
    with Silent().step("write") as step:
        write_graph(_Held(model), file, file, WeightFiles(external=True), step)


def _write_exact(target: Path, file: Path) -> None:
    """The same graph on the same weights, which are linked, with float32 activations."""
    from onnxport.graph.quantization.weight_only import FLOAT_ACTIVATIONS, load_graph, set_accuracy_level
    from onnxport.serialization.layout import link_names
    from onnxport.serialization.onnxfile import streamed_tensors, write_model

    model = load_graph(target)
    set_accuracy_level(model, FLOAT_ACTIVATIONS)
    write_model(model, file, external=True, link=link_names(streamed_tensors(model), file))


def _distance(base: GraphUnderTest, target: Path, precision: str, encoder: Path | None) -> Distance:
    from onnxport.verification.compare import compare
    from onnxport.verification.graph_cases import random_cases

    source = f"the graph {base.file.name} (float32)"
    cases = random_cases(base.file, base.inputs, base.sizes, base.vocabulary)
    far = compare(
        target, cases, decision=base.decision, outputs=base.outputs, source=source, precision=precision
    )  # fmt: skip
    decided = [case.decision_agreement for case in far.cases if case.decision_agreement is not None]
    return Distance(
        source, far.max_abs_error, far.max_rel_error,
        base.decision if decided else None, float(np.mean(decided)) if decided else None,
        _greedy(base, target, encoder),
    )  # fmt: skip


def _greedy(base: GraphUnderTest, target: Path, encoder: Path | None) -> float | None:
    from onnxport.verification.greedy import greedy_agreement

    names = {spec.name for spec in base.inputs}
    if "input_ids" not in names or not any(is_past(name) for name in names):
        return None
    rng = np.random.default_rng(0)
    ids = rng.integers(min(5, base.vocabulary - 1), base.vocabulary, _PROMPT)
    if base.encoder is None:
        prompt: Arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return greedy_agreement(prompt, (base.file, None), (target, None))
    file, inputs = base.encoder
    sizes = {axis: 2 if "batch" in axis else 16 for spec in inputs for axis in spec.axes if isinstance(axis, str)}
    prompt = {**random_inputs(inputs, sizes, base.vocabulary, 0), "decoder_input_ids": ids[:, :1]}
    return greedy_agreement(prompt, (base.file, file), (target, encoder))


def first_failure(verification: Verification) -> CaseCheck | None:
    """The first case that does not hold."""
    return next((case for case in verification.cases if not case.ok), None)
