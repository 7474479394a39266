"""A folder for onnxruntime-genai: `genai_config.json`, and a second graph over the same weights.

The second graph gives the logits of the last token alone, which are all that onnxruntime-genai reads. Before anything
is published, onnxruntime-genai must write the tokens that onnxport writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.manifest import Component
from onnxport.errors import (
    FolderError,
    MissingDependencyError,
    UsageError,
    VerificationError,
    did_you_mean,
)
from onnxport.runtime.cache.packed_rows import read_packed_rows
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.session import OnnxSession
from onnxport.system.library_errors import first_line
from onnxport.targets.genai_config import CONFIG_NAME, make_config, require_decoder
from onnxport.tensor_names import NUM_LOGITS_TO_KEEP
from onnxport.variants.new_folder import new_folder

_RUNS = ((1, 11), (3, 6))  # rows, tokens of the prompt
_TOKENS = 16
# By how much the best logit must lead the second, of the largest: a closer choice may fall either way.
_MARGIN = 1e-3
_NOTE = "onnxruntime-genai"


def write_genai(folder: str | Path, component: str = "model") -> Path:
    """Write what onnxruntime-genai needs into a folder that onnxport wrote; the folder is replaced as a whole.

    Args:
        folder: holds a decoder.
        component: name of its graph: "model", "model_q4", "model_fused".

    Returns:
        The path of genai_config.json.

    Raises:
        UsageError: no such graph, or onnxruntime-genai cannot run it; says why.
        FolderError: no such folder, or it is damaged.
        MissingDependencyError: onnxruntime-genai is not installed.
        VerificationError: it writes other tokens; the folder is left as it was.
    """
    require_genai()
    opened = open_folder(folder)
    graph = _graph(opened, component)
    file = _own_name(graph)
    with new_folder(opened, [CONFIG_NAME, file]) as made:
        made.take_rest()
        if not _write_last_logits(made.root / graph.file, made.root / file):
            file = graph.file
        session = OnnxSession(made.root / graph.file)
        config = make_config(made.root, opened.manifest, graph, file, read_packed_rows(session))
        (made.root / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8", newline="\n")
        version = _compare(made.root, Decoder(session), graph, config)
        notes = tuple(note for note in opened.manifest.notes if not note.startswith(_NOTE))
        note = f"{_NOTE} {version} writes the same greedy tokens with {graph.file} as onnxruntime"
        made.hash_written()
        made.publish(replace(opened.manifest, notes=(*notes, note)))
    return opened.path / CONFIG_NAME


def _graph(folder: Folder, name: str) -> Component:
    """The graph that is to be run, which is a decoder alone.

    Raises:
        UsageError: there is no such graph, or onnxruntime-genai cannot run it.
    """
    manifest = folder.manifest
    graph = manifest.find(name)
    if graph is None and name == "model" and manifest.components:
        require_decoder(manifest, manifest.components[0])  # says why not
    if graph is None:
        raise UsageError(
            f"{folder.path} has no graph {name!r}.",
            hint=did_you_mean(name, folder.names) or f"It has {', '.join(folder.names)}.",
        )
    require_decoder(manifest, graph)
    return graph


def require_genai() -> None:
    """Raises MissingDependencyError where onnxruntime-genai is not installed: nothing could be checked."""
    try:
        import onnx  # noqa: F401
        import onnxruntime_genai  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"Writing a folder for onnxruntime-genai needs the package {error.name!r}, which is not installed: the "
            "folder is tried in it.",
            hint="pip install 'onnxport[pytorch,genai]'",
        ) from error


def _own_name(graph: Component) -> str:
    file = Path(graph.file)
    return file.with_name(f"{file.stem}_genai.onnx").as_posix()


def _write_last_logits(source: Path, target: Path) -> bool:
    """The graph `source` over the same weights, with the last token's logits; False if it cannot choose them."""
    import onnx
    from onnx import numpy_helper

    from onnxport.runtime.mapped_weights import graph_without_weights

    small = graph_without_weights(source)
    model: Any = onnx.load(source, load_external_data=False) if small is None else onnx.load_model_from_string(small)
    default = next((tensor for tensor in model.graph.initializer if tensor.name == NUM_LOGITS_TO_KEEP), None)
    if default is None:
        return False
    default.CopyFrom(numpy_helper.from_array(np.array(1), NUM_LOGITS_TO_KEEP))
    inputs = [value for value in model.graph.input if value.name != NUM_LOGITS_TO_KEEP]  # a constant now
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    logits = next(value for value in model.graph.output if value.name == "logits")
    # By this it knows that there is one token, whatever the length of the prompt.
    axis = logits.type.tensor_type.shape.dim[1]
    axis.Clear()
    axis.dim_value = 1
    target.write_bytes(model.SerializeToString())
    return True


def _compare(root: Path, decoder: Decoder, graph: Component, config: dict[str, Any]) -> str:
    """Greedy tokens of onnxruntime-genai against those of onnxruntime; the version that was tried."""
    import onnxruntime_genai as genai

    try:
        model = genai.Model(str(root))
    except Exception as error:
        raise FolderError(
            f"onnxruntime-genai {genai.__version__} cannot load {graph.file}: {first_line(error)}."
        ) from error
    words = int(config["model"]["vocab_size"])
    end = config["model"].get("eos_token_id", [])
    ends = end if isinstance(end, list) else [end]
    for rows, length in _RUNS:
        rng = np.random.default_rng([rows, length])
        prompt = rng.integers(min(5, words - 1), words, (rows, length))
        try:
            found = _write(genai, model, prompt)
        except Exception as error:
            raise VerificationError(
                f"onnxruntime-genai {genai.__version__} cannot run {graph.file} on {rows} rows of {length} tokens: "
                f"{first_line(error)}."
            ) from error
        _judge(decoder, prompt, found, ends, graph.file)
    return str(genai.__version__)


def _write(genai: Any, model: Any, prompt: np.ndarray) -> np.ndarray:
    """Greedy tokens (rows, steps); fewer steps where all rows have ended."""
    settings = genai.GeneratorParams(model)
    rows, length = prompt.shape
    settings.set_search_options(
        max_length=length + _TOKENS, batch_size=rows, do_sample=False, num_beams=1, min_length=0,
        repetition_penalty=1.0, no_repeat_ngram_size=0,
    )  # fmt: skip
    generator = genai.Generator(model, settings)
    generator.append_tokens(prompt.astype(np.int32))
    tokens = []
    while not generator.is_done():
        generator.generate_next_token()
        tokens.append(np.array(generator.get_next_tokens()))
    return np.stack(tokens, 1)


def _judge(decoder: Decoder, prompt: np.ndarray, found: np.ndarray, ends: Sequence[int], file: str) -> None:
    """Raises VerificationError at the first token that is not the best by our own graph's logits.

    Our graph is led along the tokens that were found, so that every one of them is judged; of a row that has
    ended, the rest is padding.
    """
    progress = decoder.start(len(prompt))
    logits = decoder.step(progress, prompt)
    running = np.ones(len(prompt), bool)
    for step in range(found.shape[1]):
        tokens = found[:, step]
        behind = logits.max(-1) - logits[np.arange(len(prompt)), tokens]
        wrong = running & (behind > _MARGIN * np.abs(logits).max())
        # What follows an end of text is padding; it is no choice.
        running &= ~np.isin(tokens, ends)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise VerificationError(
                f"onnxruntime-genai writes other tokens with {file}: token {step + 1} of row {row} is {tokens[row]}, "
                f"and onnxruntime's best, {int(logits[row].argmax())}, leads it by {behind[row]:.3g}.",
                hint="Run the folder with onnxport.runtime.",
            )
        if step + 1 < found.shape[1]:
            logits = decoder.step(progress, tokens[:, None].astype(np.int64))
