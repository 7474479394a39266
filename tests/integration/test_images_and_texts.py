"""Models whose images stand in the sequence of their text become three graphs, and write what PyTorch writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from onnxport import convert, pipeline
from onnxport.cli.main import main
from onnxport.errors import ExportError, UsageError
from onnxport.pipelines.onnx_model import load_onnx_model
from onnxport.runtime.image_text_generation import ImageTextGenerator
from onnxport.samples.images_in_text import ImagePrompts
from onnxport.sources.images_in_text import (
    EmbeddingsDecoderSource,
    ImageFeaturesSource,
    TokenEmbeddingsSource,
    require_parts_suffice,
)
from tests.tiny_images_in_text import TABLE, save_image_text

pytestmark = pytest.mark.integration

VOCABULARY = 2000  # a table of 2000 x 32 numbers is worth sharing
GRAPHS = ["vision_encoder", "embed_tokens", "decoder_model_merged"]


@pytest.fixture(scope="module", params=["llava", "gemma3"])
def converted(request, tmp_path_factory):
    """(source model, processor, folder, conversion); the image tokens of gemma3 attend to later ones of the image"""
    root = tmp_path_factory.mktemp(request.param)
    source = save_image_text(request.param, root / "m", vocabulary=VOCABULARY)
    conversion = convert(None, source, root / "out")
    model = getattr(transformers, TABLE[request.param][0]).from_pretrained(source).eval()
    return model, transformers.AutoProcessor.from_pretrained(source), root / "out", conversion


def picture(seed, height=50, width=70):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def test_everything_is_verified(converted):
    conversion = converted[3]
    assert conversion.passed
    assert conversion.manifest.task == "image-text-to-text"
    assert [component.name for component in conversion.manifest.components] == GRAPHS
    checks = [case.name for case in conversion.manifest.components[2].verification.cases]
    assert sum("greedy" in check for check in checks) == 2, checks


def test_weights_are_stored_once(converted):
    model, _, folder, _ = converted
    stored = sum(file.stat().st_size for file in (folder / "onnx").glob("*_data"))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert stored <= weights + 50_000


@pytest.mark.parametrize(("beams", "rows"), [(1, 2), (3, 1)])
def test_the_run_time_writes_what_generate_writes(converted, beams, rows):
    model, processor, folder, _ = converted
    image = processor.image_token
    texts = [f"Who {image} wrote {image} it? Ada", f"Paris {image} is a city"][:rows]
    images = [picture(1), picture(2), picture(3)][: rows + 1]
    processor.tokenizer.padding_side = "left"
    images = [images[:2], images[2:]][:rows]
    given = processor(images=images, text=texts, padding=True, return_tensors="pt")
    settings = {"max_new_tokens": 15, "num_beams": beams, "num_return_sequences": beams, "do_sample": False}
    with torch.no_grad():
        wanted = model.generate(**given, **settings)
    found = load_onnx_model(folder).generate(**given, **settings)
    assert found.tolist() == wanted.tolist()
    arrays = {name: value.numpy() for name, value in given.items()}
    answers = ImageTextGenerator(folder)(arrays, **settings)
    assert len(answers) == rows
    assert len(set(wanted[0, given["input_ids"].shape[1] :].tolist())) > 2  # else one token for ever would pass
    first, second = ImageTextGenerator(folder).reader.features(arrays)[:2]
    assert np.abs(first - second).max() > 0.1 * np.abs(first).max()  # else any image would pass


def test_images_and_image_tokens_must_fit(converted):
    _, processor, folder, _ = converted
    generator = ImageTextGenerator(folder)
    given = dict(processor(images=[picture(1)], text=[f"a {processor.image_token}"], return_tensors="np"))
    with pytest.raises(UsageError, match="room for"):
        generator(given | {"pixel_values": np.concatenate([given["pixel_values"]] * 2)})
    assert generator({name: given[name][:, :1] for name in given if name != "pixel_values"}, max_new_tokens=2)


def test_pipelines_of_the_folder_and_of_the_checkpoint_agree(converted, tmp_path, capsys):
    _, processor, folder, _ = converted
    image, text = picture(4), f"{processor.image_token} What is this?"
    source, found = (
        pipeline("image-text-to-text", model=str(place))(image, text=text, max_new_tokens=12, num_beams=2)
        for place in (folder.parent / "m", folder)
    )
    assert found == source
    image.save(tmp_path / "photo.png")
    assert main(["run", str(folder), str(tmp_path / "photo.png"), "What is this?", "--set", "max_new_tokens=9"]) == 0
    assert capsys.readouterr().out.strip()


def test_what_a_decoder_over_embeddings_cannot_know_is_refused(converted):
    model, processor, folder, _ = converted
    if model.config.model_type != "gemma3":
        pytest.skip("its image tokens attend as all others do")

    class Untyped(EmbeddingsDecoderSource):
        def accepts(self):
            return super().accepts() - {"token_type_ids"}

    prompt = ImagePrompts(processor, model.config.image_token_id, "it").make(1, 8)
    parts = (ImageFeaturesSource(model), TokenEmbeddingsSource(model))
    require_parts_suffice(*parts, EmbeddingsDecoderSource(model, ("logits",)), [prompt])
    with pytest.raises(ExportError, match="does more with images"):
        require_parts_suffice(*parts, Untyped(model, ("logits",)), [prompt])
    images = {name: prompt[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    with pytest.raises(UsageError, match="token_type_ids"):
        ImageTextGenerator(folder)(images)
