"""`optimize --for`: a further graph of a folder, made for one kind of processor.

It is compared with the portable graph before it is published: at a whole prompt, parts of one and single
tokens, with rows of different length, and in a generation over the buffers that are used later.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.artifact.add_components import add_components, link_rest
from onnxport.artifact.data_files import data_files, graph_bytes
from onnxport.artifact.folder import read_folder
from onnxport.artifact.hashes import check_files
from onnxport.artifact.manifest import MANIFEST_NAME, Component, Manifest
from onnxport.errors import FolderError, UsageError, VerificationError
from onnxport.graph.inputs import vocabulary_size
from onnxport.graph.stats import file_operators
from onnxport.publishing.staging import stage
from onnxport.specs import Restriction, Verification
from onnxport.system.memory import memory_limit
from onnxport.tensor_names import is_past

if TYPE_CHECKING:
    from onnxport.graph.fusion.fused_decoder import Fused
    from onnxport.runtime.session import OnnxSession
    from onnxport.verification.cases import Case

PROCESSORS = ("cpu",)
NAME = "model_fused"

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
        VerificationError: its numbers differ from the portable graph's. Nothing was written in any case.
    """
    if processor not in PROCESSORS:
        raise UsageError(
            f"Graphs can be fused for {', '.join(PROCESSORS)}, not for {processor!r}.",
            hint="ONNX Runtime's fused attention on other processors takes float16 only, and would not be verified.",
        )
    if path.suffix == ".onnx" and not path.is_dir():
        raise UsageError(
            f"{path} is a single graph; a graph is fused in its folder.",
            hint="Convert to a folder: `onnxport convert MODEL FOLDER`.",
        )
    with memory_limit():
        return _add(path, read_folder(path))


def _add(folder: Path, manifest: Manifest) -> Path:
    from onnxport.graph.fusion.fused_decoder import write_fused_decoder

    check_files(folder, manifest)
    base = next((c for c in manifest.components if c.name == "model"), None)
    if base is None or not any(is_past(spec.name) for spec in base.inputs):
        raise FolderError(
            f"{folder} holds no decoder alone, and only such graphs are fused for a processor.",
            hint="`onnxport optimize` without --for stores ONNX Runtime's own fusions of any graph.",
        )
    file = Path(base.file).with_name(f"{NAME}.onnx")
    with stage(folder, overwrite=True) as staging:
        target = staging.path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        fused = write_fused_decoder(folder / base.file, target, _longest(folder))
        stale = {
            MANIFEST_NAME,
            *(old.relative_to(folder).as_posix() for old in (folder / file, *data_files(folder / file))),
        }
        link_rest(folder, staging.path, stale)
        verification = compare_fused(staging.path / base.file, target, base, fused, vocabulary_size(folder))
        component = _component(base, file, target, fused, verification, staging.path)
        add_components(staging.path, manifest, [component], folder.resolve().name)
        staging.publish()
    return folder / file


def _component(
    base: Component, file: Path, target: Path, fused: Fused, verification: Verification, root: Path
) -> Component:
    limits = [
        Restriction(
            "total_sequence_length", f"at most {fused.attentions.longest}", "masks and positions are proved up to there"
        ),
        Restriction(
            "past_sequence_length",
            "real tokens first",
            "a row of the cache begins with its first token, not with padding",
        ),
    ]
    if fused.attentions.windows:
        limits.append(
            Restriction("total_sequence_length", "padded on the left", "a sliding window counts tokens, not padding")
        )
    return replace(
        base, name=NAME, file=file.as_posix(), verification=verification, operators=file_operators(target),
        size_bytes=graph_bytes(target), weights_checksum=None, restrictions=(*base.restrictions, *limits),
        inputs=tuple(spec for spec in base.inputs if spec.name in fused.inputs),
        data_files=tuple(path.relative_to(root).as_posix() for path in data_files(target)),
    )  # fmt: skip


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


def compare_fused(reference: Path, target: Path, base: Component, fused: Fused, vocabulary: int) -> Verification:
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
    from onnxport.verification.compare import TOLERANCES, compare
    from onnxport.verification.decoder_pair import Generation, compare_generation

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
            hint="Use model.onnx as it is.",
            verification=verification,
        )
    return verification


def _cases(session: OnnxSession, fused: Fused, vocabulary: int) -> Iterator[Case]:
    from onnxport.verification.cases import Case
    from onnxport.verification.decoder_pair import left_padded

    calls = [*_CALLS, *((2, 3, window + more, False) for window in fused.attentions.windows for more in (-2, 5))]
    for number, (rows, new, past, padded) in enumerate(calls):
        if past < 0 or past + new > fused.attentions.longest:
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
