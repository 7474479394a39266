"""The pipelines without a framework against transformers' pipelines, around the same graph."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

transformers = pytest.importorskip("transformers")
pytest.importorskip("torch")

from onnxport.artifact.folder import Folder  # noqa: E402
from onnxport.cli.embeddings import embed  # noqa: E402
from onnxport.cli.main import main  # noqa: E402
from onnxport.errors import FolderError, UnknownPreprocessingError, UsageError  # noqa: E402
from onnxport.loading.options import LoadOptions  # noqa: E402
from onnxport.pipelines.factory import pipeline  # noqa: E402
from onnxport.pipelines.onnx.pipeline import open_with_transformers  # noqa: E402
from onnxport.runtime.pipeline import open_pipeline  # noqa: E402
from tests import tiny_tokenizers  # noqa: E402
from tests.graph_folders import image_folder, sound_folder, text_folder  # noqa: E402
from tests.sample import sampled  # noqa: E402
from tests.tiny import TINY  # noqa: E402

pytestmark = pytest.mark.integration

TEXT = "Paris is the capital of France, and Ada lives in London. 東京は日本の首都です。 Привет мир! Ça va? İstanbul"
LONG = " ".join(["Ada wrote the first program in London, and it was raining in Paris all day."] * 12)


def distance(ours: Any, theirs: Any, place: str = "") -> float:
    """The largest difference between numbers; everything else must be equal."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict) and set(ours) == set(theirs), (place, ours, theirs)
        return max((distance(ours[key], theirs[key], f"{place}.{key}") for key in theirs), default=0.0)
    if isinstance(theirs, (list, tuple)):
        assert isinstance(ours, (list, tuple)) and len(ours) == len(theirs), (place, ours, theirs)
        pairs = enumerate(zip(ours, theirs, strict=True))
        return max((distance(one, other, f"{place}[{number}]") for number, (one, other) in pairs), default=0.0)
    if hasattr(theirs, "getbbox"):
        assert (ours.size, ours.mode) == (theirs.size, theirs.mode), place
        steps = np.abs(np.asarray(ours, float) - np.asarray(theirs, float))
        return float((steps > 1).mean())  # a depth between two of 256 steps may be either
    if hasattr(theirs, "shape") and getattr(theirs, "ndim", 0):
        found, wanted = np.asarray(ours), np.asarray(theirs)
        assert found.shape == wanted.shape, place
        return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))
    if isinstance(theirs, float) or hasattr(theirs, "dtype"):
        return abs(float(ours) - float(theirs))
    assert ours == theirs, place
    return 0.0


class Both:
    """The two pipelines of a folder."""

    def __init__(self, folder: Folder, **settings: Any) -> None:
        self.ours = open_pipeline(folder, **settings)
        self.theirs = open_with_transformers(folder, None, LoadOptions(pipeline_arguments=settings))

    def agree(self, *arguments: Any, **settings: Any) -> Any:
        """Compare the answers to one call; returns ours."""
        copies = [dict(one) if isinstance(one, dict) else one for one in arguments]  # some pipelines empty theirs
        found, wanted = self.ours(*arguments, **settings), self.theirs(*copies, **settings)
        assert distance(found, wanted) < 1e-6
        return found


Make = Callable[..., Folder]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Make:
    def make(task: str, kind: str = "bert", **config: Any) -> Folder:
        return text_folder(tmp_path_factory.mktemp("text"), task, getattr(tiny_tokenizers, kind)(), **config)

    return make


# --- texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "xlm_roberta", "roberta", "deberta_v2"])
def test_text_classification(texts: Make, kind: str) -> None:
    both = Both(texts("text-classification", kind))
    assert both.agree(TEXT)[0]["label"] in ("negative", "neutral", "positive")
    both.agree([TEXT, "a"])
    both.agree(TEXT, top_k=None)
    both.agree([TEXT], top_k=2)
    both.agree({"text": TEXT, "text_pair": "The street is wet."})
    both.agree([{"text": LONG, "text_pair": TEXT}, {"text": "a", "text_pair": "b"}], truncation=True, top_k=1)
    both.agree(LONG, truncation=True)
    both.agree(LONG, max_length=9)
    for function in ("sigmoid", "softmax", "none"):
        both.agree(TEXT, function_to_apply=function, top_k=None)


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification", "single_label_classification"])
def test_the_problem_type_chooses_the_scores(texts: Make, problem: str) -> None:
    Both(texts("text-classification", problem_type=problem), top_k=None).agree(["It rains.", TEXT])


def test_batches_of_similar_length_give_the_answers_of_single_texts(texts: Make) -> None:
    both = Both(texts("text-classification"))
    several = ["a", LONG[:200], "Ada lives in London.", "x y", LONG[:150], TEXT]
    alone = both.ours(several, top_k=None)
    calls = []
    run, session = both.ours.model.session.run, both.ours.model.session
    session.run = lambda feed: calls.append(feed["input_ids"].shape) or run(feed)
    assert distance(both.ours(several, top_k=None, batch_size=3), alone) < 1e-6
    assert [rows for rows, _ in calls] == [3, 3] and calls[0][1] < calls[1][1]
    assert distance(list(both.ours(iter(several), top_k=None, batch_size=2)), alone) < 1e-6


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("kind", ["bert", "xlm_roberta"])
def test_token_classification(texts: Make, kind: str, strategy: str) -> None:
    both = Both(texts("token-classification", kind), aggregation_strategy=strategy)
    found = both.agree(TEXT)
    assert all(0 <= one["start"] < one["end"] <= len(TEXT) for one in found)
    both.agree([TEXT, LONG, "a"], ignore_labels=[])
    both.agree(["Ada", "lives", "in", "London."], is_split_into_words=True, ignore_labels=[])
    both.agree([["Ada", "lives"], ["in", "London"]], is_split_into_words=True, delimiter="-", ignore_labels=["B-PER"])
    if strategy == "none":
        with pytest.raises(UsageError, match="stride"):
            both.ours(LONG, stride=8)
    else:
        both.agree(LONG, stride=8, ignore_labels=[])


@pytest.mark.parametrize(("kind", "mask"), [("bert", "[MASK]"), ("roberta", "<mask>"), ("albert", "[MASK]")])
def test_fill_mask(texts: Make, kind: str, mask: str) -> None:
    both = Both(texts("fill-mask", kind))
    both.agree(f"Paris is the {mask} of France.")
    both.agree([f"Paris is the {mask} of France."])
    both.agree([f"Paris {mask} the {mask} of France.", f"{mask}"], top_k=3)
    both.agree(f"Paris is the {mask}.", targets=["capital", "xyz", "d"])
    both.agree(f"{mask} {LONG}", tokenizer_kwargs={"truncation": True})
    with pytest.raises(UsageError, match="has no"):
        both.ours("There is none.")


def test_question_answering(texts: Make) -> None:
    both = Both(texts("question-answering", max_position_embeddings=64))
    question = {"question": "Who wrote it?", "context": LONG}
    found = both.agree(question)
    assert LONG[found["start"] : found["end"]] == found["answer"]
    both.agree(**question, top_k=4, max_seq_len=24, doc_stride=4)
    both.agree([question, {"question": "Where?", "context": TEXT}], batch_size=4, max_answer_len=3)
    both.agree(question=["Who?", "Where is it?"], context=TEXT, align_to_words=False)
    both.agree(question="Who?", context=TEXT, handle_impossible_answer=True, top_k=1000)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_answers_in_pages(texts: Make, kind: str, tmp_path: Path) -> None:
    both = Both(texts("document-question-answering", kind))
    places = [(10 + 90 * (n % 10), 20 + 40 * (n // 10)) for n in range(200)]
    page = [(word, [x, y, x + 80, y + 30]) for word, (x, y) in zip(LONG.split(), places, strict=False)]
    short = {"image": None, "question": "Who wrote the first program?", "word_boxes": page[:20]}
    long = short | {"word_boxes": page}
    assert both.agree(**short)[0]["answer"]
    both.agree(short, top_k=4)
    both.agree([short, long], top_k=7, max_answer_len=3)
    both.agree(**{**short, "word_boxes": page[:1]}, top_k=99)
    found = both.agree(**long, top_k=40, max_seq_len=40, doc_stride=5, handle_impossible_answer=True, padding=True)
    assert len(found) == 40
    wrong = ("photo.png", [], [("a", [1, 2, 3])], [("a", [9, 2, 3, 4])], [(3, [1, 2, 3, 4])], [("a", [1, 2, 3, 1001])])
    for boxes in (None, *wrong):
        with pytest.raises(UsageError):
            both.ours("page.png", "Who?", boxes)
    with pytest.raises(UsageError):
        both.ours(image=None, question=3, word_boxes=page)
    (tmp_path / "page.json").write_text(json.dumps(page), encoding="utf-8")
    folder = str(both.ours.folder)
    assert main(["run", folder, str(tmp_path / "page.json"), "Who wrote it?"]) == 0
    assert main(["run", folder, "page.png", "Who wrote it?"]) == 2


@pytest.mark.parametrize("kind", ["bert", "xlm_roberta"])
def test_zero_shot_classification(texts: Make, kind: str) -> None:
    both = Both(texts("zero-shot-classification", kind))
    both.agree(TEXT, ["music", "a b", "sport"])
    both.agree([TEXT, "a"], candidate_labels="music, sport", multi_label=True)
    both.agree(LONG, ["music", "sport"], hypothesis_template="About {}.")
    both.agree(TEXT, ["music"])
    with pytest.raises(UsageError, match="no place"):
        both.ours(TEXT, ["music"], hypothesis_template="none")


def test_feature_extraction(texts: Make) -> None:
    both = Both(texts("feature-extraction"))
    both.agree([TEXT, "a"])
    both.agree(LONG, truncation=True)
    both.agree(TEXT, tokenize_kwargs={"max_length": 5, "truncation": True}, return_tensors=True)
    with pytest.raises(UsageError, match="no sentence_embedding"):
        both.ours.encode("a")


def sentence_folder(root: Path, include_prompt: bool = True) -> Folder:
    """A sentence encoder with mean pooling, normalization and two prompts."""
    folder = text_folder(root, "feature-extraction", tiny_tokenizers.bert(), sentences=True)
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in zip(paths, kinds, strict=True)
    ]
    pooling = {"pooling_mode_mean_tokens": True, "include_prompt": include_prompt}
    prompts = {"prompts": {"query": "a query: ", "passage": ""}, "default_prompt_name": None}
    (root / "1_Pooling").mkdir()
    for name, content in (
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": True}),
        ("config_sentence_transformers.json", prompts),
    ):
        (root / name).write_text(json.dumps(content))
    return folder


def test_sentence_embeddings_with_prompts(tmp_path: Path) -> None:
    nlp = open_pipeline(sentence_folder(tmp_path))
    sentences = ["Ada lives in London.", "It rains.", LONG]
    plain = nlp.encode(sentences)
    assert plain.shape == (3, 8) and plain.dtype == np.float32
    assert nlp.outputs(LONG)["last_hidden_state"].shape == (1, 16, 8)  # cut to the length of the model
    for text, vector in zip(sentences, plain, strict=True):
        np.testing.assert_allclose(nlp.outputs(text)["last_hidden_state"][0].mean(0), vector, atol=1e-6)
        np.testing.assert_allclose(nlp.encode(text), vector, atol=1e-6)
    asked = nlp.encode(sentences[:2], prompt_name="query")
    np.testing.assert_allclose(asked, nlp.encode([f"a query: {text}" for text in sentences[:2]]), atol=1e-6)
    np.testing.assert_allclose(asked, nlp.encode(sentences[:2], prompt="a query: "), atol=1e-6)
    assert np.abs(asked - plain[:2]).max() > 0.1
    unit = nlp.encode(sentences, normalize_embeddings=True)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(UsageError, match="no prompt 'queries'"):
        nlp.encode("a", prompt_name="queries")
    settings = {"prompts": {"query": "a query: "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    usual = open_pipeline(tmp_path)
    shown = [embed(usual, [sentences[0]], given)[0].embedding for given in ({}, {"prompt": ""})]
    for found, wanted in ((usual.encode(sentences[0]), asked), (shown[0], asked), (shown[1], plain)):
        np.testing.assert_allclose(found, wanted[0], atol=1e-6)


def test_a_prompt_that_does_not_take_part_in_the_pooling(tmp_path: Path) -> None:
    nlp = open_pipeline(sentence_folder(tmp_path, include_prompt=False))
    text, prompt = "Ada lives in London.", "a query: "
    tokens = nlp.outputs(prompt + text)["last_hidden_state"][0]
    first = len(tiny_tokenizers.bert()(prompt)["input_ids"]) - 1  # without [SEP]
    wanted = tokens[first:].mean(0)
    found = nlp.encode(text, prompt_name="query")
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-6)
    np.testing.assert_allclose(nlp.encode(text), nlp.outputs(text)["sentence_embedding"][0], atol=1e-6)


def test_settings_that_a_task_does_not_have_are_refused(texts: Make) -> None:
    folder = texts("text-classification")
    with pytest.raises(UsageError, match="top_q") as caught:
        open_pipeline(folder)("a", top_q=3)
    assert "top_k" in str(caught.value.hint)
    for settings in ({"aggregation_strategy": "max"}, {"top_p": 0.5}):
        with pytest.raises(UsageError):
            open_pipeline(folder, **settings)
    with pytest.raises(UsageError) as caught:
        open_pipeline(folder, "text-generation", max_new_token=3)  # before anything is loaded
    assert "max_new_tokens" in str(caught.value.hint)
    with pytest.raises(UsageError):
        open_pipeline(folder)(3)


# --- images -----------------------------------------------------------------------------------


def picture(width: int, height: int) -> Any:
    """A gradient with noise, the same every time."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    noise = np.random.default_rng(width).normal(0, 25, (height, width, 3))
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


PICTURES = [picture(50, 40), picture(33, 90), picture(320, 240)]


def processor(name: str, **values: Any) -> Any:
    return getattr(transformers, f"{name}ImageProcessorPil")(**values)


def test_image_classification(tmp_path: Path) -> None:
    made = processor("ViT", size={"height": 32, "width": 32})
    both = Both(image_folder(tmp_path, "image-classification", made))
    both.agree(PICTURES[0])
    both.agree(PICTURES, top_k=2)
    both.agree(np.asarray(PICTURES[0]), function_to_apply="sigmoid")
    PICTURES[1].save(tmp_path / "photo.png")
    both.agree(str(tmp_path / "photo.png"))
    with pytest.raises(UsageError, match="no file"):
        both.ours(str(tmp_path / "absent.png"))


@pytest.mark.parametrize("name", ["Detr", "ConditionalDetr", "DeformableDetr", "Yolos", "RTDetr"])
def test_object_detection(tmp_path: Path, name: str) -> None:
    sizes = {} if name == "RTDetr" else {"size": {"shortest_edge": 64, "longest_edge": 96}}
    nothing = name in ("Detr", "Yolos")
    both = Both(image_folder(tmp_path, "object-detection", processor(name, **sizes), nothing=nothing))
    found = both.agree(PICTURES, threshold=0.05)
    assert any(found)
    both.agree(PICTURES[0])


def test_semantic_segmentation(tmp_path: Path) -> None:
    made = processor("Segformer", size={"height": 64, "width": 64})
    both = Both(image_folder(tmp_path, "semantic-segmentation", made))
    for one in PICTURES:
        assert len(both.agree(one)) > 1


@pytest.mark.parametrize("subtask", [None, "panoptic", "instance", "semantic"])
@pytest.mark.parametrize("name", ["MaskFormer", "Mask2Former"])
def test_image_segmentation(tmp_path: Path, name: str, subtask: str | None) -> None:
    made = processor(name, size={"height": 64, "width": 64}, size_divisor=32)
    # Of fewer classes torch takes the best pairs of query and class in no order of their scores.
    both = Both(image_folder(tmp_path, "image-segmentation", made, 70 if subtask == "instance" else None))
    settings = {} if subtask is None else {"subtask": subtask}
    for one in PICTURES:
        both.agree(one, threshold=0.1, overlap_mask_area_threshold=0.1, mask_threshold=0.2, **settings)
    both.agree(PICTURES[0], **settings)


def test_depth_estimation(tmp_path: Path) -> None:
    made = processor("DPT", size={"height": 32, "width": 32}, keep_aspect_ratio=True, ensure_multiple_of=8)
    both = Both(image_folder(tmp_path, "depth-estimation", made))
    for one in PICTURES:
        found = both.ours(one)
        assert found["predicted_depth"].shape == (one.height, one.width)
        assert distance(found["predicted_depth"], both.theirs(one)["predicted_depth"]) < 5e-6


def test_image_features(tmp_path: Path) -> None:
    both = Both(image_folder(tmp_path, "image-feature-extraction", processor("ViT")))
    both.agree(PICTURES)
    both.agree(PICTURES[0], return_tensors=True)
    with pytest.raises(UsageError, match="pooler_output"):
        both.ours(PICTURES[0], pool=True)


# --- sounds -----------------------------------------------------------------------------------


def sound(seconds: float) -> np.ndarray:
    """A tone with noise at 16,000 samples a second."""
    time = np.arange(int(16_000 * seconds)) / 16_000
    noise = np.random.default_rng(int(seconds * 10)).standard_normal(time.size)
    return (0.4 * np.sin(2 * np.pi * 440 * time) + 0.1 * noise).astype(np.float32)


def test_audio_classification(tmp_path: Path) -> None:
    extractor = transformers.Wav2Vec2FeatureExtractor()
    both = Both(sound_folder(tmp_path, "audio-classification", extractor))
    both.agree(sound(0.5))
    both.agree([sound(0.5), sound(1.2)], top_k=2)
    both.agree({"raw": sound(0.7), "sampling_rate": 16_000}, function_to_apply="sigmoid")


def test_speech_recognition(tmp_path: Path) -> None:
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    both = Both(sound_folder(tmp_path, "automatic-speech-recognition", extractor, tiny_tokenizers.ctc()))
    assert len(both.agree(sound(1.0))["text"]) > 3
    for kind in ("char", "word"):
        both.agree({"array": sound(1.3), "sampling_rate": 16_000}, return_timestamps=kind)
    both.agree(sound(3.0), chunk_length_s=1.0, stride_length_s=(0.3, 0.1))
    both.agree(sound(2.0), chunk_length_s=0.6, return_timestamps="word")
    with pytest.raises(UsageError, match="leaves nothing"):
        both.ours(sound(2.0), chunk_length_s=0.5, stride_length_s=0.3)


# --- converted folders ------------------------------------------------------------------------

SECOND = "The street is wet, and Ada lives in London."
# Folders that test_convert.py converts, and a call for each.
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "mpnet-feature-extraction": ((TEXT,), {}),
    "modernbert-fill-mask": (("Paris is the [MASK] of France.",), {}),
    "bert-text-classification": ((TEXT,), {"top_k": None}),
    "bert-zero-shot-classification": ((TEXT,), {"candidate_labels": ["music", "a b"], "multi_label": True}),
    "bert-question-answering": (({"question": "Who?", "context": SECOND},), {"top_k": 3}),
    "bert-multiple-choice": ((TEXT,), {"choices": ["It rains.", "We walk to the house."]}),
    "bert-next-sentence-prediction": (({"text": TEXT, "text_pair": SECOND},), {}),
    "vit-image-feature-extraction": ((PICTURES[0],), {}),
    "resnet-image-classification": ((PICTURES[0],), {}),
    "detr-object-detection": ((PICTURES[0],), {"threshold": 0.1}),
    "segformer-semantic-segmentation": ((PICTURES[0],), {}),
    "maskformer-image-segmentation": ((PICTURES[0],), {"threshold": 0.1, "overlap_mask_area_threshold": 0.1}),
    "dpt-depth-estimation": ((PICTURES[0],), {}),
    "clip-zero-shot-image-classification": ((PICTURES[0],), {"candidate_labels": ["cat", "two dogs"]}),
    "wav2vec2-automatic-speech-recognition": ((sound(1.0),), {}),
    "audio-spectrogram-transformer-audio-classification": ((sound(1.0),), {}),
}


# Conversions of these take most of a minute.
_SLOW = {
    "detr-object-detection", "segformer-semantic-segmentation", "maskformer-image-segmentation", "dpt-depth-estimation",
}  # fmt: skip


@pytest.mark.parametrize("name", sampled(CALLS, *(name for name in CALLS if name not in _SLOW)))
def test_a_converted_folder_answers_as_its_source(converted: Any, name: str) -> None:
    for package in TINY[name].needs:
        pytest.importorskip(package)
    tiny = converted(name)
    arguments, settings = CALLS[name]
    ours = pipeline(model=str(tiny.folder))
    assert type(ours).__module__.startswith("onnxport.runtime.tasks")
    source = pipeline(ours.task, model=str(tiny.source))
    assert distance(ours(*arguments, **settings), source(*arguments, **settings)) < 1e-5


# --- one way to run ---------------------------------------------------------------------------


def test_pipeline_of_a_folder_is_the_one_without_a_framework(texts: Make) -> None:
    folder = texts("text-classification")
    found = pipeline(model=str(folder.path), top_k=2)
    assert type(found).__module__.startswith("onnxport.runtime.tasks") and found.task == "text-classification"
    assert len(found("a")[0]) == 2


def test_threads_may_share_a_pipeline(texts: Make) -> None:
    nlp = open_pipeline(texts("text-classification"), top_k=None)
    asked = [(text, length) for text in (TEXT, LONG, "Ada lives.") for length in (6, 20, 64)] * 8
    wanted = [nlp(text, max_length=length, truncation=True) for text, length in asked]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: nlp(one[0], max_length=one[1], truncation=True), asked))
    assert found == wanted


def test_a_class_that_is_not_known_is_named_or_left_to_transformers(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, "image-classification", processor("Perceiver"))
    with pytest.raises(UnknownPreprocessingError, match="PerceiverImageProcessor"):
        open_pipeline(folder)
    assert pipeline(model=str(folder.path))(PICTURES[0])[0]["label"] in ("cat", "dog", "bird", "horse", "fish")


def test_a_folder_without_preprocessing_says_which_file_is_missing(tmp_path: Path) -> None:
    folder = image_folder(tmp_path, "image-classification", processor("ViT"))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(FolderError, match=r"preprocessor_config\.json"):
        open_pipeline(folder)


def test_commands_on_a_folder_import_no_framework(texts: Make, tmp_path: Path) -> None:
    text, image = texts("text-classification").path, tmp_path / "image"
    image_folder(image, "image-classification", processor("ViT", size={"height": 32, "width": 32}))
    PICTURES[0].save(tmp_path / "photo.png")
    (tmp_path / "lines.jsonl").write_text('"I love it."\n{"text": "It rains.", "text_pair": "It is wet."}\n')
    code = (
        "import sys, onnxport\n"
        "from onnxport.cli.main import main\n"
        f"assert main(['run', {str(text)!r}, 'I love it.', '--set', 'top_k=2']) == 0\n"
        f"assert main(['run', {str(text)!r}, {str(tmp_path / 'lines.jsonl')!r}]) == 0\n"
        f"assert main(['run', {str(image)!r}, {str(tmp_path / 'photo.png')!r}]) == 0\n"
        f"assert main(['inspect', {str(text)!r}]) == 0\n"
        f"assert onnxport.pipeline(model={str(text)!r})('I love it.')\n"
        "import io; sys.stdin = io.StringIO('I love it.\\n')\n"
        f"assert main(['run', {str(text)!r}, '-']) == 0\n"
        "assert not {'torch', 'transformers', 'tensorflow', 'onnx'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    documents = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"input"')]
    assert [set(one) for one in documents] == [{"input", "output"}] * 3
