"""The pipelines that transformers 5 dropped or never had, against references written out here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from onnxport.errors import CheckpointError, MissingDependencyError, TaskError, UsageError  # noqa: E402
from onnxport.pipelines.factory import pipeline  # noqa: E402
from tests.integration.small_models import QUESTION, TEXT, bert_config, save, tokenizer  # noqa: E402

pytestmark = pytest.mark.integration


# --- question answering ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A question-answering pipeline with random weights."""
    return pipeline(
        "question-answering", save(tmp_path_factory.mktemp("qa"), "BertForQuestionAnswering", bert_config())
    )


def every_span(nlp: Any, question: str, context: str, length: int, stride: int, longest: int) -> dict[Any, float]:
    """(first, past-the-end character) -> score of every span of tokens, by three loops over the logits."""
    encoded = nlp.tokenizer(
        question, context, truncation="only_second", max_length=length, stride=stride,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    found: dict[Any, float] = {}
    for index, ids in enumerate(encoded["input_ids"]):
        names = ("input_ids", "attention_mask", "token_type_ids")
        with torch.no_grad():
            outputs = nlp.model(**{name: torch.tensor([encoded[name][index]]) for name in names})
        inside = [place == 1 for place in encoded.sequence_ids(index)]
        counted = [place for place, kept in enumerate(inside) if kept] + [ids.index(nlp.tokenizer.cls_token_id)]
        logits = [scores[0].double().numpy() for scores in (outputs.start_logits, outputs.end_logits)]
        start, end = ({p: np.exp(s[p]) / sum(np.exp(s[q]) for q in counted) for p in counted} for s in logits)
        offsets = encoded["offset_mapping"][index]
        for first in range(len(ids)):
            for last in range(first, min(first + longest, len(ids))):
                if inside[first] and inside[last]:
                    span = (offsets[first][0], offsets[last][1])
                    found[span] = max(found.get(span, 0.0), start[first] * end[last])
        null = start[counted[-1]] * end[counted[-1]]
        found[None] = min(found.get(None, 1.0), null)
    return found


@pytest.mark.parametrize("longest", [1, 4, 15])
@pytest.mark.parametrize(("length", "stride"), [(64, 16), (32, 8), (24, 0)])
def test_answers_are_the_best_spans(answering: Any, length: int, stride: int, longest: int) -> None:
    spans = every_span(answering, QUESTION, TEXT, length, stride, longest)
    null = spans.pop(None)
    best = sorted(spans.items(), key=lambda item: -item[1])[:5]
    answers = answering(
        question=QUESTION, context=TEXT, top_k=5, max_seq_len=length, doc_stride=stride, max_answer_len=longest,
        align_to_words=False,
    )  # fmt: skip
    assert [(answer["start"], answer["end"]) for answer in answers] == [span for span, _ in best]
    np.testing.assert_allclose([answer["score"] for answer in answers], [score for _, score in best], rtol=1e-4)
    assert all(answer["answer"] == TEXT[answer["start"] : answer["end"]] for answer in answers)
    every = answering(
        question=QUESTION, context=TEXT, top_k=10_000, max_seq_len=length, doc_stride=stride, max_answer_len=longest,
        align_to_words=False, handle_impossible_answer=True,
    )  # fmt: skip
    empty = [answer for answer in every if not answer["answer"]]
    assert len(empty) == 1
    assert empty[0]["score"] == pytest.approx(null, rel=1e-4)
    assert len(every) == len(spans) + 1


def test_answers_are_whole_words(answering: Any) -> None:
    for answer in answering(question=QUESTION, context=TEXT, top_k=20):
        before, after = TEXT[: answer["start"]], TEXT[answer["end"] :]
        assert answer["answer"] == answer["answer"].strip()
        assert not (before[-1:].isalnum() and answer["answer"][0].isalnum())
        assert not (after[:1].isalnum() and answer["answer"][-1].isalnum())


def test_ways_to_ask(answering: Any) -> None:
    one = answering(question=QUESTION, context=TEXT)
    assert set(one) == {"score", "start", "end", "answer"}
    item = {"question": QUESTION, "context": TEXT}
    assert answering(item) == one
    assert answering([item, item]) == [one, one]
    assert answering(question=[QUESTION, "What was wet?"], context=TEXT)[0] == one


def test_windows_in_batches(answering: Any) -> None:
    items = [{"question": QUESTION, "context": TEXT}, {"question": "Who?", "context": "It was raining."}]
    settings = {"max_seq_len": 24, "doc_stride": 4, "top_k": 3}
    alone, infer_tied_axes = (answering(items, batch_size=size, **settings) for size in (1, 4))
    for one, other in zip(alone, infer_tied_axes, strict=True):
        assert [answer["answer"] for answer in one] == [answer["answer"] for answer in other]
        np.testing.assert_allclose([a["score"] for a in one], [a["score"] for a in other], rtol=1e-4)


def test_long_question_is_cut(answering: Any) -> None:
    cut = answering(question=f"{QUESTION} {TEXT} {TEXT}", context=TEXT, max_question_len=6)
    assert cut == answering(question=QUESTION, context=TEXT, max_question_len=6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"question": QUESTION},
        {"question": QUESTION, "context": ""},
        {"question": " ", "context": TEXT},
        {"question": QUESTION, "context": TEXT, "top_k": 0},
        {"question": QUESTION, "context": TEXT, "max_seq_len": 5},
        {"question": QUESTION, "context": TEXT, "max_seq_len": 16, "doc_stride": 10},
        {"question": QUESTION, "context": TEXT, "nonsense": 1},
        {"question": [QUESTION] * 2, "context": [TEXT] * 3},
    ],
)
def test_questions_that_cannot_be_answered(answering: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        answering(**arguments)


# --- sentences, texts, images ---------------------------------------------------------------


def test_next_sentence(tmp_path: Path) -> None:
    nlp = pipeline("next-sentence-prediction", save(tmp_path, "BertForNextSentencePrediction", bert_config()))
    answer = nlp(text="It was raining.", text_pair="The street was wet.")
    encoded = nlp.tokenizer("It was raining.", "The street was wet.", return_tensors="pt")
    with torch.no_grad():
        expected = nlp.model(**encoded).logits.softmax(-1)[0, 0].item()
    assert answer == {"is_next": expected >= 0.5, "score": pytest.approx(expected)}
    assert nlp(("It was raining.", "The street was wet.")) == answer
    assert nlp([{"text": "It was raining.", "text_pair": "The street was wet."}]) == [answer]
    with pytest.raises(UsageError):
        nlp(text="It was raining.")


def test_multiple_choice(tmp_path: Path) -> None:
    nlp = pipeline(None, save(tmp_path, "BertForMultipleChoice", bert_config()))
    assert nlp.task == "multiple-choice"
    choices = ["The street was wet.", "Ada wrote it.", "Nobody could."]
    answers = nlp("It was raining.", choices=choices)
    scores = []
    for choice in choices:
        encoded = nlp.tokenizer("It was raining.", choice, return_tensors="pt")
        with torch.no_grad():
            scores.append(nlp.model(**{name: value[None] for name, value in encoded.items()}).logits.item())
    expected = torch.tensor(scores).softmax(0).tolist()
    assert {answer["choice"]: answer["score"] for answer in answers} == pytest.approx(
        dict(zip(choices, expected, strict=True)), rel=1e-4
    )
    found = [answer["score"] for answer in answers]
    assert found == sorted(found, reverse=True)
    with pytest.raises(UsageError):
        nlp("It was raining.")


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 that was taught to put a prefix before what it summarizes."""
    config = transformers.T5Config(
        vocab_size=len(tokenizer()), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
        eos_token_id=3, pad_token_id=0,
        task_specific_params={"summarization": {"prefix": "a photo of: ", "max_new_tokens": 3, "num_beams": 2}},
    )  # fmt: skip
    return save(tmp_path_factory.mktemp("t5"), "T5ForConditionalGeneration", config)


def generated(nlp: Any, text: str, **settings: Any) -> str:
    encoded = nlp.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    tokens = nlp.model.generate(**encoded, pad_token_id=0, **settings)
    return str(nlp.tokenizer.decode(tokens[0], skip_special_tokens=True))


def test_summarization_uses_the_config(t5: Path) -> None:
    nlp = pipeline("summarization", t5)
    expected = generated(nlp, "a photo of: " + TEXT[:60], max_new_tokens=3, num_beams=2)
    assert nlp(TEXT[:60]) == [{"summary_text": expected}]
    longer = generated(nlp, "a photo of: " + TEXT[:60], max_new_tokens=6, num_beams=2)
    assert nlp(TEXT[:60], max_new_tokens=6) == [{"summary_text": longer}]


def test_translation_and_text_to_text(t5: Path) -> None:
    nlp = pipeline("translation_en_to_fr", t5, max_new_tokens=5, num_beams=1)
    assert nlp.task == "translation_en_to_fr"
    expected = generated(nlp, "translate English to French: It was wet.", max_new_tokens=5)
    assert nlp("It was wet.") == [{"translation_text": expected}]
    nlp = pipeline("text2text-generation", t5)
    plain = generated(nlp, "It was wet.", max_new_tokens=5)
    settings = {"max_new_tokens": 5, "num_beams": 1}
    assert nlp("It was wet.", **settings) == [{"generated_text": plain}]
    two = nlp(["It was wet.", "Ada wrote."], batch_size=2, num_return_sequences=2, max_new_tokens=5, num_beams=2)
    assert [len(texts) for texts in two] == [2, 2]
    with pytest.raises(UsageError):
        nlp(3)


def picture(width: int = 40, height: int = 30) -> Any:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def test_image_to_text() -> None:
    image = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    encoder = transformers.ViTConfig(**image, image_size=30, patch_size=10)
    decoder = bert_config(num_hidden_layers=1, is_decoder=True, add_cross_attention=True)
    torch.manual_seed(0)
    model = transformers.VisionEncoderDecoderModel(
        transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    )
    model.generation_config.update(decoder_start_token_id=2, eos_token_id=3, pad_token_id=0)
    processor = transformers.ViTImageProcessor(size={"height": 30, "width": 30})
    nlp = pipeline("image-to-text", model, tokenizer=tokenizer(), image_processor=processor, max_new_tokens=4)
    pixels = processor(images=picture(), return_tensors="pt")
    expected = tokenizer().decode(model.generate(**pixels, max_new_tokens=4)[0], skip_special_tokens=True)
    assert nlp(picture()) == [{"generated_text": expected}]


def test_visual_question_answering() -> None:
    config = transformers.ViltConfig(
        vocab_size=len(tokenizer()), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, max_position_embeddings=64, id2label={0: "cat", 1: "dog", 2: "rain"},
        label2id={"cat": 0, "dog": 1, "rain": 2},
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.ViltForQuestionAnswering(config).eval()
    processor = transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    nlp = pipeline("vqa", model, tokenizer=tokenizer(), image_processor=processor)
    assert nlp.task == "visual-question-answering"
    answers = nlp(image=picture(), question="What was wet?", top_k=2)
    encoded = {**tokenizer()("What was wet?", return_tensors="pt"), **processor(picture(), return_tensors="pt")}
    with torch.no_grad():
        expected = model(**encoded).logits[0].sigmoid()
    best = expected.topk(2)
    assert [answer["answer"] for answer in answers] == [config.id2label[place] for place in best.indices.tolist()]
    np.testing.assert_allclose([answer["score"] for answer in answers], best.values.numpy(), rtol=1e-4)


def test_image_to_image() -> None:
    config = transformers.Swin2SRConfig(
        image_size=16, embed_dim=8, depths=[1], num_heads=[2], window_size=4, upscale=2, upsampler="pixelshuffle"
    )
    torch.manual_seed(0)
    model = transformers.Swin2SRForImageSuperResolution(config).eval()
    processor = transformers.Swin2SRImageProcessor()
    nlp = pipeline("image-to-image", model, image_processor=processor)
    made = nlp(picture(13, 10))
    assert made.size == (26, 20)
    with torch.no_grad():
        expected = model(**processor(picture(13, 10), return_tensors="pt")).reconstruction
    expected = (expected[0, :, :20, :26].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(np.asarray(made), expected)


def test_semantic_segmentation() -> None:
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16,
        id2label={0: "sky", 1: "road"}, label2id={"sky": 0, "road": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.SegformerForSemanticSegmentation(config)
    processor = transformers.SegformerImageProcessor(size={"height": 32, "width": 32})
    nlp = pipeline("semantic-segmentation", model, image_processor=processor)
    parts = nlp(picture())
    assert {part["label"] for part in parts} <= {"sky", "road"}
    covered = sum(np.asarray(part["mask"], np.int64) for part in parts)
    assert covered.shape == (30, 40)
    assert (covered == 255).all()


def test_tokenizer_that_the_pipeline_refuses(tmp_path: Path) -> None:
    folder = save(tmp_path, "BertForMaskedLM", bert_config())
    maskless = tokenizer()
    maskless.mask_token = None
    with pytest.raises(CheckpointError, match="mask_token"):
        pipeline("fill-mask", folder, tokenizer=maskless)


def test_arguments_of_older_callers(tmp_path: Path) -> None:
    folder = save(tmp_path, "BertForMaskedLM", bert_config())
    nlp = pipeline("fill-mask", str(folder), framework="pt", torch_dtype="bfloat16", use_fast=True, device=-1, top_k=2)
    assert nlp.model.dtype == torch.bfloat16
    assert len(nlp("Ada wrote the [MASK].")) == 2
    assert pipeline("fill-mask", folder, model_kwargs={"torch_dtype": torch.float16}).model.dtype == torch.float16
    assert pipeline(model=folder).task == "fill-mask"
    for arguments in ({}, {"task": "multiple-choice"}, {"task": "fill-mask", "framework": "jax", "model": folder}):
        with pytest.raises(UsageError):
            pipeline(**arguments)
    with pytest.raises(MissingDependencyError, match="TF classes"):
        pipeline("fill-mask", folder, framework="tf")
    with pytest.raises(TaskError, match="Unknown task 'summarisation'") as caught:
        pipeline("summarisation", folder)
    assert "'summarization'" in str(caught.value)
