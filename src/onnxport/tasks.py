"""Tasks as data, one row per task. No other code depends on the name of a task.

A row names the transformers auto classes of the model, the kind of dummy inputs (`dummy_inputs`), the outputs of the
graph, and the decision that a user sees, so that verification can compare it too.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxport.errors import TaskError, did_you_mean


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
        name: canonical name.
        kind: kind of dummy inputs: "text", "text-pair", "choices", "decoder", "image", "image-in-text", "audio",
            "video", "image+texts", "image+queries" (several texts for each image),
            "image+points" or "series".
        auto: auto classes of the model, of transformers or `loading.own_auto_classes`, tried in this order.
        outputs: graph outputs in order. Those that the model does not return are dropped; one at least must remain.
        decision: what a user sees: "label" (argmax of logits over the last axis), "token" (the same per position),
            "span"
            (argmax of start and end logits), "box" (label of every query), "class map" (argmax over axis 1), "nearest
            text", or None if the values themselves are the result.
        summary: one line for `onnxport tasks`.
        example: the arguments of `onnxport run`.
        aliases: other names of the task.
        generates: models that generate tokens are exported for generation: an encoder-decoder as two graphs, a model
            with
            images in its text as three. Other models of the row are one graph.
    """

    name: str
    kind: str
    auto: tuple[str, ...]
    outputs: tuple[str, ...]
    decision: str | None
    summary: str
    example: str
    aliases: tuple[str, ...] = ()
    generates: bool = False


# Kinds of tasks whose inputs are an image and texts that are separate from it.
IMAGE_AND_TEXTS = ("image+texts", "image+queries")

_SEGMENTATION = ("logits", "pred_boxes", "pred_masks", "class_queries_logits", "masks_queries_logits")

# Order matters: a checkpoint's task is the first row with an auto class that contains its architecture.
TASKS: tuple[Task, ...] = (
    Task("fill-mask", "text", ("AutoModelForMaskedLM",), ("logits",), "token",
         "words for a masked position", '"Paris is the [MASK] of France."', ("masked-lm",)),
    Task("text-classification", "text", ("AutoModelForSequenceClassification",), ("logits",), "label",
         "a label for a text", '"I love it."', ("sentiment-analysis", "sequence-classification")),
    Task("token-classification", "text", ("AutoModelForTokenClassification",), ("logits",), "token",
         "a label for every token", '"Ada lives in London."', ("ner",)),
    Task("question-answering", "text-pair", ("AutoModelForQuestionAnswering",), ("start_logits", "end_logits"), "span",
         "the span of a context that answers", '"Who wrote it?" "Ada wrote it."', ("qa",)),
    Task("document-question-answering", "text-pair", ("AutoModelForDocumentQuestionAnswering",),
         ("start_logits", "end_logits"), "span", "the words of a page that answer",
         'page.json "What is the total?"', ("document-qa",)),
    Task("zero-shot-classification", "text-pair", ("AutoModelForSequenceClassification",), ("logits",), "label",
         "labels given at run time, by entailment", '"A new phone" "technology,sport"'),
    Task("text-generation", "decoder", ("AutoModelForCausalLM",), ("logits",), "token",
         "the continuation of a text", '"Once upon a time"', ("causal-lm",), generates=True),
    Task("text2text-generation", "text", ("AutoModelForSeq2SeqLM",), ("logits",), "token",
         "a text from a text", '"translate English to German: Good morning."', ("seq2seq-lm",), generates=True),
    Task("summarization", "text", ("AutoModelForSeq2SeqLM",), ("logits",), "token",
         "a short text from a long one", '"A long text."', generates=True),
    Task("translation", "text", ("AutoModelForSeq2SeqLM",), ("logits",), "token",
         "a text in another language", '"Good morning."', generates=True),
    Task("multiple-choice", "choices", ("AutoModelForMultipleChoice",), ("logits",), "label",
         "the best of several endings", '"It rains." "I get wet." "I fly."'),
    Task("next-sentence-prediction", "text-pair", ("AutoModelForNextSentencePrediction",), ("logits",), "label",
         "whether one sentence follows another", '"It rains." "The street is wet."', ("next-sentence",)),
    Task("object-detection", "image", ("AutoModelForObjectDetection",), ("logits", "pred_boxes"), "box",
         "boxes and labels in an image", "photo.png"),
    Task("image-classification", "image", ("AutoModelForImageClassification",), ("logits",), "label",
         "a label for an image", "photo.png"),
    Task("semantic-segmentation", "image", ("AutoModelForSemanticSegmentation",), ("logits",), "class map",
         "a class for every pixel", "photo.png"),
    Task("image-segmentation", "image",
         ("AutoModelForUniversalSegmentation", "AutoModelForImageSegmentation", "AutoModelForInstanceSegmentation"),
         _SEGMENTATION, "box", "masks and labels in an image", "photo.png",
         ("panoptic-segmentation", "instance-segmentation")),
    Task("depth-estimation", "image", ("AutoModelForDepthEstimation",), ("predicted_depth",), None,
         "the distance of every pixel", "photo.png"),
    Task("audio-classification", "audio", ("AutoModelForAudioClassification",), ("logits",), "label",
         "a label for a sound", "sound.wav"),
    Task("automatic-speech-recognition", "audio", ("AutoModelForCTC", "AutoModelForSpeechSeq2Seq"), ("logits",),
         "token", "the words of a recording", "speech.wav", ("asr", "speech-recognition"), generates=True),
    Task("audio-frame-classification", "audio", ("AutoModelForAudioFrameClassification",), ("logits",), None,
         "labels for every moment of a recording", "speech.wav", ("speaker-diarization",)),
    Task("audio-xvector", "audio", ("AutoModelForAudioXVector",), ("embeddings", "logits"), None,
         "a vector for the voice in a recording", "speech.wav", ("speaker-verification",)),
    Task("video-classification", "video", ("AutoModelForVideoClassification",), ("logits",), "label",
         "a label for a clip, given as its frames", "frame1.png frame2.png"),
    Task("image-to-image", "image", ("AutoModelForImageToImage",), ("reconstruction",), None,
         "a larger or restored image", "photo.png", ("super-resolution",)),
    Task("image-to-text", "image", ("AutoModelForImageTextToText",), ("logits",), "token",
         "a text about an image", "photo.png", ("image-captioning",), generates=True),
    Task("image-text-to-text", "image-in-text", ("AutoModelForImageTextToText",), ("logits",), "token",
         "a text about an image and a text", 'photo.png "What is this?"', generates=True),
    Task("zero-shot-image-classification", "image+texts", ("AutoModelForZeroShotImageClassification",),
         ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"), "nearest text",
         "labels given at run time, for an image", 'photo.png "a cat,a dog"'),
    Task("zero-shot-object-detection", "image+queries", ("AutoModelForZeroShotObjectDetection",),
         ("logits", "pred_boxes"), "box", "boxes of what is named at run time, in an image",
         'photo.png "a cat,a dog"'),
    Task("mask-generation", "image+points", ("AutoModelForMaskGeneration",), ("iou_scores", "pred_masks"), None,
         "masks of what points mark in an image", "photo.png 320,240"),
    Task("time-series-forecasting", "series", ("AutoModelForForecasting",), ("prediction_outputs",), None,
         "the next values of a time series", "series.csv", ("forecasting",)),
    Task("image-feature-extraction", "image", ("AutoModel",), ("image_embeds", "last_hidden_state", "pooler_output"),
         None, "the hidden states of an image model", "photo.png"),
    Task("feature-extraction", "text", ("AutoModel",),
         ("text_embeds", "last_hidden_state", "pooler_output", "sentence_embedding", "token_embeddings"), None,
         "hidden states, or sentence embeddings", '"A sentence."', ("default", "sentence-similarity")),
)  # fmt: skip

# A plain module, a Keras model, or a signature of a SavedModel. It is not in the table, because no auto class has it
# and no pipeline prepares its inputs. Its outputs are all that it returns.
MODULE = Task("module", "tensors", (), (), None, "a model without a task: arrays in, arrays out", "inputs.npz")

_BY_NAME: dict[str, Task] = {name: task for task in TASKS for name in (task.name, *task.aliases)}


def find_task(name: str) -> Task:
    """Return the row of a task.

    Args:
        name: canonical name or alias.

    Raises:
        TaskError: there is no such task; the hint names similar ones.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        hint = did_you_mean(name, _BY_NAME) + " `onnxport tasks` shows the table."
        raise TaskError(f"Unknown task {name!r}.", hint=hint) from None
