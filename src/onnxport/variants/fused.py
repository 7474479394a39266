"""`optimize --for`: a further graph of a folder, made for one kind of processor.

It is compared with the portable graph before it is published: on whole prompts, on parts of prompts and on single
tokens, with rows of different lengths, and in a generation that uses the buffers of the run time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.manifest import Component
from onnxport.errors import FolderError, UsageError, VerificationError
from onnxport.graph.inputs import vocabulary_size
from onnxport.specs import Limit, Restriction, Verification
from onnxport.tensor_names import is_past
from onnxport.variants.new_folder import graphs_from, new_folder, with_components

if TYPE_CHECKING:
    from onnxport.graph.fusion.fused_decoder import FusedDecoder
    from onnxport.runtime.session import OnnxSession
    from onnxport.verification.case import Case

PROCESSORS = ("cpu",)
_BASE, _ENDING = "model", "fused"
NAME = f"{_BASE}_{_ENDING}"

# Positions that a table has where config.json tells no length, and at most.
_USUAL, _MOST = 8192, 2**17
# (rows, new tokens, past, padded)
_CALLS = (
    (1, 1, 0, False), (1, 61, 0, False), (4, 9, 0, True), (2, 1, 0, True), (1, 5, 12, False), (4, 6, 11, True),
    (4, 1, 14, True), (1, 1, 130, False), (4, 1, 64, False),
)  # fmt: skip
# (rows, tokens of the prompt, tokens of a call)
_PROMPTS = ((1, 9, 9), (4, 11, 4))


def optimize_for(path: Path, processor: str) -> Path:
    """Store `onnx/model_fused.onnx` in a folder: a decoder as ONNX Runtime runs it fastest on a processor.

    Args:
        path: a folder that onnxport wrote for text-generation.
        processor: "cpu".

    Returns:
        The file that was written.

    Raises:
        UsageError: another processor, or a bare graph.
        FolderError: no such folder, it is damaged, or it holds no graph that generates.
        ExportError: the graph's attention cannot be fused.
        VerificationError: its outputs differ from the portable graph's. In every case the folder is left as it was.
    """
    if processor not in PROCESSORS:
        raise UsageError(
            f"Graphs can be fused for {', '.join(PROCESSORS)}, not for {processor!r}.",
            hint="ONNX Runtime's fused attention on other processors takes float16 only, and would not be verified.",
        )
    if path.suffix == ".onnx" and not path.is_dir():
        raise UsageError(
            f"{path} is a single graph; --for works on a folder.",
            hint="Convert to a folder: `onnxport convert MODEL FOLDER`.",
        )
    return _add(open_folder(path))


def _add(folder: Folder) -> Path:
    from onnxport.graph.fusion.fused_decoder import write_fused_decoder

    base = folder.manifest.find(_BASE)
    if base is None or not any(is_past(spec.name) for spec in base.inputs):
        raise FolderError(
            f"{folder.path} has no decoder of a text-generation model, and only such a graph is fused for a processor.",
            hint=f"Without --for any graph is optimized: onnxport optimize {folder.path}",
        )
    (graph,) = graphs_from(folder, [base], _ENDING)
    with new_folder(folder, [graph.file], new_bytes=base.size_bytes) as made:
        target = made.root / graph.file
        fused = write_fused_decoder(folder.file(base), target, _longest(folder.path))
        made.take_rest()
        verification = compare_fused(made.root / base.file, target, base, fused, vocabulary_size(folder.path))
        component = graph.component(
            made.root, verification, restrictions=(*base.restrictions, *_restrictions(fused)),
            inputs=tuple(spec for spec in base.inputs if spec.name in fused.inputs),
        )  # fmt: skip
        made.publish(with_components(folder.manifest, [component]))
    return folder.path / graph.file


def _restrictions(fused: FusedDecoder) -> Iterator[Restriction]:
    longest = fused.attention.max_tokens
    yield Restriction(
        "total_sequence_length", Limit.AT_MOST, longest, "attention masks and positions were verified up to this length"
    )
    yield Restriction(
        "past_sequence_length", Limit.NOTE, "real tokens first",
        "each row of the cache begins with its first token; its padding follows",
    )  # fmt: skip
    if fused.attention.windows:
        yield Restriction(
            "total_sequence_length", Limit.NOTE, "padded on the left", "a sliding window counts tokens, not padding"
        )


def _longest(folder: Path) -> int:
    """Tokens of the longest text that the model is made for, from config.json."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _USUAL
    for part in (config, config.get("text_config") or {}):
        for name in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            if isinstance(part.get(name), int) and part[name] > 0:
                return min(int(part[name]), _MOST)
    return _USUAL


def compare_fused(reference: Path, target: Path, base: Component, fused: FusedDecoder, vocabulary: int) -> Verification:
    """Single calls and generations of both graphs.

    Args:
        reference, target: the portable graph and the fused one.
        base: the portable graph's record.
        vocabulary: number of tokens.

    Raises:
        VerificationError: they differ by more than the tolerance of float32.
    """
    from onnxport.runtime.decoder import Decoder
    from onnxport.runtime.session import OnnxSession
    from onnxport.verification.compare import compare
    from onnxport.verification.decoder_pair import Generation, compare_generation
    from onnxport.verification.tolerance import TOLERANCES

    session = OnnxSession(reference)
    cases = list(_cases(session, fused, vocabulary))
    found = compare(
        target, cases, decision="token", outputs=base.outputs, source=f"the graph {reference.name}",
        precision="float32",
    )  # fmt: skip
    checks = found.cases
    if found.passed:
        other = OnnxSession(target)
        checks += tuple(
            compare_generation((Decoder(session), Decoder(other)), Generation(*run), vocabulary, TOLERANCES["float32"])
            for run in _PROMPTS
        )
    verification = replace(found, cases=checks, passed=all(check.ok for check in checks))
    if not verification.passed:
        case = next(check for check in checks if not check.ok)
        raise VerificationError(
            f"{target.name} differs from {reference.name} in the case {case.name!r}: "
            f"{case.error or f'by {verification.max_abs_error:.3g}'}.",
            hint="Use the component 'model' as it is.",
            verification=verification,
        )
    return verification


def _cases(session: OnnxSession, fused: FusedDecoder, vocabulary: int) -> Iterator[Case]:
    from onnxport.verification.case import Case
    from onnxport.verification.decoder_pair import left_padded

    calls = [*_CALLS, *((2, 3, window + more, False) for window in fused.attention.windows for more in (-2, 5))]
    for number, (rows, new, past, padded) in enumerate(calls):
        if past < 0 or past + new > fused.attention.max_tokens:
            continue
        mask = left_padded(rows, past + new) if padded else np.ones((rows, past + new), np.int64)
        rng = np.random.default_rng(number)
        given = {
            "input_ids": rng.integers(0, vocabulary, (rows, new)),
            "attention_mask": mask,
            "position_ids": np.maximum(mask.cumsum(1) - 1, 0)[:, past:],
        }
        shapes = {
            spec.name: (rows, int(spec.axes[1]), past, int(spec.axes[3]))
            for spec in session.inputs
            if is_past(spec.name)
        }
        states = {name: (rng.standard_normal(shape) * 0.5).astype(np.float32) for name, shape in shapes.items()}
        names = {spec.name for spec in session.inputs}
        inputs = {name: value for name, value in (given | states).items() if name in names}
        sizes = {
            "batch_size": rows, "sequence_length": new, "past_sequence_length": past,
            "total_sequence_length": past + new,
        }  # fmt: skip
        kind = "step" if new == 1 and past else "part of a prompt" if past else "prompt"
        name = f"{kind}, {rows} rows of {new} over {past}{', padded' if padded else ''}"
        yield Case(name, sizes, inputs, session.run(inputs))
