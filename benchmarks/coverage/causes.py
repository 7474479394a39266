"""What the messages of pairs that fall short have in common: message -> cause."""

from __future__ import annotations

import re
from typing import Any

LIBRARY = re.compile(
    r"requires the .*(timm|[Tt]orchvision|torchaudio|detectron2|natten|essentia|librosa|mistral-common|PyTesseract)|"
    r"Package `\w+` is required|needs torchvision"
)

# In this order: the first that is found is the cause.
_CAUSES: tuple[tuple[str, str], ...] = (
    (LIBRARY.pattern, "a library that was not installed"),
    (r"no processor for texts with images|has no processor|processor", "no processor could be made or used"),
    (r"image tokens|image features", "images in text: features and tokens do not fit"),
    (r"no feature extractor", "no feature extractor"),
    (r"depend on values|data-dependent|unbacked", "control flow that depends on values"),
    (r"axis bounds|onstraints violated|specialized", "axes that the code of the model ties or fixes"),
    (r"longer than \d+ s", "the conversion takes too long"),
    (r"its process ended|Its process ended", "the process ended"),
    (r"not used|unused", "weights that the graph does not use"),
    (r"does not run on", "the model does not run on the inputs that onnxport makes"),
    (r"cannot be loaded|does not load", "loading"),
    (r"cannot do|none of the tasks|is for none", "no row of the task table"),
    (r"cannot capture", "torch.export"),
    (r"ONNX Runtime|onnxruntime", "ONNX Runtime"),
    (r"no size of its own", "sizes that the check uses are fixed"),
    (r"does not know|no check for|no output of", "the check does not know the graph"),
)  # fmt: skip


def cause_of(line: dict[str, Any]) -> str:
    """The cause of a result that is not right, in a few words; "other" where no rule fits."""
    if line["status"] == "not built" and not re.search(_CAUSES[0][0], str(line.get("message"))):
        return "the builder"
    if line["status"] == "torch fails":
        return "torch does not run the checkpoint that was built"
    text = f"{line.get('message', '')} {' '.join(line.get('check', {}).get('fixed', ()))}"
    if line["status"] == "restricted" and line.get("restrictions"):
        axes = sorted({rule["axis"] for rule in line["restrictions"] if str(rule.get("rule", "")).startswith("fixed")})
        return f"fixed: {', '.join(axes)}" if axes else "a fixed size"
    return next((cause for pattern, cause in _CAUSES if re.search(pattern, text)), "other")
