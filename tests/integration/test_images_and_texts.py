"""Models whose images stand in the sequence of their text become three graphs, and write what PyTorch writes.

`make test` has one whose image tokens see later ones and one with positions on three axes. LLaVA, which has neither,
and Qwen2.5-VL, which adds windows of patches to the latter, are for the sweep.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from onnxport import convert, pipeline
from onnxport.cli.main import main
from onnxport.dummy_inputs.images_in_text import ImagePrompts
from onnxport.errors import ExportError, UsageError
from onnxport.export.signature import infer_signature
from onnxport.loading.partition import parts_of
from onnxport.pipelines.onnx.load import load_onnx_model
from onnxport.runtime.image_positions import image_positions, positions_behind
from onnxport.runtime.image_text_generation import ImageTextGenerator
from onnxport.runtime.prompts.images import slices_of
from onnxport.sources.pytorch.image_grids import patch_positions, patch_windows
from onnxport.sources.pytorch.images_in_text import (
    EmbeddingsDecoderSource,
    ImageFeaturesSource,
    TokenEmbeddingsSource,
    require_parts_suffice,
)
from tests.sample import sampled
from tests.tiny_images_in_text import OWN_PROCESSOR, TABLE, processor_of, save_image_text

pytestmark = pytest.mark.integration

VOCABULARY = 2000  # a table of 2000 x 32 numbers is worth sharing
IMAGES = {"pixel_values", "image_grid_thw"}
GRAPHS = ["vision_encoder", "embed_tokens", "decoder_model_merged"]


@pytest.fixture(scope="module", params=sampled(["llava", "gemma3", "qwen2_vl", "qwen2_5_vl"], "llava"))
def tiny(request, converted):
    """(source model, processor, folder, conversion)

    The image tokens of gemma3 attend to later ones of the image; those of qwen2_vl have positions on three axes, and
    those of qwen2_5_vl come from patches that see others in windows.
    """
    found = converted(request.param, {"vocabulary": VOCABULARY})
    model = getattr(transformers, TABLE[request.param][0]).from_pretrained(found.source).eval()
    return model, processor_of(request.param, found.source), found.folder, found.conversion


def picture(seed):
    height, width = 40 + 9 * seed, 80 - 11 * seed
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def test_everything_is_verified(tiny):
    conversion = tiny[3]
    assert conversion.passed
    assert conversion.manifest.task == "image-text-to-text"
    assert [component.name for component in conversion.manifest.components] == GRAPHS
    checks = [case.name for case in conversion.manifest.components[2].verification.cases]
    assert sum("greedy" in check for check in checks) >= 2, checks


def test_weights_are_stored_once(tiny):
    model, _, folder, _ = tiny
    stored = sum(file.stat().st_size for file in (folder / "onnx").glob("*_data"))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert stored <= weights + 50_000


@pytest.mark.parametrize(("beams", "rows"), [(1, 2), (3, 1)])
def test_the_run_time_writes_what_generate_writes(tiny, beams, rows):
    model, processor, folder, _ = tiny
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
    both = min(len(first), len(second))
    assert np.abs(first[:both] - second[:both]).max() > 0.1 * np.abs(first).max()  # else any image would pass


def test_images_and_image_tokens_must_fit(tiny):
    _, processor, folder, _ = tiny
    generator = ImageTextGenerator(folder)
    given = dict(processor(images=[picture(1)], text=[f"a {processor.image_token}"], return_tensors="np"))
    with pytest.raises(UsageError, match="image tokens, but the images have"):
        generator(given | {name: np.concatenate([given[name]] * 2) for name in IMAGES & given.keys()})
    assert generator({name: given[name][:, :1] for name in given.keys() - IMAGES}, max_new_tokens=2)


def test_pipelines_of_the_folder_and_of_the_checkpoint_agree(tiny, tmp_path, capsys):
    model, processor, folder, _ = tiny
    if model.config.model_type in OWN_PROCESSOR:
        pytest.skip("transformers' own processor needs torchvision")
    image, text = picture(4), f"{processor.image_token} What is this?"
    source, found = (
        pipeline("image-text-to-text", model=str(place))(image, text=text, max_new_tokens=12, num_beams=2)
        for place in (folder.parent / "m", folder)
    )
    assert found == source
    image.save(tmp_path / "photo.png")
    assert main(["run", str(folder), str(tmp_path / "photo.png"), "What is this?", "--set", "max_new_tokens=9"]) == 0
    assert capsys.readouterr().out.strip()


def test_what_a_decoder_over_embeddings_cannot_know_is_refused(tiny):
    model, processor, folder, _ = tiny
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


@pytest.mark.parametrize("name", sampled(["idefics3", "smolvlm"], "idefics3"))
def test_tiles_of_images_are_taken_one_by_one(tmp_path, name):
    source = save_image_text(name, tmp_path / "m")
    nlp = pipeline("image-text-to-text", model=str(source))
    vision, _, decoder = parts_of(nlp, "pt")  # held against `generate`
    prompt = decoder.generator.prompt(1, 5)
    assert prompt["pixel_values"].shape[:2] == (1, 5)
    names = {name: prompt[name] for name in ("pixel_values", "pixel_attention_mask")}
    assert len(list(slices_of(names))) == 5
    found = np.concatenate([vision.source.run(tile)["image_features"] for tile in slices_of(names)])
    assert np.abs(found - vision.source.run(names)["image_features"]).max() < 1e-5
    assert len(found) == (prompt["input_ids"] == nlp.model.config.image_token_id).sum()
    signature = infer_signature(vision.source, vision.generator)
    assert [spec.axes for spec in signature.inputs] == [(1, 1, 3, 32, 32), (1, 1, 32, 32)]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """(model, its part before the head)"""
    source = save_image_text("qwen2_vl", tmp_path_factory.mktemp("qwen") / "m", vocabulary=VOCABULARY)
    model = transformers.Qwen2VLForConditionalGeneration.from_pretrained(source).eval()
    return model, processor_of("qwen2_vl", source)


def test_positions_on_three_axes_are_those_of_the_model(qwen):
    model, processor = qwen
    mark = processor.image_token
    processor.tokenizer.padding_side = "left"
    texts = [f"Who {mark} wrote {mark} it? Ada", "no image here", f"{mark}", f"Paris {mark}"]
    given = processor([picture(number) for number in range(4)], texts, padding=True, return_tensors="pt")
    wanted, deltas = model.model.get_rope_index(
        **{name: given[name] for name in ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")}
    )
    ids, mask, grids = (given[name].numpy() for name in ("input_ids", "attention_mask", "image_grid_thw"))
    found = image_positions(ids, mask, grids, model.config.image_token_id, 2)
    assert found.tolist() == wanted.tolist()
    # In parts, and a step behind the prompt.
    whole = np.concatenate([mask, np.ones_like(mask[:, :1])], 1)
    text = np.maximum(whole.cumsum(1) - 1, 0)
    step = positions_behind(text[:, -1:], whole, found)
    assert step[0].tolist() == (text[:, -1:] + deltas.numpy()).tolist()
    parts = [
        positions_behind(text[:, first:last], whole[:, :last], found)
        for first, last in ((0, 3), (3, mask.shape[1] - 1), (mask.shape[1] - 1, mask.shape[1] + 1))
    ]
    assert np.concatenate(parts, 2).tolist() == np.concatenate([found, step], 2).tolist()
    with pytest.raises(UsageError, match="image tokens in a row"):
        image_positions(ids, mask, grids[:, [0, 2, 1]] + 2, model.config.image_token_id, 2)


@pytest.mark.parametrize("sides", [(4, 6), (10, 18), (2, 2), (8, 8)])
def test_windows_of_patches_are_those_of_transformers(sides):
    grid = torch.tensor([[1, *sides]])
    order, ends = get_vision_window_index(grid, 2, 16, 4)  # windows of 4 x 4 patches
    found = patch_windows(patch_positions(grid, sides[0] * sides[1], 2), 4).reshape(-1, 4)[order].flatten()
    pieces = [found[first:last] for first, last in pairwise(ends)]
    assert all(len(piece.unique()) == 1 for piece in pieces)
    assert len(found.unique()) == len(pieces)


@pytest.mark.parametrize("sides", [(4, 6), (10, 2), (2, 2)])
def test_positions_of_patches_are_those_of_transformers(qwen, sides):
    grid = torch.tensor([[1, *sides]])
    wanted = get_vision_position_ids(grid, 2)
    assert patch_positions(grid, sides[0] * sides[1], 2).tolist() == wanted.tolist()


def test_what_the_graphs_of_grids_do_not_take_is_refused(tiny):
    model, processor, folder, _ = tiny
    if model.config.model_type not in OWN_PROCESSOR:
        pytest.skip("its images have no grid")
    generator = ImageTextGenerator(folder)
    rules = [restriction.rule for restriction in tiny[3].manifest.components[0].restrictions]
    assert rules == ["multiple of 4"]
    session = generator.reader.session
    session.run({"pixel_values": np.ones((8, 96), np.float32), "image_grid_thw": np.ones((1, 3), np.int64)})  # lives
    given = dict(processor([picture(1)], [f"a {processor.image_token}"]))
    with pytest.raises(UsageError, match="one frame"):
        generator(given | {"image_grid_thw": given["image_grid_thw"] * [[2, 1, 1]]})
    with pytest.raises(UsageError, match="patches"):
        generator(given | {"pixel_values": given["pixel_values"][:-4]})
    with pytest.raises(UsageError, match="image_grid_thw of the images are missing"):
        generator({name: value for name, value in given.items() if name != "image_grid_thw"})
    with pytest.raises(UsageError, match="Videos are not supported"):
        generator(given | {"pixel_values_videos": given["pixel_values"]})


def test_other_numbers_beside_pixels_are_refused(qwen):
    model, processor = qwen
    prompt = ImagePrompts(processor, model.config.image_token_id, "it").make(1, 8)
    parts = (ImageFeaturesSource(model), TokenEmbeddingsSource(model), EmbeddingsDecoderSource(model, ("logits",)))
    require_parts_suffice(*parts, prompt)
    with pytest.raises(ExportError, match="with image_sizes, whose values"):
        require_parts_suffice(*parts, prompt | {"image_sizes": np.array([[40, 40]])})


def test_no_processor_no_conversion(tmp_path):
    source = save_image_text("llava", tmp_path / "m")
    for name in ("processor_config.json", "preprocessor_config.json"):
        (source / name).unlink(missing_ok=True)
    with pytest.raises(ExportError, match="no processor"):
        convert(None, source, tmp_path / "out", pipeline_name="image-text-to-text")
    assert not (tmp_path / "out").exists()
