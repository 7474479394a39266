"""Texts with images without a framework: the arrays of transformers' processors, and the answers of its pipeline."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from onnxport import pipeline
from onnxport.errors import UnknownPreprocessingError, UsageError
from onnxport.formats.json_file import read_object
from onnxport.runtime.pipeline import open_pipeline
from onnxport.runtime.preprocessing.images.processor import read_image_processor
from onnxport.runtime.preprocessing.images_in_text import read_image_text_processor
from tests import tiny_tokenizers
from tests.sample import sampled
from tests.tiny_images_in_text import IMAGE, TABLE, processor_of

pytestmark = pytest.mark.integration

NAMES = ["llava", "gemma3", "smolvlm"]
TEXT = {"vocab_size": 400, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {% for part in m.content %}"
    "{% if part.type == 'image' %}MARKER{% else %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}[assistant]"
)
WITHOUT = "import sys; sys.modules.update(torch=None, transformers=None); from onnxport.cli.main import main; "


def picture(seed):
    height, width = 40 + 9 * seed, 80 - 11 * seed
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def stretched(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


SIZES = [(40, 80), (31, 31), (500, 20), (20, 300), (64, 65), (33, 97)]


def saved_processor(name, folder, **changes):
    """transformers' processor alone, without a model; and a folder that has it."""
    tokenizer = tiny_tokenizers.roberta()
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    processor = TABLE[name][1](TEXT, tokenizer, tokenizer.convert_tokens_to_ids(IMAGE))[1]
    for attribute, value in changes.items():
        inner, _, last = attribute.rpartition(".")
        setattr(getattr(processor, inner) if inner else processor, last, value)
    processor.save_pretrained(folder)
    return processor


def same_arrays(found, wanted):
    assert found.keys() == wanted.keys() - {"num_crops"}
    for key, array in found.items():
        assert array.dtype == wanted[key].dtype and np.array_equal(array, wanted[key]), key


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llava", {}),
        ("llava", {"vision_feature_select_strategy": "full"}),
        ("llava", {"num_additional_image_tokens": 0, "vision_feature_select_strategy": "full", "patch_size": 4}),
        ("gemma3", {}),
        ("gemma3", {"image_processor.do_pan_and_scan": True}),
        ("idefics3", {}),
        ("smolvlm", {"image_processor.do_image_splitting": False, "image_seq_len": 9}),
    ],
)
def test_the_arrays_of_transformers(tmp_path, name, changes):
    processor = saved_processor(name, tmp_path, **changes)
    own = read_image_text_processor(tmp_path)
    assert own.marker == processor.image_token and own.chat_template is False
    for count, text in ((1, f"{own.marker}\nWhat is this?"), (2, f"Who {own.marker} is {own.marker} this?")):
        for size in SIZES:
            images = [stretched(*size, seed) for seed in range(count)]
            same_arrays(own(images, text), processor(images=images, text=[text], return_tensors="np"))
    with pytest.raises(UsageError):
        own([picture(1)], "no marker")


@pytest.mark.parametrize("changes", [{}, {"patch_size": 4, "size": {"shortest_edge": 256, "longest_edge": 1600}}])
def test_patches_with_a_grid(tmp_path, changes):
    """The processor of Qwen2-VL itself needs torchvision; its text is a marker for each row of features."""
    tokenizer, images = tiny_tokenizers.roberta(), transformers.Qwen2VLImageProcessorPil(**changes)
    tokenizer.add_tokens(["<|image_pad|>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    images.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    own = {}
    # As older files have it, and as transformers 5 writes it.
    size = settings.pop("size")
    older = {**settings, "min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    for name, found in (("Qwen2VLProcessor", older), ("Qwen2_5_VLProcessor", {**settings, "size": size})):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**found, "processor_class": name}))
        own[name] = read_image_text_processor(tmp_path)
    assert {processor.name for processor in own.values()} == set(own)
    for size in [*SIZES, (300, 420)]:
        pictures = [stretched(*size), stretched(64, 48, 1)]
        wanted = images(pictures, return_tensors="np")
        counts = [int(grid.prod()) // 4 for grid in wanted["image_grid_thw"]]
        whole = f"a {'<|image_pad|>' * counts[0]} b {'<|image_pad|>' * counts[1]}"
        wanted |= dict(tokenizer([whole], return_tensors="np"))
        image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        wanted["mm_token_type_ids"] = (wanted["input_ids"] == image).astype(np.int64)
        for processor in own.values():
            same_arrays(processor(pictures, "a <|image_pad|> b <|image_pad|>"), wanted)
    with pytest.raises(UsageError):
        own["Qwen2VLProcessor"]([stretched(3, 900)], "<|image_pad|>")


def test_the_texts_of_tiles(tmp_path):
    """SmolVLM's own processor needs torchvision and num2words; its text comes from this function."""
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    saved_processor("smolvlm", tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps({**settings, "processor_class": "SmolVLMProcessor"}))
    own = read_image_text_processor(tmp_path)
    for size in SIZES:
        rows, columns = (int(n) for n in _grid_of(own.rules.read(stretched(*size)).text))
        wanted = get_image_prompt_string(rows, columns, 4, "<fake_token_around_image>", IMAGE, "<global-img>")
        assert own.rules.read(stretched(*size)).text == wanted


def _grid_of(text):
    found = re.findall(r"<row_(\d+)_col_(\d+)>", text)
    return found[-1] if found else (0, 0)


def test_what_is_not_here_is_named(tmp_path):
    saved_processor("idefics3", tmp_path / "tiles")
    with pytest.raises(UnknownPreprocessingError, match="Idefics3"):
        read_image_processor(tmp_path / "tiles")  # of a task with one array for each image
    settings = json.loads((tmp_path / "tiles/processor_config.json").read_text())
    for name, match in (("LlavaProcessor", "Idefics3"), ("FuyuProcessor", "Fuyu")):
        (tmp_path / "tiles/processor_config.json").write_text(json.dumps({**settings, "processor_class": name}))
        with pytest.raises(UnknownPreprocessingError, match=match):
            read_image_text_processor(tmp_path / "tiles")


@pytest.mark.parametrize("name", sampled(NAMES, "llava"))
def test_the_answers_of_transformers(converted, tmp_path, name):
    tiny = converted(name, {"vocabulary": 2000})
    assert tiny.conversion.manifest.folder_run.equal and not tiny.conversion.manifest.folder_run.run_time_differences
    source, nlp = pipeline("image-text-to-text", model=str(tiny.source)), open_pipeline(tiny.folder)
    marker = nlp.processor.marker
    greedy = {"max_new_tokens": 12, "do_sample": False}
    one, two = f"{marker}\nWhat is this?", f"Who {marker} is {marker} this?"
    assert nlp(picture(1), text=one, **greedy) == source(picture(1), text=one, **greedy)
    beams = greedy | {"num_beams": 3, "num_return_sequences": 2, "return_full_text": False}
    wanted = source([picture(3), picture(2)], text=two, **beams)
    assert nlp([picture(3), picture(2)], text=two, **beams) == wanted and len(wanted) == 2
    given = {"images": picture(2), "text": one}
    assert nlp(given, generate_kwargs=greedy)[0]["generated_text"].startswith(one)
    assert nlp([picture(1), picture(2)], text=[one, one], **greedy)[1] == nlp(given, **greedy)
    assert nlp(picture(1), text=one, **greedy) != nlp(picture(2), text=one, **greedy)  # else any image would pass


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
def test_answers_about_images_of_any_size(converted, tmp_path, name):
    """Against the model's `generate`: the processors of these models need torchvision, so their pipelines do too."""
    tiny = converted(name, {"vocabulary": 2000})
    model = getattr(transformers, TABLE[name][0]).from_pretrained(tiny.source).eval()
    prepare, folder = processor_of(name, tiny.source), tiny.copy(tmp_path / "out")
    kind = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}[name]
    for file, more in (
        ("preprocessor_config.json", {"processor_class": kind}),
        ("tokenizer_config.json", {"image_token": IMAGE}),
    ):
        (folder / file).write_text(json.dumps(read_object(folder / file) | more))
    marks = f"<start>{IMAGE}<end>"
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("MARKER", marks))

    def wanted(images, text, **settings):
        given = prepare(images, [text.replace(marks, IMAGE)], return_tensors="pt")
        with torch.no_grad():
            made = model.generate(**given, max_new_tokens=12, do_sample=False, **settings)
        return [prepare.tokenizer.decode(row[given["input_ids"].shape[1] :], skip_special_tokens=True) for row in made]

    settings = {"max_new_tokens": 12, "do_sample": False, "return_full_text": False}
    one, two = f"{marks} What is this?", f"Who {marks} is {marks} this?"
    with open_pipeline(folder) as nlp:
        seen = []
        for images, text, more in (
            ([picture(1)], one, {}), ([stretched(90, 33)], one, {}), ([picture(3), stretched(31, 70)], two, {}),
            ([picture(2)], one, {"num_beams": 3, "num_return_sequences": 2}),
        ):  # fmt: skip
            found = [row["generated_text"] for row in nlp(images, text=text, **settings, **more)]
            assert found == wanted(images, text, **more)
            seen += found
        assert len(set(seen)) > 2
        content = [{"type": "image", "image": picture(1)}, {"type": "text", "text": "What is this?"}]
        [answer] = nlp([{"role": "user", "content": content}], **settings)
        assert answer["generated_text"] == wanted([picture(1)], f"[user] {marks}What is this?[assistant]")[0]
    picture(1).save(tmp_path / "photo.png")
    words = ["run", str(folder), str(tmp_path / "photo.png"), "What is this?", "--set", "max_new_tokens=12", "--set",
             "do_sample=false", "--json"]  # fmt: skip
    made = subprocess.run(
        [sys.executable, "-c", f"{WITHOUT}sys.exit(main({words!r}))"], capture_output=True, text=True, timeout=200
    )
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["results"][0]["output"][0]["generated_text"] == answer["generated_text"]


@pytest.mark.parametrize("name", sampled(NAMES, "llava"))
def test_conversations(converted, tmp_path, name):
    tiny = converted(name, {"vocabulary": 2000})
    folders = [shutil.copytree(tiny.source, tmp_path / "m"), tiny.copy(tmp_path / "out")]
    marker = open_pipeline(tiny.folder).processor.marker
    for folder in folders:
        (folder / "chat_template.jinja").write_text(TEMPLATE.replace("MARKER", marker))
    content = [{"type": "image", "image": picture(1)}, {"type": "text", "text": "What is this?"}]
    settings = {"max_new_tokens": 9, "do_sample": False, "return_full_text": False}
    [wanted] = pipeline("image-text-to-text", model=str(folders[0]))(
        text=[{"role": "user", "content": content}], **settings
    )
    nlp = open_pipeline(folders[1])
    [found] = nlp([{"role": "user", "content": content}], **settings)
    assert found["generated_text"] == wanted["generated_text"] != ""
    with pytest.raises(UsageError):
        nlp([{"role": "user", "content": content}, {"role": "assistant", "content": "It"}])
    with pytest.raises(UsageError):
        nlp([{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}])


@pytest.mark.parametrize(
    "inputs",
    [
        "/etc/passwd",
        ["/etc/passwd"],
        {"image": "/etc/passwd", "text": "a"},
        {"images": ["http://127.0.0.1:9/a.png"], "text": "a"},
        [{"role": "user", "content": [{"type": "image", "path": "/etc/passwd"}]}],
    ],
)
def test_a_server_opens_no_paths_and_no_addresses(inputs):
    pytest.importorskip("litserve")
    from onnxport.serve.worker import Worker

    worker = Worker.__new__(Worker)
    worker.kind = "image-in-text"
    with pytest.raises(UsageError, match="base64"):
        worker._readable(inputs)


def test_the_command_needs_no_framework(converted, tmp_path):
    folder = converted("llava", {"vocabulary": 2000}).folder
    assert read_object(folder / "processor_config.json")["processor_class"] == "LlavaProcessor"
    picture(1).save(tmp_path / "photo.png")
    words = ["run", str(folder), str(tmp_path / "photo.png"), "What is this?", "--set", "max_new_tokens=5"]
    made = subprocess.run(
        [sys.executable, "-c", f"{WITHOUT}sys.exit(main({words!r}))"], capture_output=True, text=True, timeout=200
    )
    assert made.returncode == 0 and made.stdout.strip(), made.stderr
