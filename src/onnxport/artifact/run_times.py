"""The lines with which other run times open a folder, by the kind of the folder. Data for the model card."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from onnxport.artifact.embedding_server import missing_for_server
from onnxport.artifact.manifest import Component, Manifest
from onnxport.errors import OnnxPortError, TaskError
from onnxport.tasks import MODULE, Task, find_task
from onnxport.tensor_names import is_past

_TESTED = "Tested by onnxport with folders of this kind."
_NOT_RUN = "Not run by onnxport's tests."
_FASTEMBED_CHECK = "fastembed 0.9.1 gave the embeddings of onnxport.runtime."
_TEI_CHECK = "The folder has what version 1.9 reads; the server was not run."
_TRITON_CHECK = "Triton's message reads config.pbtxt, and each graph loads from the repository; the server was not run."
_COMPARED = "The new graphs are compared with the old ones before they are written."
# Task -> class of optimum's ORTModels; of folders with one graph.
_OPTIMUM = {
    "feature-extraction": "FeatureExtraction", "fill-mask": "MaskedLM", "text-generation": "CausalLM",
    "text-classification": "SequenceClassification", "token-classification": "TokenClassification",
    "question-answering": "QuestionAnswering", "multiple-choice": "MultipleChoice",
    "image-classification": "ImageClassification", "semantic-segmentation": "SemanticSegmentation",
    "audio-classification": "AudioClassification",
}  # fmt: skip


@dataclass(frozen=True)
class RunTime:
    """How one run time opens the folder.

    Attributes:
        name: of the run time.
        language: of the lines: "python", "sh", "js".
        code: the lines, to be run in the folder that holds the folder.
        tested: what onnxport has tried of it, in a sentence.
    """

    name: str
    language: str
    code: str
    tested: str


def run_times(root: Path, manifest: Manifest, name: str) -> tuple[RunTime, ...]:
    """Other run times for a folder.

    Args:
        root: where its files are.
        manifest: its manifest.
        name: what the folder is called; of a path only the last part is used.
    """
    folder = re.sub(r"[\x00-\x1f\x7f]", "?", PurePath(name).name) or "model"
    try:
        task = MODULE if manifest.task == MODULE.name else find_task(manifest.task)
    except TaskError:
        return ()
    return tuple(_all(root, manifest, task, folder))


def _all(root: Path, manifest: Manifest, task: Task, folder: str) -> Iterator[RunTime]:
    word = shlex.quote(folder)
    if task is not MODULE:
        yield RunTime("HTTP server", "sh", f'pip install "onnxport[serve]"\nonnxport serve {word}\n', _TESTED)
    single = manifest.find("model")
    if single is not None:
        yield from _of_one_graph(root, single, task, folder)
    elif _can_go_to_javascript(manifest, task):
        code = f"onnxport target transformers.js {word} {shlex.quote(f'{folder}-js')}\n"
        yield RunTime("transformers.js", "sh", code, _COMPARED)
    if single is not None and task.kind == "decoder" and (root / "tokenizer.json").is_file():
        yield RunTime("onnxruntime-genai", "python", _GENAI.format(word=word, folder=json.dumps(folder)), _TESTED)
    repository = shlex.quote(f"{folder}-triton")
    code = f"onnxport target triton {word} {repository}\ntritonserver --model-repository={repository}\n"
    yield RunTime("Triton", "sh", code, _TRITON_CHECK)


def _of_one_graph(root: Path, graph: Component, task: Task, folder: str) -> Iterator[RunTime]:
    word, string = shlex.quote(folder), json.dumps(folder)
    sentences = next((spec for spec in graph.outputs if spec.name == "sentence_embedding"), None)
    if sentences is not None and (root / "modules.json").is_file():
        yield RunTime("sentence-transformers", "python", _SENTENCE_TRANSFORMERS.format(folder=string), _NOT_RUN)
        code = _FASTEMBED.format(folder=string, width=sentences.axes[-1])
        yield RunTime("fastembed", "python", code, _FASTEMBED_CHECK)
    if task.name in ("feature-extraction", "text-classification") and _serves_embeddings(root, graph):
        # `sentence_embedding` is returned as it is, whatever the option says; hidden states are pooled by it.
        pooling = "" if task.name == "text-classification" else " --pooling mean"
        code = f"text-embeddings-router --model-id {word} --dtype float32{pooling}\n"
        yield RunTime("text-embeddings-inference", "sh", code, _TEI_CHECK)
    if task.name in _OPTIMUM and graph.file == "onnx/model.onnx":
        yield RunTime("optimum", "python", _OPTIMUM_LINES.format(cls=_OPTIMUM[task.name], folder=string), _NOT_RUN)


def _can_go_to_javascript(manifest: Manifest, task: Task) -> bool:
    """Whether this is an encoder-decoder that is not one for transformers.js already."""
    decoder = manifest.find("decoder_model_merged")
    if decoder is None or task.kind == "image-in-text":
        return False
    return all(spec.name != "encoder_hidden_states" for spec in decoder.inputs)


def _serves_embeddings(root: Path, graph: Component) -> bool:
    try:
        return not missing_for_server(root, graph) and not any(is_past(spec.name) for spec in graph.inputs)
    except OnnxPortError:
        return False


_SENTENCE_TRANSFORMERS = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({folder}, backend="onnx")
print(model.encode(["A sentence."]).shape)
"""
_FASTEMBED = """\
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

TextEmbedding.add_custom_model(
    {folder}, pooling=PoolingType.DISABLED, normalization=False, sources=ModelSource(hf={folder}),
    dim={width}, model_file="onnx/model.onnx", output_name="sentence_embedding",
)
model = TextEmbedding({folder}, specific_model_path={folder})
print(next(iter(model.embed(["A sentence."]))).shape)
"""
_OPTIMUM_LINES = """\
from optimum.onnxruntime import ORTModelFor{cls}

model = ORTModelFor{cls}.from_pretrained({folder}, subfolder="onnx", file_name="model.onnx")
"""
_GENAI = """\
# once: onnxport target genai {word}
import onnxruntime_genai as genai

model = genai.Model({folder})
tokenizer = genai.Tokenizer(model)
settings = genai.GeneratorParams(model)
settings.set_search_options(max_length=40)
generator = genai.Generator(model, settings)
generator.append_tokens(tokenizer.encode("Once upon a time"))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
"""
