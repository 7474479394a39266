"""A folder for transformers.js: the graphs as it calls them, with their weights where it looks for them.

It hands an encoder's hidden states to the decoder, whose first call returns the keys and values of the
cross-attention; `graph/cross_projection.py` makes such a pair from ours. It gives a decoder `num_logits_to_keep` only
if that input is required. The new files have the names of the old ones, so they are written to another folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.artifact.card_calls import javascript_dtype
from onnxport.artifact.folder import Folder, open_folder
from onnxport.artifact.manifest import Component
from onnxport.errors import MissingDependencyError, UsageError, VerificationError
from onnxport.formats.json_file import read_object_if_present
from onnxport.graph.inputs import verified_sizes, vocabulary_size
from onnxport.runtime.sequence_generation import DECODER, ENCODER, is_encoder_decoder
from onnxport.tensor_names import NUM_LOGITS_TO_KEEP, is_past
from onnxport.variants.new_folder import new_folder

if TYPE_CHECKING:
    import onnx_ir as ir

NAME = "transformers.js"
_CONFIG = "config.json"
# What it gives to an encoder, and fills in where the caller does not.
_READ = frozenset({"input_ids", "input_features", "input_values", "pixel_values"})
_FILLED = frozenset({"pixel_mask", "token_type_ids"})
_TOKENS = frozenset({"input_ids", "attention_mask", "position_ids", NUM_LOGITS_TO_KEEP})
_CROSS = frozenset({"input_ids", "encoder_attention_mask", NUM_LOGITS_TO_KEEP})
_STATES = "encoder_hidden_states"


@dataclass(frozen=True)
class _Pair:
    """A decoder's graph, and the encoder's that runs before it; None for a decoder alone."""

    decoder: Component
    encoder: Component | None = None


def write_transformers_js(folder: str | Path, component: str = "model", output: str | Path | None = None) -> Path:
    """Write a folder that transformers.js runs, of one that onnxport wrote; the latter stays as it is.

    Args:
        folder: of a decoder or an encoder-decoder.
        component: "model"; graphs of all dtypes that transformers.js knows are written.
        output: the new folder; it must not exist, or be empty.

    Returns:
        The new folder.

    Raises:
        UsageError: no output, transformers.js needs nothing, or it cannot give these graphs what they take.
        ExportError: the decoder cannot do what is the encoder's part here.
        FolderError: no such folder, or it is damaged.
        OutputError: the output cannot be written.
        VerificationError: the new graphs write other tokens; no folder was made.
    """
    require_onnx()
    if output is None:
        raise UsageError(
            f"A folder for {NAME} is another folder: its files have the same names.",
            hint=f"onnxport target {NAME} FOLDER OUTPUT",
        )
    if component != "model":
        raise UsageError(
            f"{NAME} chooses a graph by its dtype, so all of them are written.",
            hint="Leave --component out.",
        )
    source, output = open_folder(folder), Path(output).expanduser()
    pairs = _pairs(source)
    own = [part.file for part in source.manifest.components]
    new_bytes = sum(part.size_bytes for pair in pairs for part in (pair.decoder, pair.encoder) if part is not None)
    with new_folder(source, own, output, new_bytes=new_bytes) as made:
        written: dict[str, Component] = {}
        for pair in pairs:
            for part in _write(source.path, made.root, pair):
                written.setdefault(part.file, part)  # an encoder comes with each decoder that it runs before
        made.take_rest()
        notes = (*source.manifest.notes, *_notes(pairs))
        manifest = replace(source.manifest, components=tuple(written.values()), notes=notes)
        made.hash_written()
        made.publish(manifest)
    return output


def _notes(pairs: Sequence[_Pair]) -> Iterator[str]:
    if any(pair.encoder is not None for pair in pairs):
        yield f"the graphs are those of {NAME}: the decoder takes the encoder's hidden states"


def require_onnx() -> None:
    """Raises MissingDependencyError where graphs cannot be rewritten."""
    try:
        import onnx  # noqa: F401
        import onnx_ir  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"Writing a folder for {NAME} needs the package {error.name!r}, which is not installed.",
            hint="pip install 'onnxport[pytorch]'",
        ) from error


def _pairs(folder: Folder) -> list[_Pair]:
    """What is written, of the dtypes that transformers.js knows.

    Raises:
        UsageError: nothing is needed, or these graphs are not what it can run.
    """
    usable = {part.name: part for part in folder.manifest.components if javascript_dtype(part.file) is not None}
    if is_encoder_decoder(list(usable)):
        pairs = []
        for decoder in usable.values():
            if folder.manifest.origin(decoder).name == DECODER:
                pairs.append(_Pair(decoder, folder.manifest.counterpart(decoder, ENCODER)))
        for pair in pairs:
            _require_inputs(pair)
        return pairs
    decoders = [part for part in usable.values() if any(is_past(spec.name) for spec in part.inputs)]
    if len(usable) > len(decoders) > 0 or (usable and not decoders and "model" not in usable):
        raise UsageError(
            f"{folder.path} has graphs that were not tried in {NAME} ({', '.join(usable)}).",
            hint="onnxport.runtime runs what it writes: `onnxport run FOLDER`.",
        )
    if not any(_is_optional_choice(part) for part in decoders):
        raise UsageError(f"{NAME} needs nothing more than {folder.path} has.", hint="Use it as it is.")
    for part in decoders:
        _require_inputs(_Pair(part))
    return [_Pair(part) for part in decoders]


def _is_optional_choice(part: Component) -> bool:
    return any(spec.name == NUM_LOGITS_TO_KEEP for spec in part.inputs)


def _require_inputs(pair: _Pair) -> None:
    """Raises UsageError where a graph takes what transformers.js does not give."""
    if pair.encoder is None:
        _require_known(pair.decoder, _TOKENS)
        return
    if _STATES in {spec.name for spec in pair.decoder.inputs}:
        raise UsageError(f"{pair.decoder.file} is one for {NAME} already.")
    # Texts alone come with a mask there.
    texts = any(spec.name == "input_ids" for spec in pair.encoder.inputs)
    _require_known(pair.encoder, _READ | _FILLED | ({"attention_mask"} if texts else set()))
    _require_known(pair.decoder, _CROSS)


def _require_known(part: Component, known: frozenset[str]) -> None:
    other = [spec.name for spec in part.inputs if spec.name not in known and not is_past(spec.name)]
    if other:
        raise UsageError(
            f"{NAME} does not give {part.file} its input {other[0]}.",
            hint="onnxport.runtime runs what it writes: `onnxport run FOLDER`.",
        )


def _write(folder: Path, root: Path, pair: _Pair) -> list[Component]:
    """The new graphs of a pair, in the folder `root`, compared with the old ones.

    Raises:
        ExportError, VerificationError: as `write_transformers_js`.
    """
    import onnx_ir as ir

    from onnxport.graph.cross_projection import move_projections
    from onnxport.targets.transformers_js_check import GraphFiles, compare_pairs
    from onnxport.verification.ledger.derived import prove_derived

    parts = [part for part in (pair.encoder, pair.decoder) if part is not None]
    models = [ir.load(folder / part.file) for part in parts]
    if pair.encoder is not None:
        move_projections(*models, cached=_keeps_cross_attention(folder))
    _settle_choice(models[-1], required=pair.encoder is None)
    made = [_write_graph(root, part, model) for part, model in zip(parts, models, strict=True)]
    files = [[base / part.file for part in parts] for base in (folder, root)]
    made = [replace(part, ledger=prove_derived(files[0], root / part.file)) for part in made]
    old, new = (GraphFiles(names[-1], names[0] if pair.encoder is not None else None) for names in files)
    checks = compare_pairs(old, new, verified_sizes(parts[0]), vocabulary_size(folder), pair.decoder.precision)
    if not all(check.passed for check in checks):
        worst = max(check.max_abs_error for check in checks)
        raise VerificationError(
            f"The graphs of {pair.decoder.file} for {NAME} differ from those of {folder}, by {worst:.3g}.",
            hint="The graphs are wrong, not just inexact: please report this model.",
            verification=next(check for check in checks if not check.passed),
        )
    return [replace(part, verification=check) for part, check in zip(made, checks, strict=True)]


def _keeps_cross_attention(folder: Path) -> bool:
    """Whether transformers.js keeps keys and values of the encoder; not where its decoder can also be used alone.

    It knows decoders of encoder-decoders by what their config calls the number of layers.
    """
    config = read_object_if_present(folder / _CONFIG)
    decoder = config.get("decoder")
    return not isinstance(decoder, dict) or any(name in decoder for name in ("decoder_layers", "num_decoder_layers"))


def _settle_choice(decoder: ir.Model, *, required: bool) -> None:
    """The choice of logits loses its default, or becomes the default: transformers.js gives no optional input.

    Args:
        required: for decoders alone, whose prompts are long. The first call of others has a few tokens, and versions
            that do not know the input run them too.
    """
    graph = decoder.graph
    value = next((value for value in graph.inputs if value.name == NUM_LOGITS_TO_KEEP), None)
    if value is not None and required:
        graph.initializers.pop(NUM_LOGITS_TO_KEEP)
        value.const_value = None
    elif value is not None:
        graph.inputs.remove(value)


def _write_graph(root: Path, part: Component, model: ir.Model) -> Component:
    """Write it with its weights inside, or beside it in files of less than 2 GB where it cannot hold them."""
    from onnxport.graph.stats import graph_stats
    from onnxport.runtime.session import OnnxSession
    from onnxport.serialization.onnxfile import EMBEDDED_LIMIT_BYTES, needs_external, write_model
    from onnxport.serialization.weights_file import write_weights

    target = root / part.file
    target.parent.mkdir(parents=True, exist_ok=True)
    external = needs_external(model)
    written = write_model(model, target, external=external, shard_bytes=EMBEDDED_LIMIT_BYTES if external else None)
    session, stats = OnnxSession(target), graph_stats(model)
    return replace(
        part, inputs=session.inputs, outputs=session.outputs, operators=stats.operators, parameters=stats.parameters,
        size_bytes=written.size_bytes, weights_checksum=write_weights(target, written, root),
        data_files=tuple(file.relative_to(root).as_posix() for file in written.files[1:]),
    )  # fmt: skip
