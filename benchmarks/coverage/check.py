"""Hold a converted folder against torch, at sizes of this script's own.

It shares no code with onnxport: ONNX Runtime runs the graphs as files, transformers loads the checkpoint, and all
inputs are made here. So a mistake in onnxport's own probing, inputs or comparison cannot hide itself.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.coverage import dry_run
from benchmarks.coverage.pairs import Pair

Arrays = dict[str, np.ndarray]

# Largest difference as a share of the largest value of an output. Sound float32 graphs stay below 1e-5.
_TOLERANCE = 1e-3
# (rows, tokens) of text; none of them is a size that onnxport probes or traces with.
_SIZES = ((1, 9), (3, 23), (4, 37))
_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


@dataclass
class Checked:
    """The result for one folder.

    Attributes:
        cases: comparisons that were made.
        error: largest difference as a share of the largest value; None if nothing was compared.
        problem: why something could not be compared or differs; empty if all is right.
        fixed: axes that vary in the inputs and are numbers in the graph, like "pixel_values.height=64".
    """

    cases: int = 0
    error: float | None = None
    problem: str = ""
    fixed: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        return not self.problem and self.error is not None and self.error <= _TOLERANCE


class _Loaded:
    """What `dry_run.simple_inputs` reads: preprocessing loaded from a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.side = None
        self.parts: dict[str, Any] = {}
        for name, auto in (("image_processor", "AutoImageProcessor"), ("feature_extractor", "AutoFeatureExtractor"),
                           ("tokenizer", "AutoTokenizer")):  # fmt: skip
            if name == "tokenizer" or list(folder.glob("*processor_config.json")):
                try:
                    self.parts[name] = getattr(transformers, auto).from_pretrained(folder, local_files_only=True)
                except Exception:  # the checkpoint has none
                    continue


def check(pair: Pair, checkpoint: Path, folder: Path) -> Checked:
    """Compare every output of a folder with torch's.

    Args:
        pair: what was converted.
        checkpoint: its source.
        folder: that onnxport wrote.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    sessions = {
        file.stem: onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        for file in sorted((folder / "onnx").glob("*.onnx"))
    }
    model = getattr(transformers, pair.architecture).from_pretrained(checkpoint, dtype=torch.float32).eval()
    loaded, result = _Loaded(checkpoint), Checked()
    try:
        if set(sessions) == {"model"}:
            session = sessions["model"]
            decoder = any(one.name.startswith("past_") and one.name != "past_values" for one in session.get_inputs())
            (_decoder if decoder else _one_graph)(pair, model, session, loaded, result)
        elif "prompt_encoder_mask_decoder" in sessions:
            _masks(model, sessions, loaded, result)
        elif "encoder_model" in sessions:
            _encoder_decoder(pair, model, sessions, loaded, result)
        else:
            result.problem = f"no check for graphs {sorted(sessions)}"
    except Exception as error:
        result.problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return result


def _one_graph(pair: Pair, model: Any, session: Any, loaded: _Loaded, result: Checked) -> None:
    fixed: list[str] = []
    for number, (rows, tokens) in enumerate(_SIZES):
        inputs = dry_run.simple_inputs(model, _modality(pair), loaded, rows=rows, tokens=tokens, seed=number + 1)
        if inputs is None:
            # A model that looks for texts has as many for each image.
            texts = 2 * rows if pair.task == "zero-shot-object-detection" else rows + 1
            inputs = _image_and_texts(model, loaded, rows, texts)
        _pad(inputs, number)
        arrays = {name: value.numpy() for name, value in inputs.items()}
        specs = {one.name: one for one in session.get_inputs()}
        refused = [
            f"{name}.{axis}={size}"
            for name, spec in specs.items() if name in arrays
            for axis, size in enumerate(spec.shape)
            if isinstance(size, int) and size != arrays[name].shape[axis]
        ]  # fmt: skip
        if refused:
            fixed += refused
            continue
        feed = _feed(specs, arrays, model, number)
        extra = {
            name: torch.from_numpy(value)
            for name, value in feed.items()
            if name in inspect.signature(model.forward).parameters
        }
        with torch.no_grad():
            expected = model(**{**inputs, **extra})
        _compare(session, feed, _named(expected), result)
    result.fixed = tuple(dict.fromkeys(fixed))
    if not result.cases:
        result.problem = f"no size of its own could be run: {', '.join(result.fixed)}"


def _masks(model: Any, sessions: dict[str, Any], loaded: _Loaded, result: Checked) -> None:
    """Points on images, the two graphs one after the other against one call of torch."""
    vision, decoder = sessions["vision_encoder"], sessions["prompt_encoder_mask_decoder"]
    for number, (rows, points) in enumerate(_SIZES):
        generator = np.random.default_rng(number + 1)
        pixels = dry_run.images(loaded, generator, rows)["pixel_values"]
        given = {
            "input_points": (generator.random((rows, number + 1, points, 2)) * pixels.shape[-1]).astype(np.float32),
            "input_labels": generator.choice([1, 0, -10], (rows, number + 1, points)),
        }
        with torch.no_grad():
            expected = model(pixel_values=pixels, **{name: torch.from_numpy(value) for name, value in given.items()})
        maps = vision.run(None, {"pixel_values": pixels.numpy()})
        feed = dict(zip([one.name for one in vision.get_outputs()], maps, strict=True)) | given
        taken = {one.name for one in decoder.get_inputs()}
        _compare(decoder, {name: feed[name] for name in taken}, _named(expected), result)


def _modality(pair: Pair) -> str:
    return pair.modality


def _image_and_texts(model: Any, loaded: _Loaded, rows: int, count: int) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(rows)
    texts = [" ".join(generator.choice(["a", "cat", "dog", "red", "car", "tree"], 3 + row)) for row in range(count)]
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 64
    cut = {"truncation": True, "max_length": longest}
    made = dict(loaded.parts["tokenizer"](texts, padding=True, return_tensors="pt", **cut))
    return made | dry_run.images(loaded, generator, rows)


def _pad(inputs: dict[str, torch.Tensor], number: int) -> None:
    """From the second case on, the last row of tokens is padded on the right."""
    mask = inputs.get("attention_mask")
    if number and mask is not None and mask.dim() == 2 and mask.shape[0] > 1 and "input_ids" in inputs:
        mask[-1, -3:] = 0
        inputs["input_ids"][-1, -4] = inputs["input_ids"][-1, -1]  # the end token stays visible


def _feed(specs: dict[str, Any], arrays: Arrays, model: Any, number: int) -> Arrays:
    """Inputs of the graph; those that the modality does not have are zeros, or positions."""
    feed: Arrays = {}
    like = arrays.get("input_ids", next(iter(arrays.values())))
    for name, spec in specs.items():
        if name in arrays:
            feed[name] = arrays[name].astype(_TYPES.get(spec.type, np.float32))
        elif name == "position_ids":
            feed[name] = np.broadcast_to(np.arange(like.shape[1]), like.shape[:2]).astype(np.int64)
        elif name == "token_type_ids":
            feed[name] = np.random.default_rng(number).integers(0, 2, like.shape).astype(np.int64)
            if (getattr(model.config, "type_vocab_size", 2) or 2) < 2:
                feed[name][:] = 0
        elif name in ("attention_mask", "pixel_mask"):
            shape = like.shape if len(spec.shape) == like.ndim else (like.shape[0], *like.shape[-2:])
            feed[name] = np.ones(shape[: len(spec.shape)], np.int64)
        elif name == "bbox":
            feed[name] = np.sort(np.random.default_rng(number).integers(0, 200, (*like.shape, 4))).astype(np.int64)
        else:
            raise ValueError(f"the graph has an input {name} {spec.shape} that this script does not know")
    return feed


def _named(outputs: Any) -> Arrays:
    """Tensors of torch's result by the names that a graph gives them."""
    found: Arrays = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[prefix] = value.float().numpy() if value.is_floating_point() else value.numpy()
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else str(name), inner)
        elif isinstance(value, (list, tuple)):
            for index, inner in enumerate(value):
                walk(f"{prefix}.{index}", inner)

    walk("", outputs)
    return found


def _compare(session: Any, feed: Arrays, expected: Arrays, result: Checked, mask: np.ndarray | None = None) -> Arrays:
    """Run the graph and compare each output that torch has under the same name."""
    names = [one.name for one in session.get_outputs()]
    got = dict(zip(names, session.run(None, feed), strict=True))
    common = [name for name in names if name in expected]
    if not common:
        result.problem = f"no output of {names} is among torch's {sorted(expected)}"
        return got
    result.cases += 1
    for name in common:
        _judge(name, got[name], expected[name], result)
    return got


def _judge(name: str, got: np.ndarray, wanted: np.ndarray, result: Checked) -> None:
    if got.shape != wanted.shape:
        result.problem = f"{name} has shape {got.shape}, torch's {wanted.shape}"
        return
    if not got.size:
        return
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(got)):
        result.problem = f"{name}: other values are infinite or NaN than torch's"
        return
    wide, there = wanted[finite].astype(np.float64), got[finite].astype(np.float64)
    scale = max(float(np.abs(wide).max(initial=0)), 1e-6)
    error = float(np.abs(wide - there).max(initial=0)) / scale
    result.error = max(result.error or 0.0, error)
    if error > _TOLERANCE:
        result.problem = f"{name} differs by {error:.1e} of its largest value"


def _state(spec: Any, rows: int) -> np.ndarray:
    """An empty past: no tokens in a cache, zeros in a state of a fixed size."""
    shape = [rows if index == 0 and not isinstance(size, int) else size if isinstance(size, int) else 0
             for index, size in enumerate(spec.shape)]  # fmt: skip
    return np.zeros(shape, _TYPES.get(spec.type, np.float32))


def _decoder(pair: Pair, model: Any, session: Any, loaded: _Loaded, result: Checked) -> None:
    """A prompt in two calls, the second with the cache of the first, against one call of torch on all of it."""
    specs = {one.name: one for one in session.get_inputs()}
    one_token = specs["input_ids"].shape[1] == 1
    vocabulary = min(model.config.get_text_config().vocab_size, 300)
    for number, (rows, tokens) in enumerate(_SIZES[:2]):
        ids = np.random.default_rng(number + 5).integers(40, max(vocabulary - 40, 41), (rows, tokens))
        mask = np.ones_like(ids)
        if number:
            mask[-1, :3] = 0  # a shorter prompt, padded on the left
        takes = inspect.signature(model.forward).parameters
        positions = np.maximum(mask.cumsum(1) - 1, 0)
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        if one_token:  # states have no mask: padding is left to the run time
            given["attention_mask"] = mask = np.ones_like(ids)
        inputs = {name: torch.from_numpy(value) for name, value in given.items() if name in takes}
        with torch.no_grad():
            expected = _named(model(**inputs, use_cache=False))["logits"]
        states = {name: _state(spec, rows) for name, spec in specs.items() if name.startswith("past_")}
        cuts = list(range(tokens + 1)) if one_token else [0, tokens - 4, tokens - 3, tokens]
        logits = []
        for start, end in pairwise(cuts):
            feed = {
                "input_ids": ids[:, start:end],
                "attention_mask": mask[:, :end],
                "position_ids": positions[:, start:end],
            }
            feed = {name: value for name, value in feed.items() if name in specs} | states
            names = [one.name for one in session.get_outputs()]
            got = dict(zip(names, session.run(None, feed), strict=True))
            logits.append(got["logits"])
            states = {
                name: got[name.replace("past_key_values", "present").replace("past_", "present_")] for name in states
            }
        whole = np.concatenate(logits, 1)
        result.cases += 1
        real = mask.astype(bool)
        _judge("logits", whole[real], expected[real], result)


def _encoder_decoder(pair: Pair, model: Any, sessions: dict[str, Any], loaded: _Loaded, result: Checked) -> None:
    """The encoder once, the decoder in two calls, against one call of torch."""
    encoder = sessions["encoder_model"]
    decoder = next(session for name, session in sessions.items() if "decoder" in name)
    fixed: list[str] = []
    for number, (rows, tokens) in enumerate(_SIZES[:2]):
        inputs = dry_run.simple_inputs(model, pair.modality, loaded, rows=rows, tokens=tokens, seed=number + 1)
        assert inputs is not None
        inputs.pop("decoder_input_ids", None)
        _pad(inputs, number)
        ids = np.random.default_rng(number + 7).integers(40, 90, (rows, 7))
        arrays = {name: value.numpy() for name, value in inputs.items()}
        specs = {one.name: one for one in encoder.get_inputs()}
        refused = [f"{name}.{axis}={size}" for name, spec in specs.items() if name in arrays
                   for axis, size in enumerate(spec.shape)
                   if isinstance(size, int) and size != arrays[name].shape[axis]]  # fmt: skip
        if refused:
            fixed += refused
            continue
        with torch.no_grad():
            expected = _named(model(**inputs, decoder_input_ids=torch.from_numpy(ids), use_cache=False))["logits"]
        feed = _feed(specs, arrays, model, number)
        encoded = dict(zip([one.name for one in encoder.get_outputs()], encoder.run(None, feed), strict=True))
        names = {one.name: one for one in decoder.get_inputs()}
        tokens_name = "decoder_input_ids" if "decoder_input_ids" in names else "input_ids"
        states = {
            name: _state(spec, rows)
            for name, spec in names.items()
            if name.startswith("past_") and not {name, name.replace("past_key_values", "present")} & set(encoded)
        }
        given = {name: encoded.get(name, encoded.get(name.replace("past_key_values", "present"))) for name in names}
        logits = []
        for start, end in ((0, 3), (3, 4), (4, 7)):
            step: Arrays = {tokens_name: ids[:, start:end]}
            if "encoder_attention_mask" in names:
                step["encoder_attention_mask"] = arrays.get(
                    "attention_mask", np.ones((rows, next(iter(encoded.values())).shape[-2]), np.int64)
                )
            if "attention_mask" in names:
                step["attention_mask"] = np.ones((rows, end), np.int64)
            if "decoder_attention_mask" in names:
                step["decoder_attention_mask"] = np.ones((rows, end), np.int64)
            if "position_ids" in names:
                step["position_ids"] = np.broadcast_to(np.arange(start, end), (rows, end - start)).astype(np.int64)
            step |= {name: value for name, value in given.items() if value is not None and name not in step} | states
            missing = [name for name in names if name not in step]
            if missing:
                raise ValueError(
                    f"the decoder has inputs {missing} that this script does not know; encoder gives {sorted(encoded)}"
                )
            outputs = [one.name for one in decoder.get_outputs()]
            got = dict(zip(outputs, decoder.run(None, step), strict=True))
            logits.append(got["logits"])
            states = {name: got[name.replace("past_key_values", "present")] for name in states}
        result.cases += 1
        _judge("logits", np.concatenate(logits, 1), expected, result)
    result.fixed = tuple(dict.fromkeys(fixed))
    if not result.cases:
        result.problem = f"no size of its own could be run: {', '.join(result.fixed)}"


def check_in_process(pair: Pair, root: Path) -> dict[str, Any]:
    """Check a converted pair below `root`, as a dictionary for results.jsonl."""
    checked = check(pair, root / "checkpoints" / pair.name, root / "out" / pair.name)
    return json.loads(json.dumps({"right": checked.right, **checked.__dict__}))
