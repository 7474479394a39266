"""What a published fault changed: bytes that a user has, and the outputs of the graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.planted.fault import Fault

_TOLD_BY_OTHERS = ("onnxport.json", "README.md")  # hold hashes, times and errors, which differ in any case
_ROWS, _LONG = 20, 300
_ROUNDING = 5e-6  # of the scale: two graphs that compute the same differ by less


def effect(fault: Fault, sound: Path, published: Path) -> dict[str, Any]:
    """Compare what was published with what the sound conversion published.

    Returns:
        Fields of a `Result`.
    """
    found = {"fault": fault.name}
    differ = sorted(_differing(sound, published))
    graphs = [name for name in differ if name.endswith((".onnx", "_data", ".weights.json"))]
    files = [name for name in differ if name not in (*graphs, "onnxport.json")]
    told = f"differ: {', '.join(differ)}" if differ else "all files are equal"
    if refusal := _refused(published):
        return {**found, "outcome": "found later", "effect": f"verify: {refusal}; {told}"}
    if fault.stage == "checkpoint":
        return {**found, "effect": f"what the checkpoint has more is lost without a word; {told}"}
    moved = [
        text
        for name in graphs if name.endswith(".onnx")
        for text in (_tables(sound, published, name), _moved(sound, published, name)) if text
    ]  # fmt: skip
    if files or moved or (graphs and fault.stage in ("disk", "verified", "staged")):
        return {**found, "effect": "; ".join([told, *moved])}
    if graphs and "onnxport.json" in differ:
        said = f"{told}, and the manifest rules out the sizes at which outputs differ"
        return {**found, "outcome": "restricted", "effect": said}
    if graphs:
        return {**found, "outcome": "no effect", "effect": f"{told}, and no output differs by more than rounding"}
    return {**found, "outcome": "no effect", "effect": told}


def _differing(sound: Path, published: Path) -> Iterator[str]:
    roots = [path if path.is_dir() else path.parent for path in (sound, published)]
    names = {p.relative_to(root).as_posix() for root in roots for p in root.rglob("*") if p.is_file()}
    for name in names:
        one, other = roots[0] / name, roots[1] / name
        if name in _TOLD_BY_OTHERS:
            if name.endswith(".json") and _declared(one) != _declared(other):
                yield name
        elif not (one.is_file() and other.is_file()) or one.read_bytes() != other.read_bytes():
            yield name


def _declared(manifest: Path) -> Any:
    """What a manifest says of inputs and outputs."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        kept = ("inputs", "outputs", "restrictions", "file", "precision", "opset")
        return [{key: component.get(key) for key in kept} for component in content["components"]], content["task"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refused(published: Path) -> str:
    import onnxport

    try:
        found = onnxport.verify(published)
    except onnxport.OnnxPortError as error:
        return str(error).splitlines()[0][:200]
    return "" if found.ok else "not ok"


def _tables(sound: Path, published: Path, name: str) -> str:
    """Which tables differ, and in which rows: random inputs read only some of them."""
    import onnx

    roots = [path if path.is_dir() else path.parent for path in (sound, published)]
    try:
        graphs = [onnx.load(root / name).graph for root in roots]
    except Exception:  # broken, which other lines tell
        return ""
    read = {node.input[0] for node in graphs[0].node if node.op_type == "Gather"}
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graphs[0].initializer if tensor.name in read}
    for tensor in graphs[1].initializer:
        one = known.get(tensor.name)
        if one is None or one.ndim < 2:
            continue
        rows = np.flatnonzero((one != onnx.numpy_helper.to_array(tensor)).reshape(len(one), -1).any(1))
        if len(rows):
            return f"{len(rows)} rows of {tensor.name} differ, the first is {rows[0]}"
    return ""


def _moved(sound: Path, published: Path, name: str) -> str:
    """By how much outputs differ; empty where it is no more than rounding."""
    import onnxruntime

    roots = [path if path.is_dir() else path.parent for path in (sound, published)]
    paths = [root / name for root in roots]
    if not all(path.is_file() for path in paths):
        return f"{name} is missing"
    try:
        sessions = [onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in paths]
    except Exception as error:  # whatever the run time says
        return f"{name} does not load: {str(error)[:100]}"
    shapes = [[(i.name, i.type, len(i.shape)) for i in session.get_inputs()] for session in sessions]
    if shapes[0] != shapes[1]:
        return f"{name} has other inputs"
    worst, where = 0.0, ""
    holds = _restrictions(roots[1], name)
    for inputs, label in _inputs(sessions[0], roots[0]):
        if not holds(sessions[0], inputs):
            continue
        try:
            wanted = sessions[0].run(None, inputs)
        except Exception:  # sizes that this model does not take
            continue
        try:
            given = sessions[1].run(None, inputs)
        except Exception:
            return f"{name} does not run at {label}"
        for one, other in zip(wanted, given, strict=False):
            if one.shape != other.shape:
                return f"{name} gives another shape at {label}"
            scale = float(np.abs(np.nan_to_num(one.astype(np.float64), posinf=0, neginf=0)).max(initial=0)) or 1.0
            far = float(np.nan_to_num(np.abs(one.astype(np.float64) - other), nan=0).max(initial=0)) / scale
            if far > worst:
                worst, where = far, label
    return f"{name}: outputs move by {worst:.1e} of their scale at {where}" if worst > _ROUNDING else ""


def _restrictions(published: Path, name: str) -> Callable[[Any, dict[str, np.ndarray]], bool]:
    """Whether a graph's manifest allows the sizes of these inputs."""
    from onnxport.specs import Restriction

    try:
        content = json.loads((published / "onnxport.json").read_text(encoding="utf-8"))
        component = next(one for one in content["components"] if one["file"] == name)
        rules = [Restriction.from_rule(one["axis"], one["rule"], "") for one in component["restrictions"]]
    except (OSError, ValueError, KeyError, StopIteration):
        rules = []

    def holds(session: Any, inputs: dict[str, np.ndarray]) -> bool:
        sizes = {
            str(axis): size for spec in session.get_inputs()
            for axis, size in zip(spec.shape, inputs[spec.name].shape, strict=True)
        }  # fmt: skip
        return all(rule.holds(sizes) for rule in rules)

    return holds


def _inputs(session: Any, root: Path) -> Iterator[tuple[dict[str, np.ndarray], str]]:
    """Random inputs at small and large sizes, with and without padding."""
    vocabulary = _number(root, "vocab_size", 30)
    for rows, length, past in (
        (2, 7, 3),
        (2, 1, 0),
        (2, 1, 5),
        (_ROWS, 9, 2),
        (1, 64, 0),
        (1, _LONG, 0),
        (2, 3, 150),
        (1, 500, 0),
    ):
        for padded in (False, True):
            rng = np.random.default_rng(rows * length)
            made = {i.name: _array(i, rows, length, past, padded, vocabulary, rng) for i in session.get_inputs()}
            yield made, f"{rows} x {length}{f' after {past}' if past else ''}{' padded' if padded else ''}"


def _array(
    spec: Any, rows: int, length: int, past: int, padded: bool, vocabulary: int, rng: np.random.Generator
) -> np.ndarray:  # fmt: skip
    shape = [
        size if isinstance(size, int)
        else rows if "batch" in str(size) else past + length if "total" in str(size) or "+" in str(size)
        else past if "past" in str(size) else {"height": 64, "width": 64, "num_samples": 4000}.get(str(size), length)
        for size in spec.shape
    ]  # fmt: skip
    dtype = {"float": "float32", "int64": "int64", "int32": "int32", "bool": "bool"}[spec.type[7:-1]]
    if dtype == "float32":
        return rng.standard_normal(shape).astype(dtype)
    if "num_logits" in spec.name:
        return np.array(0, dtype)
    if "mask" in spec.name or dtype == "bool":
        mask = np.ones(shape, dtype)
        if padded and mask.ndim == 2:
            mask[0, -(length // 3 + 1) :] = 0
        return mask
    if spec.name == "position_ids":
        return np.broadcast_to(np.arange(past, past + length), shape).astype(dtype)
    if spec.name == "token_type_ids":
        return (np.arange(length) > length // 2).astype(dtype) * np.ones(shape, dtype)
    if spec.name == "bbox":
        low = rng.integers(0, 500, (*shape[:-1], 2))
        return np.concatenate([low, low + 100], -1).astype(dtype)
    return rng.integers(0, vocabulary, shape).astype(dtype)


def _number(root: Path, key: str, default: int) -> int:
    try:
        config = json.loads((root / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default
    return int(config.get(key) or (config.get("text_config") or {}).get(key) or default)
