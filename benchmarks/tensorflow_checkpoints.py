"""What converts of transformers' TF classes, in the managed environment that has them (`onnxport env create`).

    .venv/bin/python benchmarks/tensorflow_checkpoints.py              # the checkpoints of tests/tiny_tensorflow.py
    .venv/bin/python benchmarks/tensorflow_checkpoints.py bert t5      # those whose name contains a word
    .venv/bin/python benchmarks/tensorflow_checkpoints.py --families   # one class of every family that has TF classes

The first prints opset, axes, cases, the largest error and what a conversion costs as a process; the second whether a
tiny random model of the class converts, and if not, why. Both write benchmarks/results/.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "src")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
RESULTS = ROOT / "benchmarks" / "results"

# What makes a model small, by whatever names its configuration has for it.
_SMALL = {
    "hidden_size": 32, "d_model": 32, "dim": 32, "n_embd": 32, "embed_dim": 32, "emb_dim": 32, "embedding_size": 32,
    "num_hidden_layers": 2, "n_layers": 2, "n_layer": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2, "num_attention_heads": 4, "n_heads": 4, "n_head": 4, "num_heads": 4,
    "num_key_value_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "attention_heads": 4,
    "intermediate_size": 48, "hidden_dim": 48, "d_ff": 48, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "ffn_dim": 48,
    "d_inner": 48, "dff": 48, "d_kv": 8, "d_head": 8, "rotary_dim": 4, "word_embed_proj_dim": 32, "vocab_size": 120,
    "max_position_embeddings": 128, "n_positions": 128, "image_size": 32, "patch_size": 8, "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_mel_bins": 16,
    "max_source_positions": 50, "max_target_positions": 96, "decoder_start_token_id": 1, "block_sizes": [1, 1],
    "attention_window": 8, "projection_dim": 16,
}  # fmt: skip
# The task that says most about a family is tried.
_AUTO = (
    "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq", "AutoModelForMaskedLM",
    "AutoModelForImageClassification", "AutoModelForSemanticSegmentation", "AutoModelForZeroShotImageClassification",
    "AutoModelForCTC", "AutoModelForImageTextToText", "AutoModel",
)  # fmt: skip


def main(words: list[str]) -> None:
    _be_in_the_environment()
    if words[:1] == ["--families"]:
        _families(words[1:])
        return
    from measure import measure

    from tests.tiny_tensorflow import TABLE

    rows = []
    print("| model | task | weights | opset | dynamic axes | fixed | cases | max error | CPU s | peak RSS MB |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    environment = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    with tempfile.TemporaryDirectory() as folder:
        names = [name for name in TABLE if not words or any(word in name for word in words)]
        made = measure([sys.executable, "-m", "tests.tiny_tensorflow", folder, *names], environment=environment)
        if made.failure:
            raise SystemExit(made.stderr[-2000:])
        for name in names:
            tiny, model, output = TABLE[name], Path(folder) / name, Path(folder) / f"{name}-onnx"
            command = [sys.executable, "-m", "onnxport", "convert", model, output, "--task", tiny.task, "--json"]
            done = measure([*map(str, command)], environment=environment)
            row = {"model": tiny.cls, "task": tiny.task, "weights": tiny.saved, "cpu_s": done.cpu_s}
            if done.failure:
                row["failure"] = done.failure
                print(f"| {tiny.cls} | {tiny.task} | {tiny.saved} | {done.failure} | | | | | | |", flush=True)
            else:
                row |= _facts(json.loads(done.stdout)["components"]) | {"peak_rss": done.peak_rss}
                print(_line(row), flush=True)
            rows.append(row)
    _save("tensorflow_checkpoints.json", rows)


def _be_in_the_environment() -> None:
    """Begin again with the interpreter that has TF classes, if this one has none."""
    from onnxport.environments import require
    from onnxport.loading.resolve import HF_TENSORFLOW, has_tensorflow_classes

    if not has_tensorflow_classes():
        python = str(require(HF_TENSORFLOW))
        os.execv(python, [python, *sys.argv])


def _facts(components: list[dict[str, Any]]) -> dict[str, Any]:
    axes = [axis for part in components for spec in part["inputs"] for axis in spec["axes"] if isinstance(axis, str)]
    fixed = [f"{r['axis']} ({r['rule']})" for p in components for r in p["restrictions"] if r["rule"][:5] == "fixed"]
    checks = [case for part in components for case in part["verification"]["cases"]]
    outputs = [output for case in checks for output in case["outputs"]]
    return {
        "opset": components[0]["opset"],
        "dynamic": list(dict.fromkeys(axes)),
        "fixed": fixed,
        "cases": len(checks),
        "max_abs_error": max(output["max_abs_error"] for output in outputs),
    }


def _line(row: dict[str, Any]) -> str:
    cells = [row["model"], row["task"], row["weights"], str(row["opset"]), ", ".join(row["dynamic"])]
    cells += [", ".join(row["fixed"]), str(row["cases"]), f"{row['max_abs_error']:.1e}", f"{row['cpu_s']:.1f}"]
    return "| " + " | ".join([*cells, f"{row['peak_rss'] / 1e6:.0f}"]) + " |"


def _families(words: list[str]) -> None:
    from onnxport.sources.tensorflow.source import tensorflow
    from onnxport.system.output_capture import capture_process

    tensorflow()
    from transformers.models.auto.modeling_tf_auto import TF_MODEL_MAPPING_NAMES

    rows = []
    print("| class | result |\n|---|---|")
    for family in [*TF_MODEL_MAPPING_NAMES, "encoder-decoder", "vision-encoder-decoder"]:
        if words and not any(word in family for word in words):
            continue
        with capture_process():
            name, result = _family(family)
        rows.append({"family": family, "class": name, "result": result})
        print(f"| {name} | {result} |", flush=True)
    print(f"{sum(row['result'].startswith('converted') for row in rows)} of {len(rows)} converted and verified")
    _save("tensorflow_families.json", rows)


def _family(family: str) -> tuple[str, str]:
    import transformers

    from onnxport import OnnxPortError, convert
    from onnxport.loading.model_classes import class_named, class_names
    from onnxport.tasks import TASKS
    from tests.tiny_tensorflow import _draw

    auto, name = next(((auto, names[0]) for auto in _AUTO if (names := class_names(auto, family, "tf"))), ("", family))
    if not auto:
        return f"TF {family}", "no class for a task of the table"
    task = next(row.name for row in TASKS if auto in row.auto)
    try:
        usual = transformers.AutoConfig.for_model(family)
        known = usual.to_dict()
        values = {key: value for key, value in _SMALL.items() if isinstance(known.get(key), type(value))}
        if auto == "AutoModelForCausalLM":
            values["is_decoder"] = True
        if "hidden_sizes" in known or "hidden_size" not in known:
            values.pop("patch_size", None)  # of networks of several sizes it belongs to those
        for token in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
            if isinstance(known.get(token), int) and known[token] >= _SMALL["vocab_size"]:
                values[token] = 1
        cls: Any = class_named(name, "tf")
        model = cls(cls.config_class(**values))
        model.build_in_name_scope()
        _draw(model, 0)
    except Exception as error:
        return f"TF{name}", f"no tiny model of it was made ({_short(error)})"
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / "model")
        try:
            kept = "auto" if auto == "AutoModel" else task
            conversion = convert("tf", Path(folder) / "model", Path(folder) / "out", pipeline_name=kept)
        except OnnxPortError as error:
            return f"TF{name}", f"{type(error).__name__}: {_short(error)}"
        except Exception as error:
            return f"TF{name}", f"UNEXPECTED {type(error).__name__}: {_short(error)}"
    worst = max(part.verification.max_abs_error for part in conversion.manifest.components if part.verification)
    return f"TF{name}", f"converted ({conversion.manifest.task}), largest error {worst:.1e}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:220].replace("|", "/")


def _save(name: str, rows: list[dict[str, Any]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
