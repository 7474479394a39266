"""Rows for which transformers 5 has no pipeline: its model and processor, as its documentation uses them.

Each function loads a checkpoint and returns what answers as the pipeline would that transformers 4 had, or as
`onnxport.pipeline` is documented. Nothing of onnxport is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

Answer = Callable[..., Any]
_LONGEST = 15  # tokens of an answer in a text


def _question_answering(path: str) -> Answer:
    model, tokenizer = _loaded("AutoModelForQuestionAnswering", path), _tokenizer(path)

    def answer(question: str, context: str) -> dict[str, Any]:
        inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
        offsets = inputs.pop("offset_mapping")[0].tolist()
        inside = torch.tensor([part == 1 for part in inputs.sequence_ids(0)])
        outputs = model(**inputs)
        # Of the context alone, and the token [CLS], which stands for "no answer".
        allowed = inside.clone()
        allowed[0] = True
        first, last = (
            scores[0].masked_fill(~allowed, -10000.0).softmax(0)
            for scores in (outputs.start_logits, outputs.end_logits)
        )
        pairs = torch.outer(first, last).triu().tril(_LONGEST - 1)
        pairs[0] = 0
        start, end = divmod(int(pairs.argmax()), len(last))
        words = inputs.word_ids(0)
        begin = min(n for n, word in enumerate(words) if word == words[start] and inside[n])
        finish = max(n for n, word in enumerate(words) if word == words[end] and inside[n])
        left, right = offsets[begin][0], offsets[finish][1]
        return {"score": float(pairs[start, end]), "start": left, "end": right, "answer": context[left:right]}

    return answer


def _text_to_text(key: str) -> Callable[[str], Answer]:
    def load(path: str) -> Answer:
        model, tokenizer = _loaded("AutoModelForSeq2SeqLM", path), _tokenizer(path)

        def answer(text: str, **settings: Any) -> list[dict[str, str]]:
            inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            tokens = model.generate(**inputs, **settings)
            return [{key: tokenizer.decode(tokens[0], skip_special_tokens=True)}]

        return answer

    return load


def _multiple_choice(path: str) -> Answer:
    model, tokenizer = _loaded("AutoModelForMultipleChoice", path), _tokenizer(path)

    def answer(text: str, choices: list[str]) -> list[dict[str, Any]]:
        inputs = tokenizer([text] * len(choices), choices, return_tensors="pt", padding=True)
        scores = model(**{name: value[None] for name, value in inputs.items()}).logits[0].softmax(0).tolist()
        rows = [{"choice": choice, "score": score} for choice, score in zip(choices, scores, strict=True)]
        return sorted(rows, key=lambda row: -row["score"])

    return answer


def _next_sentence(path: str) -> Answer:
    model, tokenizer = _loaded("AutoModelForNextSentencePrediction", path), _tokenizer(path)

    def answer(text: str, text_pair: str) -> dict[str, Any]:
        score = float(model(**tokenizer(text, text_pair, return_tensors="pt")).logits[0].softmax(0)[0])
        return {"is_next": score >= 0.5, "score": score}

    return answer


def _sound(auto: str, finish: Callable[[Any], Any]) -> Callable[[str], Answer]:
    def load(path: str) -> Answer:
        model, extractor = _loaded(auto, path), transformers.AutoFeatureExtractor.from_pretrained(path)

        def answer(sound: dict[str, Any]) -> Any:
            inputs = extractor(sound["raw"], sampling_rate=sound["sampling_rate"], return_tensors="pt")
            return finish(model(**inputs))

        return answer

    return load


def _clips(path: str) -> Answer:
    model, processor = _loaded("AutoModelForVideoClassification", path), _image_processor(path)

    def answer(frames: list[str]) -> list[dict[str, Any]]:
        inputs = processor([Image.open(frame).convert("RGB") for frame in frames], return_tensors="pt")
        scores = model(**inputs).logits[0].softmax(0).tolist()
        rows = [{"score": score, "label": model.config.id2label[number]} for number, score in enumerate(scores)]
        return sorted(rows, key=lambda row: -row["score"])

    return answer


def _image_to_image(path: str) -> Answer:
    model, processor = _loaded("AutoModelForImageToImage", path), _image_processor(path)

    def answer(image: str) -> Any:
        picture = Image.open(image).convert("RGB")
        made = model(**processor(picture, return_tensors="pt")).reconstruction[0]
        scale = model.config.upscale
        made = made[:, : picture.height * scale, : picture.width * scale].clamp(0, 1)
        return Image.fromarray((made * 255).round().byte().permute(1, 2, 0).numpy())

    return answer


def _image_to_text(path: str) -> Answer:
    model, processor = _loaded("AutoModelForImageTextToText", path), _image_processor(path)
    tokenizer = _tokenizer(path)

    def answer(image: str, **settings: Any) -> list[dict[str, str]]:
        inputs = processor(Image.open(image).convert("RGB"), return_tensors="pt")
        tokens = model.generate(**inputs, **settings)
        return [{"generated_text": tokenizer.decode(tokens[0], skip_special_tokens=True)}]

    return answer


def _masks(path: str) -> Answer:
    model = _loaded("AutoModelForMaskGeneration", path)
    processor = transformers.SamProcessor(_image_processor(path))

    def answer(image: str, input_points: Any, input_labels: Any) -> list[dict[str, Any]]:
        picture = Image.open(image).convert("RGB")
        inputs = processor(picture, input_points=[input_points], input_labels=[input_labels], return_tensors="pt")
        made = model(pixel_values=inputs["pixel_values"], input_points=inputs["input_points"].float(),
                     input_labels=inputs["input_labels"])  # fmt: skip
        sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        masks = processor.post_process_masks(made.pred_masks, *sizes)[0]
        best = made.iou_scores[0].argmax(-1)
        return [
            {"score": float(made.iou_scores[0, number, chosen]), "mask": masks[number, chosen].numpy().astype(np.uint8)}
            for number, chosen in enumerate(best)
        ]

    return answer


def _forecast(path: str) -> Answer:
    model = transformers.PatchTSTForPrediction.from_pretrained(path).eval()

    def answer(values: Any) -> Any:
        past = torch.from_numpy(values[None, -model.config.context_length :])
        return model(past_values=past).prediction_outputs[0].numpy()

    return answer


def _loaded(auto: str, path: str) -> Any:
    return getattr(transformers, auto).from_pretrained(path).eval()


def _tokenizer(path: str) -> Any:
    return transformers.AutoTokenizer.from_pretrained(path)


def _image_processor(path: str) -> Any:
    return transformers.AutoImageProcessor.from_pretrained(path)


BY_HAND: dict[str, Callable[[str], Answer]] = {
    "question-answering": _question_answering,
    "text2text-generation": _text_to_text("generated_text"),
    "summarization": _text_to_text("summary_text"),
    "translation": _text_to_text("translation_text"),
    "multiple-choice": _multiple_choice,
    "next-sentence-prediction": _next_sentence,
    "audio-frame-classification": _sound(
        "AutoModelForAudioFrameClassification", lambda made: made.logits[0].sigmoid().numpy()
    ),
    "audio-xvector": _sound("AutoModelForAudioXVector", lambda made: made.embeddings[0].numpy()),
    "video-classification": _clips,
    "image-to-image": _image_to_image,
    "image-to-text": _image_to_text,
    "mask-generation": _masks,
    "time-series-forecasting": _forecast,
}
