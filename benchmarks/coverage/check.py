"""Hold a converted folder against torch, at sizes of this script's own.

It shares no code with onnxport: ONNX Runtime runs the graphs as files, transformers loads the checkpoint, and all
inputs are made here. So a mistake in onnxport's own probing, inputs or comparison cannot hide itself.
"""

from __future__ import annotations

import inspect
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.coverage import dry_run
from benchmarks.coverage.comparison import TYPES, Arrays, Checked, compare, empty_state, judge, named
from benchmarks.coverage.images_in_text import images_in_text
from benchmarks.coverage.pairs import Pair
from benchmarks.coverage.without_videos import OWN

# (rows, tokens) of text; none of them is a size that onnxport probes or traces with.
_SIZES = ((1, 9), (3, 23), (4, 37))


class _Loaded:
    """What `dry_run.simple_inputs` reads: preprocessing loaded from a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.side = None
        self.parts: dict[str, Any] = {}
        for name, auto in (("image_processor", "AutoImageProcessor"), ("feature_extractor", "AutoFeatureExtractor"),
                           ("tokenizer", "AutoTokenizer"), ("processor", "AutoProcessor")):  # fmt: skip
            if name == "tokenizer" or list(folder.glob("*processor_config.json")):
                own = name == "processor" and (folder / OWN).is_dir()
                options = {"local_files_only": True, "trust_remote_code": own}
                try:
                    self.parts[name] = getattr(transformers, auto).from_pretrained(
                        folder / OWN if own else folder, **options
                    )
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
        elif "embed_tokens" in sessions:
            images_in_text(model, sessions, loaded, result)
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
        inputs = dry_run.simple_inputs(model, pair.modality, loaded, rows=rows, tokens=tokens, seed=number + 1)
        _pad(inputs, number, model.config)
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
        compare(session, feed, named(expected), result)
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
        compare(decoder, {name: feed[name] for name in taken}, named(expected), result)


def _pad(inputs: dict[str, torch.Tensor], number: int, config: Any) -> None:
    """From the second case on, the last row of tokens is padded on the right; its end token stays the only one."""
    mask, ids = inputs.get("attention_mask"), inputs.get("input_ids")
    if number and mask is not None and ids is not None and mask.shape == ids.shape and len(mask) > 1:
        last = ids[-1, ..., -1].clone()
        pad = getattr(config, "pad_token_id", None)
        mask[-1, ..., -3:] = 0
        ids[-1, ..., -3:] = pad if isinstance(pad, int) and not bool((last == pad).any()) else ids[-1, ..., :1]
        ids[-1, ..., -4] = last


def _feed(specs: dict[str, Any], arrays: Arrays, model: Any, number: int) -> Arrays:
    """Inputs of the graph; those that the modality does not have are zeros, or positions."""
    feed: Arrays = {}
    like = arrays.get("input_ids", next(iter(arrays.values())))
    for name, spec in specs.items():
        if name in arrays:
            feed[name] = arrays[name].astype(TYPES.get(spec.type, np.float32))
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
            expected = named(model(**inputs, use_cache=False))["logits"]
        states = {name: empty_state(spec, rows) for name, spec in specs.items() if name.startswith("past_")}
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
        judge("logits", whole[real], expected[real], result)


def _encoder_decoder(pair: Pair, model: Any, sessions: dict[str, Any], loaded: _Loaded, result: Checked) -> None:
    """The encoder once, the decoder in two calls, against one call of torch."""
    encoder = sessions["encoder_model"]
    decoder = next(session for name, session in sessions.items() if "decoder" in name)
    takes = inspect.signature(model.forward).parameters
    fixed: list[str] = []
    for number, (rows, tokens) in enumerate(_SIZES[:2]):
        inputs = dry_run.simple_inputs(model, pair.modality, loaded, rows=rows, tokens=tokens, seed=number + 1)
        inputs.pop("decoder_input_ids", None)
        if pair.modality in ("image", "sound"):
            inputs.pop("input_ids", None)
        _pad(inputs, number, model.config)
        ids = np.random.default_rng(number + 7).integers(40, 90, (rows, 7))
        arrays = {name: value.numpy() for name, value in inputs.items()}
        specs = {one.name: one for one in encoder.get_inputs()}
        refused = [f"{name}.{axis}={size}" for name, spec in specs.items() if name in arrays
                   for axis, size in enumerate(spec.shape)
                   if isinstance(size, int) and size != arrays[name].shape[axis]]  # fmt: skip
        if refused:
            fixed += refused
            continue
        name = "decoder_input_ids" if "decoder_input_ids" in takes else "input_ids"
        with torch.no_grad():
            expected = named(model(**{**inputs, name: torch.from_numpy(ids)}, use_cache=False))["logits"]
        feed = _feed(specs, arrays, model, number)
        encoded = dict(zip([one.name for one in encoder.get_outputs()], encoder.run(None, feed), strict=True))
        names = {one.name: one for one in decoder.get_inputs()}
        tokens_name = "decoder_input_ids" if "decoder_input_ids" in names else "input_ids"
        states = {
            name: empty_state(spec, rows)
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
        judge("logits", np.concatenate(logits, 1), expected, result)
    result.fixed = tuple(dict.fromkeys(fixed))
    if not result.cases:
        result.problem = f"no size of its own could be run: {', '.join(result.fixed)}"


def check_in_process(pair: Pair, root: Path) -> dict[str, Any]:
    """Check a converted pair below `root`, as a dictionary for results.jsonl."""
    checked = check(pair, root / "checkpoints" / pair.name, root / "out" / pair.name)
    return json.loads(json.dumps({"right": checked.right, **checked.__dict__}))
