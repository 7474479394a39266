"""The model card: README.md of a folder, made from its manifest, and from its configs for other run times.

No times, no absolute paths: equal manifests give equal cards.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

from onnxport.artifact.card_calls import IMAGE_TEXT_PROCESSORS, call_of, javascript_dtype
from onnxport.artifact.data_files import data_name
from onnxport.artifact.manifest import Component, Manifest
from onnxport.artifact.run_times import RunTime, run_times
from onnxport.errors import FolderError, MissingDependencyError, TaskError
from onnxport.formats.json_file import read_object_if_present
from onnxport.specs import CaseCheck, OutputCheck, TensorSpec, Verification
from onnxport.tasks import MODULE, find_task

CARD_NAME = "README.md"
_FRAMEWORKS = {"pt": "PyTorch", "tf": "TensorFlow"}
# Sizes for the ONNX Runtime example where no verified case gives one.
_SIZES = {"batch_size": 1, "height": 224, "width": 224}
_OTHER_SIZE = 8
_STATIC = "_fixed"  # ending of a graph with static shapes, made from another one


def render_card(
    manifest: Manifest,
    folder_name: str,
    *,
    tokenizer: bool = False,
    others: Sequence[RunTime] = (),
    processor: str | None = None,
) -> str:
    """The Markdown text of the card, with the YAML header that model hubs read.

    Args:
        manifest: with at least one component.
        folder_name: last part of the folder's path; of a path only that part is used.
        tokenizer: the folder has a tokenizer.json, with which texts are read and written without a framework.
        others: other run times for the folder, of `run_times`.
        processor: class of the processor of texts with images.

    Raises:
        FolderError: the manifest has no components.
        MissingDependencyError: jinja2 is not installed (it comes with the extras).
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError(
            "Writing a model card needs the package 'jinja2', which is not installed. README.md was not written.",
            hint="pip install 'onnxport[pytorch]' or pip install 'onnxport[tensorflow]'",
        ) from error
    if not manifest.components:
        raise FolderError("The manifest has no components, so there is nothing to describe. README.md was not written.")
    environment = jinja2.Environment(
        autoescape=False,  # Markdown, not HTML: `text` and `code` escape
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "text": _text,
        "code": _code,
        "string": json.dumps,
        "megabytes": lambda count: f"{count / 1e6:,.1f} MB" if count else "",
        "rows": _rows,
    }
    template = resources.files(__package__).joinpath("card.md.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        _context(manifest, folder_name, tokenizer=tokenizer, processor=processor) | {"others": others}
    )


def card_of(root: Path, manifest: Manifest, name: str) -> str:
    """The card of the folder `root`, called `name`, with the other run times for it; raises as `render_card`."""
    others = run_times(root, manifest, name)
    processor = read_object_if_present(root / "processor_config.json").get("processor_class")
    tokenizer = (root / "tokenizer.json").is_file()
    return render_card(manifest, name, tokenizer=tokenizer, others=others, processor=processor)


def replace_card(root: Path, manifest: Manifest, name: str) -> None:
    """A new card in the folder `root`, called `name`, where its template engine is installed; else the old one stays.

    An old card may be a hard link to that of another folder, which stays as it is.
    """
    try:
        text = card_of(root, manifest, name)
    except MissingDependencyError:
        return
    card = root / CARD_NAME
    card.unlink(missing_ok=True)
    card.write_text(text, encoding="utf-8")


def _context(manifest: Manifest, folder_name: str, *, tokenizer: bool, processor: str | None) -> dict[str, Any]:
    # A newline in a name would end the code block that it stands in.
    folder = re.sub(r"[\x00-\x1f\x7f]", "?", PurePath(folder_name).name) or "model"
    main = next((c for c in manifest.components if c.name == "model"), manifest.components[0])
    call = call_of(manifest.task)
    try:
        task = MODULE if manifest.task == MODULE.name else find_task(manifest.task)
        summary, example = task.summary, task.example
    except TaskError:
        summary, example = "", "INPUT"
    javascript = _javascript(manifest, main) if call.javascript is not None else None
    return {
        "manifest": manifest,
        "main": main,
        "folder": folder,
        "source": PurePath(manifest.source).name if PurePath(manifest.source).is_absolute() else manifest.source,
        "framework": _FRAMEWORKS.get(manifest.framework, manifest.framework),
        "summary": summary,
        "numbers": manifest.task == MODULE.name,
        "pipeline_tag": call.hub_tag,
        "tags": ["onnx", "onnxport", *(["transformers.js"] if javascript else [])],
        "shell_folder": shlex.quote(folder),
        "shell_example": example,
        "python_arguments": call.python,
        "extra": _extra(manifest, processor),
        "writer": _writer(manifest) if tokenizer else None,
        "graph_path": f"{folder}/{main.file}",
        "numpy_inputs": [_numpy_input(tensor, _sizes(main)) for tensor in main.inputs],
        "javascript": javascript,
        "static": [c.name for c in manifest.components if c.name == f"{c.derived_from}{_STATIC}"],
    }


def _extra(manifest: Manifest, processor: str | None) -> str:
    """The extra that prepares the inputs of the folder's task; "" for the base install."""
    try:
        kind = find_task(manifest.task).kind
    except TaskError:
        return "pytorch"
    if kind == "image-in-text":
        return "images" if processor in IMAGE_TEXT_PROCESSORS else "pytorch"
    return "images" if kind in ("image", "image+texts") else ""


def _writer(manifest: Manifest) -> tuple[str, str] | None:
    """(module, class) of what writes the folder's texts without a framework; None where nothing does."""
    try:
        task = find_task(manifest.task)
    except TaskError:
        return None
    if task.kind == "decoder":
        return "onnxport.runtime.text_generation", "TextGenerator"
    if task.kind == "text" and task.generates:
        return "onnxport.runtime.sequence_generation", "TextToTextGenerator"
    return None


def _sizes(component: Component) -> dict[str, int]:
    """Axis to a size that was verified, so that the example keeps the restrictions."""
    sizes = dict(_SIZES)
    for case in reversed(component.verification.cases if component.verification else ()):
        if case.ok:
            sizes |= case.sizes
    return sizes


def _numpy_input(tensor: TensorSpec, sizes: dict[str, int]) -> str:
    """One line of the inputs of the ONNX Runtime example, axis names in a comment."""
    shape = tuple(axis if isinstance(axis, int) else sizes.get(axis, _OTHER_SIZE) for axis in tensor.axes)
    if tensor.dtype in ("str", "object", "string"):
        value = f'np.full({shape}, "text", dtype=object)'
    else:
        # Ones: a token that every vocabulary has, and a mask that hides nothing.
        value = f"np.ones({shape}, dtype={json.dumps(tensor.dtype)})"
    names = ", ".join(str(axis) for axis in tensor.axes)
    return f"{json.dumps(tensor.name)}: {value}," + (f"  # {_one_line(names)}" if names else "")


def _javascript(manifest: Manifest, main: Component) -> dict[str, str] | None:
    """What the transformers.js example needs; None if it would not find the graph."""
    call = call_of(manifest.task)
    dtype = javascript_dtype(main.file)
    inputs = {spec.name for part in manifest.components for spec in part.inputs}
    pair = "encoder_hidden_states" in inputs
    # An encoder alone is no use there, nor one whose decoder wants more than its hidden states.
    if dtype is None or (PurePath(main.file).name.startswith("encoder_") and not pair):
        return None
    options = f'{{ dtype: "{dtype}"'
    # transformers.js looks for as many files of these names as it is told.
    count = next(number for number in itertools.count() if data_name(main.file, number) not in manifest.files)
    if count and not pair:  # that of several graphs is in config.json
        options += f", use_external_data_format: {'true' if count == 1 else count}"
    return {
        "task": call.javascript_task or manifest.task,
        "options": options + " }",
        "arguments": call.javascript or "",
        "comment": call.javascript_comment,
    }


@dataclass(frozen=True)
class _Row:
    """One case of the verification table, as text; `sizes` is Markdown already."""

    case: str
    sizes: str
    output: str
    source: str
    graph: str
    tolerance: str
    agreement: str
    verdict: str


def _rows(verification: Verification) -> list[_Row]:
    return [_row(case) for case in verification.cases]


def _row(case: CaseCheck) -> _Row:
    sizes = ", ".join(f"{_code(axis)} {size}" for axis, size in case.sizes.items())
    agreement = ""
    if case.decision_agreement is not None:
        agreement = f"{case.decision or 'all'}: {case.decision_agreement:.1%}"
    verdict = "passed" if case.ok else f"failed: {case.error}" if case.error else "failed"
    if not case.outputs:
        return _Row(case.name, sizes, "", "", "", "", agreement, verdict)
    worst = max(case.outputs, key=_badness)
    return _Row(
        case.name,
        sizes,
        worst.name,
        "" if worst.source_error is None else f"{worst.source_error:.2e}",
        f"{worst.judged_error:.2e}",
        f"{worst.tolerance:.2e}",
        agreement,
        verdict,
    )


def _badness(check: OutputCheck) -> tuple[bool, float]:
    """Orders outputs by how near they are to failing, or how far beyond."""
    ratio = check.judged_error / check.tolerance if check.tolerance else check.judged_error
    return not check.ok, math.inf if math.isnan(ratio) else ratio


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _text(value: object) -> str:
    """Prose from a checkpoint or a framework, harmless in a Markdown table."""
    escaped = re.sub(r"([\\`*_\[\]|])", r"\\\1", _one_line(value))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(value: object) -> str:
    """A name as code span; backticks would end it."""
    return "`" + _one_line(value).replace("`", "'").replace("|", "\\|") + "`"
