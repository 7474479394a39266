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
from onnxport.runtime.image_prompt import slices_of
from onnxport.runtime.image_text_generation import ImageTextGenerator
from onnxport.samples.images_in_text import ImagePrompts
from onnxport.shapes import infer_signature
from onnxport.sources.choose import parts_of
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
    require_parts_suffice(*parts, EmbeddingsDecoderSource(model, ("logits",)), prompt)
    with pytest.raises(ExportError, match="does more with images"):
        require_parts_suffice(*parts, Untyped(model, ("logits",)), prompt)
    images = {name: prompt[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    with pytest.raises(UsageError, match="token_type_ids"):
        ImageTextGenerator(folder)(images)


def test_tiles_of_images_are_taken_one_by_one(tmp_path):
    source = save_image_text("idefics3", tmp_path / "m")
    nlp = pipeline("image-text-to-text", model=str(source))
    vision, _, decoder = parts_of(nlp, "pt")  # held against `generate`
    prompt = decoder.sampler.prompt(1, 5)
    assert prompt["pixel_values"].shape[:2] == (1, 5)
    names = {name: prompt[name] for name in ("pixel_values", "pixel_attention_mask")}
    assert len(list(slices_of(names))) == 5
    found = np.concatenate([vision.source.run(tile)["image_features"] for tile in slices_of(names)])
    assert np.abs(found - vision.source.run(names)["image_features"]).max() < 1e-5
    assert len(found) == (prompt["input_ids"] == nlp.model.config.image_token_id).sum()
    signature = infer_signature(vision.source, vision.sampler)
    assert [spec.axes for spec in signature.inputs] == [(1, 1, 3, 32, 32), (1, 1, 32, 32)]


def test_grids_of_images_are_refused():
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 300,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}}  # fmt: skip
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 8, "mlp_ratio": 2}
    model = transformers.Qwen2VLForConditionalGeneration(
        transformers.Qwen2VLConfig(
            text_config=text, vision_config=vision, image_token_id=299, video_token_id=298, vision_start_token_id=297
        )
    ).eval()
    ids = np.array([[5, 297, 299, 299, 299, 299, 7, 8]])
    prompt = {
        "input_ids": ids, "attention_mask": np.ones_like(ids), "mm_token_type_ids": (ids == 299).astype(np.int64),
        "pixel_values": np.random.default_rng(0).standard_normal((16, 3 * 2 * 64), np.float32),
        "image_grid_thw": np.array([[1, 4, 4]]),
    }  # fmt: skip
    parts = (ImageFeaturesSource(model), TokenEmbeddingsSource(model), EmbeddingsDecoderSource(model, ("logits",)))
    with pytest.raises(ExportError, match="with image_grid_thw, whose values"):
        require_parts_suffice(*parts, prompt)


def test_no_processor_no_conversion(tmp_path):
    source = save_image_text("llava", tmp_path / "m")
    for name in ("processor_config.json", "preprocessor_config.json"):
        (source / name).unlink(missing_ok=True)
    with pytest.raises(ExportError, match="no processor"):
        convert(None, source, tmp_path / "out", pipeline_name="image-text-to-text")
    assert not (tmp_path / "out").exists()
