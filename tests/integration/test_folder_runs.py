"""The staged folder, run as its user runs it: faults in files beside the graph are found, sound folders pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxport import convert
from onnxport.artifact import assets
from onnxport.artifact.folder import read_folder
from onnxport.errors import VerificationError
from onnxport.loading.model_to_export import load_model_to_export
from onnxport.loading.resolve import resolve_model
from onnxport.runtime.tasks import text_classification
from onnxport.user_runs.check import run_folder
from onnxport.user_runs.record import SourceAnswers, record_answers
from tests.conversions import Conversions, save
from tests.sample import sampled

pytestmark = pytest.mark.integration

Fault = Callable[[Path], None]


def changed(name: str, **values: Any) -> Fault:
    """Write other values into a JSON file; None removes one. A value may be a function of the old one."""

    def plant(folder: Path) -> None:
        file = folder / name
        document = json.loads(file.read_text()) if file.is_file() else {}
        for key, value in values.items():
            place, *rest = reversed(key.split("__"))
            holder = document
            for part in reversed(rest):
                holder = holder[part]
            holder[place] = value(holder.get(place)) if callable(value) else value
            if value is None:
                del holder[place]
        file.write_text(json.dumps(document))

    return plant


def swapped(labels: dict[str, str]) -> dict[str, str]:
    first, second, *_ = labels
    return {**labels, first: labels[second], second: labels[first]}


def shortened(labels: dict[str, str]) -> dict[str, str]:
    return dict(list(labels.items())[:-1])


def words_swapped(vocabulary: Any) -> Any:
    """Two words that are in the sample texts change places."""
    if isinstance(vocabulary, list):
        vocabulary[10], vocabulary[11] = vocabulary[11], vocabulary[10]
        return vocabulary
    first, second = [word for word in vocabulary if word.strip("Ġ▁#|").isalpha()][:2]
    return {**vocabulary, first: vocabulary[second], second: vocabulary[first]}


def of_another_model(folder: Path) -> None:
    from tests import tiny_tokenizers

    tiny_tokenizers.mpnet().save_pretrained(folder.parent / "other")
    shutil.copyfile(folder.parent / "other" / "tokenizer.json", folder / "tokenizer.json")


def chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


CONFIG, TOKENIZER, SETTINGS = "config.json", "tokenizer.json", "tokenizer_config.json"
IMAGES, GENERATION = "preprocessor_config.json", "generation_config.json"
_TEXT: dict[str, Fault] = {
    "labels swapped": changed(CONFIG, id2label=swapped),
    "labels shortened": changed(CONFIG, id2label=shortened),
    "problem type": changed(CONFIG, problem_type="multi_label_classification"),
    "one word": changed(TOKENIZER, model__vocab=words_swapped),
    "no normalizer": changed(TOKENIZER, normalizer=None),
    "no special tokens": changed(TOKENIZER, post_processor=None),
    "truncation side": changed(SETTINGS, truncation_side="left"),
    "max length": changed(SETTINGS, model_max_length=20),
    "padding token": changed(SETTINGS, pad_token="[UNK]"),
    "another model's tokenizer": of_another_model,
}
_IMAGE: dict[str, Fault] = {
    "mean": changed(IMAGES, image_mean=[0.5, 0.4, 0.5]),
    "std": changed(IMAGES, image_std=[0.5, 0.5, 0.4]),
    "size": changed(IMAGES, size={"height": 30, "width": 32}),
    "resampling": changed(IMAGES, resample=0),
    "no rescaling": changed(IMAGES, do_rescale=False),
    "rescale factor": changed(IMAGES, rescale_factor=1 / 127.5),
    "no normalization": changed(IMAGES, do_normalize=False),
    "no resizing": changed(IMAGES, do_resize=False),
    "labels": changed(CONFIG, id2label=swapped),
}
_SOUND: dict[str, Fault] = {
    "letters": changed("vocab.json", A=lambda _: 8, B=lambda _: 7),
    "no normalization": changed(IMAGES, do_normalize=False),
    "sampling rate": changed(IMAGES, sampling_rate=8000),
    "blank": changed(SETTINGS, pad_token="|"),
}
_GENERATES: dict[str, Fault] = {
    "end": changed(GENERATION, eos_token_id=7),
    "forced token": changed(GENERATION, forced_bos_token_id=9),
    "suppressed tokens": changed(GENERATION, suppress_tokens=list(range(5, 60))),
    "length": changed(GENERATION, max_length=5),
    "one word": changed(TOKENIZER, model__vocab=words_swapped),
}
_SENTENCES: dict[str, Fault] = {
    "pooling": changed("1_Pooling/config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False),
    "no normalization": lambda folder: (folder / "modules.json").write_text(
        json.dumps(json.loads((folder / "modules.json").read_text())[:-1])
    ),
    "prompts": changed("config_sentence_transformers.json", prompts={"query": "query: "}, default_prompt_name="query"),
    "prompt in the mean": changed("1_Pooling/config.json", include_prompt=False),
    "max length": changed("sentence_bert_config.json", max_seq_length=7),
    "case": changed("sentence_bert_config.json", do_lower_case=True),
}
# Found in files that are copies of the checkpoint's, and nowhere else: our run time does not read them.
_COPIES_ONLY = frozenset({"pooling", "no normalization", "prompts", "prompt in the mean"})
# name of the checkpoint -> (arguments of `converted`, faults)
MODELS: dict[str, tuple[dict[str, Any], dict[str, Fault]]] = {
    "bert-text-classification": ({}, _TEXT),
    "vit-image-classification": ({}, _IMAGE),
    "wav2vec2-automatic-speech-recognition": ({}, _SOUND),
    "llama": ({"checkpoint": {"tokenizer": "modernbert"}}, _GENERATES | {"chat template": chat_template}),
    "bart": ({}, _GENERATES | {"start": changed(GENERATION, decoder_start_token_id=8)}),
    "sentence-bert": ({}, _SENTENCES),
}


def answers_of(checkpoint: Path, task: str = "auto") -> SourceAnswers:
    """What the source says; the checkpoint is loaded and not exported."""
    return record_answers(load_model_to_export(resolve_model(checkpoint), task))


@pytest.mark.parametrize("name", sampled(MODELS, *(name for name in MODELS if name != "bart")))
def test_faults_in_files_are_found(name: str, converted: Conversions, tmp_path: Path) -> None:
    arguments, faults = MODELS[name]
    tiny = converted(name, **arguments)
    task = tiny.conversion.manifest.task
    source = answers_of(tiny.source, task)
    sound = run_folder(tiny.folder, source, [])
    assert sound.equal and sound.inputs >= 2, sound.differences
    missed = []
    for fault, plant in faults.items():
        plant(tiny.copy(tmp_path / fault / "out"))
        # Without the comparison with the checkpoint's files, what the folder does and says must tell.
        behaves = fault in _COPIES_ONLY and name == "sentence-bert"
        seen = run_folder(tmp_path / fault / "out", source if behaves else replace(source, origin=None), [])
        if seen.equal:
            missed.append(fault)
    assert not missed


def test_a_fault_of_the_run_time_is_found(converted: Conversions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is in order, and transformers gives what the source gives; users of `onnxport.pipeline` would not."""
    tiny = converted("bert-text-classification")
    source = answers_of(tiny.source)
    real = text_classification.scored
    monkeypatch.setattr(text_classification, "scored", lambda *given, **named: real(*given, **named)[::-1])
    found = run_folder(tiny.folder, source, [])
    assert not found.equal and len(found.differences) == found.inputs
    assert "transformers" in found.differences[0]


def test_pairs_of_texts_are_run(converted: Conversions, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = converted("bert-text-classification")
    source = answers_of(tiny.source)
    pairs = [one for one in source.answered if isinstance(one.call.arguments[0], dict)]
    assert len(pairs) == 1
    real = text_classification._pair_of
    monkeypatch.setattr(text_classification, "_pair_of", lambda item: (real(item)[0], None))
    found = run_folder(tiny.folder, source, [])
    assert len(found.differences) == 1 and "The street is wet." in found.differences[0]


def test_a_folder_that_differs_is_not_published(
    converted: Conversions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = converted("bert-text-classification").source
    write = assets.write_assets

    def planted(pipeline: Any, origin: Any, folder: Path, *rest: Any) -> None:
        write(pipeline, origin, folder, *rest)
        changed(CONFIG, id2label=swapped)(folder)

    monkeypatch.setattr(assets, "write_assets", planted)
    with pytest.raises(VerificationError) as caught:
        convert(None, checkpoint, tmp_path / "out")
    assert caught.value.exit_code == 1 and caught.value.hint and list(tmp_path.iterdir()) == []
    # The input and both results.
    assert "Ada Lovelace" in caught.value.message and ".label is '" in caught.value.message
    conversion = convert(None, checkpoint, tmp_path / "out", allow_mismatch=True)
    recorded = read_folder(tmp_path / "out").folder_run
    assert recorded is not None and not recorded.equal and recorded.differences and not conversion.passed


def test_what_the_user_changed_at_loading_is_in_the_folder(tmp_path: Path) -> None:
    """Arguments of `from_pretrained` change the config of the source, and the folder's with it."""
    checkpoint = save("bert-text-classification", tmp_path / "m")
    labels = {0: "bad", 1: "so-so", 2: "good"}
    convert(None, checkpoint, tmp_path / "out", id2label=labels, label2id={v: k for k, v in labels.items()})
    found = read_folder(tmp_path / "out").folder_run
    assert found is not None and found.equal and found.inputs
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["id2label"]["2"] == "good"
