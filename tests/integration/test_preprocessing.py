"""Image processors and feature extractors without a framework, against transformers' classes of the same name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from onnxport.errors import UnknownPreprocessingError, UsageError  # noqa: E402
from onnxport.loading.fast_tokenizer import tokenizer_json, write_tokenizer_json  # noqa: E402
from onnxport.runtime.preprocessing.images.classes import CLASSES, IN_TEXT  # noqa: E402
from onnxport.runtime.preprocessing.images.interpolation import interpolate  # noqa: E402
from onnxport.runtime.preprocessing.images.processor import read_image_processor  # noqa: E402
from onnxport.runtime.preprocessing.sounds.extractors import read_feature_extractor  # noqa: E402
from onnxport.runtime.preprocessing.texts import EncodingSettings, TextEncoder  # noqa: E402
from tests import tiny_tokenizers  # noqa: E402

pytestmark = pytest.mark.integration


def picture(width: int, height: int) -> Any:
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    noise = np.random.default_rng(width).normal(0, 25, (height, width, 3))
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


PICTURES = [picture(*size) for size in ((50, 40), (40, 50), (33, 97), (320, 240), (64, 64))]


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


# Settings beside the defaults.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "ViTImageProcessor": [
        {"do_normalize": False},
        {"do_resize": False},
        {"size": {"height": 30, "width": 50}, "resample": 1},
        {"resample": 3, "do_rescale": False},
    ],
    "CLIPImageProcessor": [
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 48, "width": 20}},
        {"do_center_crop": False},
    ],
    "ConvNextImageProcessor": [{"size": {"shortest_edge": 64}}, {"size": {"shortest_edge": 96}, "crop_pct": 0.8}],
    "DPTImageProcessor": [
        {"keep_aspect_ratio": True, "ensure_multiple_of": 14, "size": square(64)},
        {"do_pad": True, "size_divisor": 24, "size": {"height": 70, "width": 50}},
    ],
    "DetrImageProcessor": [
        {"size": {"shortest_edge": 64, "longest_edge": 96}},
        {"do_pad": False},
        {"size": {"shortest_edge": 60, "longest_edge": 90}, "pad_size": {"height": 100, "width": 110}},
    ],
    "EfficientNetImageProcessor": [{"rescale_offset": True, "do_center_crop": True}, {"include_top": False}],
    "Mask2FormerImageProcessor": [{"size": square(64)}],
    "MaskFormerImageProcessor": [{"size": {"shortest_edge": 50, "longest_edge": 70}}],
    "PoolFormerImageProcessor": [{"size": square(60)}],
    "YolosImageProcessor": [{"size": {"shortest_edge": 50, "longest_edge": 70}}],
    "LevitImageProcessor": [{"size": {"height": 60, "width": 80}}],
    "MobileViTImageProcessor": [{"do_flip_channel_order": False}],
}


# Those that make several arrays of an image are in test_image_text_pipeline.py, with their texts.
@pytest.mark.parametrize("name", [name for name, kind in CLASSES.items() if kind.fit not in IN_TEXT])
def test_images_are_those_of_the_class(tmp_path: Path, name: str) -> None:
    for values in ({}, *SETTINGS.get(name, [])):
        theirs = getattr(transformers, f"{name}Pil")(**values)
        theirs.save_pretrained(tmp_path)
        readers = [read_image_processor(tmp_path)]
        if not values:  # a file that leaves everything to the class
            (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": f"{name}Fast"}))
            readers.append(read_image_processor(tmp_path))
        for image in PICTURES:
            wanted = dict(theirs(images=image, return_tensors="np"))
            for key in ("num_crops", "original_sizes", "reshaped_input_sizes"):
                wanted.pop(key, None)  # of Gemma 3 and SAM: for their processors, no model reads them
            for ours in readers:
                found = ours(image)
                assert set(found) == set(wanted)
                for key, values_of in wanted.items():
                    first = np.asarray(values_of)[0]
                    if name == "VideoMAEImageProcessor":  # a video of one frame
                        (first,) = first
                    np.testing.assert_array_equal(found[key], first, err_msg=f"{values} {key}")


def test_older_files_have_other_keys(tmp_path: Path) -> None:
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 24, "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    found = read_image_processor(tmp_path)(PICTURES[0])["pixel_values"]
    theirs = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square(24))
    np.testing.assert_array_equal(found, theirs(images=PICTURES[0], return_tensors="np")["pixel_values"][0])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 30, "do_resize": True}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert read_image_processor(tmp_path).name == "ViTImageProcessor"
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"image_processor_type": "XYZ"}}))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UnknownPreprocessingError, match="XYZ"):
        read_image_processor(tmp_path)


def test_arrays_are_images_too(tmp_path: Path) -> None:
    theirs = transformers.ViTImageProcessorPil(size=square(32))
    theirs.save_pretrained(tmp_path)
    ours = read_image_processor(tmp_path)
    pixels = np.asarray(PICTURES[0])
    for array in (pixels, np.moveaxis(pixels, -1, 0), pixels / 255.0):
        wanted = theirs(images=array, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(ours(array)["pixel_values"], wanted, atol=1e-6)
    with pytest.raises(UsageError, match="shape"):
        ours(np.zeros((2, 5, 5, 3)))


@pytest.mark.parametrize("size", [(7, 9), (40, 31), (5, 60)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_maps_are_resized_as_in_torch(mode: str, size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).standard_normal((3, 13, 17)).astype(np.float32)
    options = {} if mode == "nearest" else {"align_corners": False}
    wanted = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size=size, mode=mode, **options)[0]
    # torch computes the weights of bicubic interpolation in float32.
    tolerance = 5e-6 if mode == "bicubic" else 1e-6
    np.testing.assert_allclose(interpolate(maps, size, mode), wanted.numpy(), atol=tolerance)


def sounds() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    time = np.arange(16_000) / 16_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    noise = (0.1 * rng.standard_normal(11_111)).astype(np.float32)
    return [tone, noise, np.concatenate([noise, np.zeros(8_000, np.float32), tone])]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Wav2Vec2FeatureExtractor", {"return_attention_mask": True}),
        ("Wav2Vec2FeatureExtractor", {"do_normalize": False, "return_attention_mask": True}),
        ("SpeechT5FeatureExtractor", {}),
        ("SpeechT5FeatureExtractor", {"do_normalize": True}),
        ("ASTFeatureExtractor", {"max_length": 64, "num_mel_bins": 40}),
        ("ASTFeatureExtractor", {"do_normalize": False}),
        ("Speech2TextFeatureExtractor", {}),
        ("Speech2TextFeatureExtractor", {"num_mel_bins": 40, "normalize_vars": False}),
        ("SeamlessM4TFeatureExtractor", {}),
        ("SeamlessM4TFeatureExtractor", {"num_mel_bins": 40, "padding_value": 1.0}),
        ("WhisperFeatureExtractor", {"chunk_length": 3}),
        ("WhisperFeatureExtractor", {"chunk_length": 4, "feature_size": 128}),
    ],
)
def test_sounds_are_those_of_the_class(tmp_path: Path, name: str, values: dict[str, Any]) -> None:
    theirs = getattr(transformers, name)(**values)
    theirs.save_pretrained(tmp_path)
    ours = read_feature_extractor(tmp_path)
    assert ours.name == name and ours.sampling_rate == 16_000
    for samples in sounds():
        wanted = theirs(samples, sampling_rate=16_000, return_tensors="np", return_attention_mask=True)
        found = ours(samples)
        for key, value in wanted.items():
            # Whisper's spectrogram is computed in float32 where torch is installed; that is its own error.
            tolerance = 2e-4 if name.startswith("Whisper") else 1e-6
            np.testing.assert_allclose(found[key], value[0], atol=tolerance, err_msg=key)
        if name.startswith("Whisper"):
            padded = np.zeros(theirs.n_samples, np.float32)
            padded[: len(samples)] = samples
            exact = theirs._np_extract_fbank_features(padded[None], "cpu")[0]
            np.testing.assert_allclose(found["input_features"], exact, atol=1e-6)


def test_sounds_that_are_too_long_or_too_short(tmp_path: Path) -> None:
    transformers.WhisperFeatureExtractor(chunk_length=1).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"1\.2 s"):
        read_feature_extractor(tmp_path)(np.zeros(19_200, np.float32))
    transformers.ASTFeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="399 samples"):
        read_feature_extractor(tmp_path)(np.zeros(399, np.float32))


KINDS = ["bert", "roberta", "xlm_roberta", "deberta_v2", "albert", "mpnet", "modernbert", "clip"]
TEXTS = [
    "Ada lives in London.",
    "東京は日本の首都です。 Привет мир! Ça va? İstanbul 🙂",
    "It rains, and the street is wet. " * 9,
]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_and_pairs_are_encoded_as_by_the_tokenizer(tmp_path: Path, kind: str) -> None:
    theirs = getattr(tiny_tokenizers, kind)()
    theirs.save_pretrained(tmp_path)
    if kind in ("mpnet", "roberta"):
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"truncation_side": "left"}))
        theirs.truncation_side = "left"
    ours = TextEncoder(tmp_path)
    for text, pair in [(text, None) for text in TEXTS] + [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[0])]:
        for settings in (
            {"truncation": True},
            {"max_length": 12},
            {"max_length": 60, "truncation": "only_first"},
            {"max_length": 40, "truncation": "longest_first", "padding": "max_length"},
            {"add_special_tokens": False},
        ):
            try:
                wanted = theirs(text, pair, **settings)
            except Exception:  # one text alone cannot be cut that far
                with pytest.raises(UsageError):
                    ours.text_row(text, pair, EncodingSettings(**settings))
                continue
            row = ours.text_row(text, pair, EncodingSettings(**settings))
            for key, value in wanted.items():
                assert row[key].tolist() == value, (kind, settings, key)
    assert ours.token_id("pad_token") == theirs.pad_token_id and ours.token_id("mask_token") == theirs.mask_token_id
    wanted = theirs(TEXTS[2], truncation=True, max_length=16, stride=4, return_overflowing_tokens=True)
    encoding = ours.encode(TEXTS[2], settings=EncodingSettings(truncation=True, max_length=16, stride=4))
    assert [one.ids for one in (encoding, *encoding.overflowing)] == wanted["input_ids"]


def test_slow_tokenizers_get_a_file_that_gives_their_tokens(tmp_path: Path) -> None:
    words = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    proteins = transformers.EsmTokenizer(str(tmp_path / "vocab.txt"))
    texts = [*TEXTS, "MVLSPADK<mask>TNVKAAW", "M V L-S.PJ", "a photo of TWO dogs!"]
    for number, slow in enumerate((proteins, tiny_tokenizers.siglip())):
        folder = tmp_path / str(number)
        folder.mkdir()
        slow.save_pretrained(folder)
        (folder / "tokenizer.json").unlink(missing_ok=True)
        write_tokenizer_json(slow, folder)
        ours = TextEncoder(folder)
        for text in texts:
            assert ours.encode(text).ids == slow(text)["input_ids"], text
    assert tokenizer_json(tiny_tokenizers.ctc()) is None and tokenizer_json(tiny_tokenizers.bert()) is None


def test_a_file_that_says_something_else_than_the_configuration_is_corrected(tmp_path: Path) -> None:
    tiny_tokenizers.bert().save_pretrained(tmp_path)
    own = (tmp_path / "tokenizer.json").read_text()
    write_tokenizer_json(transformers.AutoTokenizer.from_pretrained(tmp_path), tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == own
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"do_lower_case": False}))
    cased = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert TextEncoder(tmp_path).encode(TEXTS[0]).ids != cased(TEXTS[0])["input_ids"]
    write_tokenizer_json(cased, tmp_path)
    for text in TEXTS:
        assert TextEncoder(tmp_path).encode(text).ids == cased(text)["input_ids"]


def test_a_tokenizer_that_cannot_be_described_keeps_its_own_files(tmp_path: Path) -> None:
    slow = tiny_tokenizers.siglip()
    slow.canonicalize_text = lambda text, **_: text.replace("a", "b")  # not what its class does
    assert tokenizer_json(slow) is None
