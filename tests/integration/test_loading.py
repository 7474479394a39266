"""From a folder to a pipeline: tasks, weights that are missing, permissions, components."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from onnxport.errors import (  # noqa: E402
    CheckpointError,
    MissingDependencyError,
    OnnxPortError,
    TaskError,
    UntrustedCheckpointError,
    UsageError,
)
from onnxport.loading.load import load, load_graph_from_args  # noqa: E402
from tests.integration.small_models import TEXT, bert_config, save, tokenizer  # noqa: E402
from tests.unit.checkpoints import hdf5_bytes  # noqa: E402

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BertForMaskedLM with a tokenizer."""
    return save(tmp_path_factory.mktemp("masked"), "BertForMaskedLM", bert_config())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BertForSequenceClassification with three labels."""
    return save(tmp_path_factory.mktemp("classifier"), "BertForSequenceClassification", bert_config(num_labels=3))


def copy(folder: Path, target: Path) -> Path:
    """The checkpoint `folder` in `target`, to be changed."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def error_of(kind: type[OnnxPortError], *args: Any, **kwargs: Any) -> str:
    """The text of the error that `load` raises."""
    with pytest.raises(kind) as caught:
        load(*args, **kwargs)
    return str(caught.value)


def test_auto_task_is_that_of_the_class(masked: Path, classifier: Path) -> None:
    loaded = load("auto", None, masked)
    assert loaded.task.name == loaded.pipeline.task == "fill-mask"
    assert type(loaded.pipeline.model).__name__ == "BertForMaskedLM"
    assert not loaded.pipeline.model.training
    assert loaded.checkpoint is not None
    assert (loaded.missing_weights, loaded.dropped_outputs, loaded.notes) == ((), (), ())
    assert len(loaded.pipeline("Ada wrote the [MASK].")) == 5
    assert load("auto", "pt", str(classifier)).task.name == "text-classification"


def test_original_function_and_aliases(classifier: Path) -> None:
    nlp = load_graph_from_args("sentiment-analysis", "pt", str(classifier))
    assert nlp.task == "text-classification"
    assert nlp("Ada wrote it.")[0]["label"] in {"LABEL_0", "LABEL_1", "LABEL_2"}


@pytest.mark.parametrize(
    ("model_class", "config", "task"),
    [
        ("BertModel", {}, "feature-extraction"),
        ("BertForTokenClassification", {}, "token-classification"),
        ("BertForQuestionAnswering", {}, "question-answering"),
        ("BertForMultipleChoice", {}, "multiple-choice"),
        ("BertForNextSentencePrediction", {}, "next-sentence-prediction"),
        ("BertForPreTraining", {}, "fill-mask"),
    ],
)
def test_auto_task_of_a_class(tmp_path: Path, model_class: str, config: dict[str, Any], task: str) -> None:
    folder = save(tmp_path, model_class, bert_config(num_hidden_layers=1, **config))
    loaded = load("auto", None, folder)
    assert loaded.task.name == loaded.pipeline.task == task
    assert bool(loaded.notes) == (model_class == "BertForPreTraining")


def test_auto_task_of_models_with_images(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    image = {**small, "image_size": 30, "patch_size": 10}
    vit = save(tmp_path / "vit", "ViTModel", transformers.ViTConfig(**image), with_tokenizer=False)
    assert load("auto", None, vit).task.name == "image-feature-extraction"
    assert "--task` image-classification or image-feature" in error_of(TaskError, "feature-extraction", None, vit)
    text = {**small, "vocab_size": 40, "max_position_embeddings": 16}
    clip = save(
        tmp_path / "clip",
        "CLIPModel",
        transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=8),
        with_tokenizer=False,
    )
    assert load("auto", None, clip).task.name == "zero-shot-image-classification"
    assert "zero-shot-image-classification" in error_of(TaskError, "feature-extraction", None, clip)


def test_a_model_that_writes_texts_and_could_do_something_else(tmp_path: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32,
    )  # fmt: skip
    folder = save(tmp_path, "BartForConditionalGeneration", config, with_tokenizer=False)
    assert load("auto", None, folder).task.name == "text2text-generation"
    assert load("summarization", None, folder).task.name == "summarization"
    assert load("fill-mask", None, folder).task.name == "fill-mask"


def test_task_that_the_family_cannot_do(masked: Path) -> None:
    text = error_of(TaskError, "image-classification", None, masked)
    assert "BertForMaskedLM" in text
    assert "fill-mask, text-classification" in text
    assert "Did you mean" in error_of(TaskError, "fil-mask", None, masked)


def test_head_that_the_checkpoint_lacks(masked: Path) -> None:
    text = error_of(CheckpointError, "text-classification", None, masked)
    assert "lack 4 parameters of BertForSequenceClassification" in text
    assert "classifier.weight would be random" in text
    assert "is for fill-mask" in text
    assert "--allow-missing-weights" in text


def test_missing_weights_can_be_allowed(masked: Path) -> None:
    first, again = (load("text-classification", None, masked, allow_missing_weights=True) for _ in range(2))
    assert len(first.missing_weights) == 4
    assert first.pipeline.missing_weights == first.missing_weights
    assert "Random" in first.notes[0]
    assert torch.equal(first.pipeline.model.classifier.weight, again.pipeline.model.classifier.weight)


def test_output_without_weights_is_dropped(masked: Path) -> None:
    loaded = load("feature-extraction", None, masked)
    assert loaded.dropped_outputs == loaded.pipeline.dropped_outputs == ("pooler_output",)
    assert loaded.missing_weights == ("pooler.dense.bias", "pooler.dense.weight")
    assert "pooler_output was left out" in loaded.notes[0]
    assert all(parameter.requires_grad for parameter in loaded.pipeline.model.parameters())


def test_the_probe_leaves_the_weights_alone(masked: Path) -> None:
    first, again = (load("feature-extraction", None, masked).pipeline.model.state_dict() for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_parameter_that_every_output_needs(tmp_path: Path, masked: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy(masked, tmp_path / "cut")
    state = load_file(folder / "model.safetensors")
    del state["bert.encoder.layer.1.output.dense.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    for task in ("auto", "feature-extraction"):
        assert "encoder.layer.1.output.dense.weight" in error_of(CheckpointError, task, None, folder)


def test_parameters_of_another_shape(classifier: Path) -> None:
    text = error_of(CheckpointError, "auto", None, classifier, num_labels=5)
    assert "classifier.bias (checkpoint 3, model 5)" in text
    assert "classifier.weight (checkpoint 3x32, model 5x32)" in text


def test_half_precision_is_loaded_as_float32(tmp_path: Path) -> None:
    folder = save(tmp_path, "BertForMaskedLM", bert_config(), dtype=torch.bfloat16)
    loaded = load("auto", None, folder)
    assert loaded.pipeline.model.dtype == torch.float32
    assert loaded.notes == ("The weights are stored as bfloat16 and were loaded as float32 (exactly).",)
    assert load("auto", None, folder, dtype="auto").pipeline.model.dtype == torch.bfloat16
    assert load("auto", None, folder, dtype="float16").pipeline.model.dtype == torch.float16
    assert "'int8'" in error_of(UsageError, "auto", None, folder, dtype="int8")


def test_no_tokenizer(tmp_path: Path) -> None:
    folder = save(tmp_path, "BertForMaskedLM", bert_config(), with_tokenizer=False)
    loaded = load("auto", None, folder)
    assert loaded.pipeline.tokenizer is None
    assert loaded.notes == ("There is no tokenizer in the checkpoint; inputs are generated.",)
    ids = torch.tensor([[2, 5, 6, 3]])
    assert loaded.pipeline({"input_ids": ids})["logits"].shape == (1, 4, bert_config().vocab_size)
    with pytest.raises(UsageError, match="no tokenizer"):
        loaded.pipeline("a text")


def test_given_tokenizer(tmp_path: Path, masked: Path) -> None:
    folder = save(tmp_path / "plain", "BertForMaskedLM", bert_config(), with_tokenizer=False)
    for given in (tokenizer(), masked, str(masked)):
        loaded = load("auto", None, folder, given)
        assert loaded.pipeline.tokenizer is not None
        assert not loaded.notes
    assert "There is no tokenizer in" in error_of(CheckpointError, "auto", None, folder, folder)
    assert "There is no folder" in error_of(CheckpointError, "auto", None, folder, "./nowhere")


def test_tokenizer_with_more_tokens_than_the_model(tmp_path: Path) -> None:
    folder = save(tmp_path, "BertForMaskedLM", bert_config())
    larger = tokenizer()
    larger.add_tokens(["<one>", "<two>"])
    larger.save_pretrained(folder)
    assert "never trained" in load("auto", None, folder).notes[0]


def test_damaged_tokenizer(tmp_path: Path, masked: Path) -> None:
    folder = copy(masked, tmp_path / "damaged")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    assert "tokenizer" in error_of(CheckpointError, "auto", None, folder)


def test_pickled_weights(tmp_path: Path, masked: Path) -> None:
    from safetensors.torch import load_file

    folder = copy(masked, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "--allow-pickle" in error_of(UntrustedCheckpointError, "auto", None, folder)
    assert load("auto", None, folder, allow_pickle=True).task.name == "fill-mask"


class _Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


def test_allowed_pickle_still_runs_no_code(tmp_path: Path, masked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy(masked, tmp_path / "bomb")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": _Bomb()}, folder / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    assert "no code was run" in error_of(CheckpointError, "auto", None, folder, allow_pickle=True)
    assert not (tmp_path / "exploded").exists()


def test_custom_code_is_not_run(tmp_path: Path, masked: Path) -> None:
    folder = copy(masked, tmp_path / "custom")
    (folder / "mine.py").write_text("raise SystemExit('this ran')")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForMaskedLM": "mine.MyModel", "AutoConfig": "mine.MyConfig"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "was not run" in load("auto", None, folder).notes[0]
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mine"}))
    assert "--trust-remote-code" in error_of(UntrustedCheckpointError, "auto", None, folder)


def test_custom_code_that_is_allowed(tmp_path: Path, masked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = copy(masked, tmp_path / "custom")
    (folder / "mine.py").write_text(
        "from transformers import BertConfig, BertForMaskedLM\n"
        "class MyConfig(BertConfig):\n    model_type = 'mine'\n"
        "class MyModel(BertForMaskedLM):\n    config_class = MyConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoModelForMaskedLM": "mine.MyModel", "AutoConfig": "mine.MyConfig"}
    config |= {"model_type": "mine", "auto_map": code, "architectures": ["MyModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load("auto", None, folder, trust_remote_code=True)
    assert loaded.task.name == "fill-mask"
    assert type(loaded.pipeline.model).__name__ == "MyModel"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model_type": "bertt"}, "does not know the model type 'bertt'"),
        ({"model_type": None}, "has no model_type"),
        ({"architectures": None}, "names no architecture"),
        ({"hidden_size": "many"}, "cannot be loaded"),
    ],
)
def test_config_that_cannot_be_used(tmp_path: Path, masked: Path, changes: dict[str, Any], part: str) -> None:
    folder = copy(masked, tmp_path / "odd")
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )
    assert part in error_of(CheckpointError, "auto", None, folder)


def _with_config(folder: Path, target: Path, **changes: Any) -> Path:
    copied = copy(folder, target)
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, **changes}))
    return copied


@pytest.mark.parametrize(
    ("model_type", "written", "hint"),
    [
        # Of a later version, which this onnxport does not allow yet.
        ("brandnew", "99.1.0", "pip install --upgrade onnxport; the installed one works with transformers"),
        ("bertt", transformers.__version__, "write 'bert"),
        # Dropped by transformers 5.
        ("transfo-xl", "4.30.2", "transformers 5 may have dropped it"),
        ("my-own", None, "onnxport.convert(None, model, OUTPUT, sample_inputs=...)"),
        ("my-own", "no version", "onnxport.convert(None, model, OUTPUT, sample_inputs=...)"),
    ],
)
def test_what_helps_with_an_unknown_model_type(
    tmp_path: Path, masked: Path, model_type: str, written: str | None, hint: str
) -> None:
    folder = _with_config(masked, tmp_path / "odd", model_type=model_type, transformers_version=written)
    text = error_of(CheckpointError, "auto", None, folder)
    assert f"transformers {transformers.__version__} does not know the model type {model_type!r}" in text
    assert hint in text
    assert "onnxport env" not in text
    assert (f"transformers {written} wrote" in text) == (written not in (None, "no version"))


def test_the_hint_for_a_version_that_is_allowed_installs_it() -> None:
    from onnxport.loading.transformers_version import is_newer, upgrade_hint

    major, minor, _ = transformers.__version__.split(".")
    assert upgrade_hint(f"{major}.{minor}.99") == f'pip install "transformers~={major}.{minor}.99"'
    assert not is_newer(f"{major}.{minor}.99") and not is_newer("4.6.0.dev0") and not is_newer(None)
    assert is_newer(f"{major}.{int(minor) + 1}.0.dev0")


def test_a_checkpoint_of_a_newer_transformers_is_told(tmp_path: Path, masked: Path) -> None:
    loaded = load("auto", None, _with_config(masked, tmp_path / "newer", transformers_version="99.1.0"))
    assert loaded.notes == (
        f"The checkpoint was written by transformers 99.1.0, and {transformers.__version__} is installed: settings "
        "that it does not know yet are ignored.",
    )
    broken = _with_config(masked, tmp_path / "broken", transformers_version="99.1.0", hidden_size="many")
    text = error_of(CheckpointError, "auto", None, broken)
    assert "was written by transformers 99.1.0" in text and "pip install --upgrade onnxport" in text
    unknown = _with_config(
        masked, tmp_path / "unknown", transformers_version="99.1.0", architectures=["BertForSomethingNew"]
    )
    text = error_of(TaskError, "auto", None, unknown)
    assert "the installed one has no such class" in text and "pip install --upgrade onnxport" in text
    assert load("auto", None, _with_config(masked, tmp_path / "old", transformers_version="4.6.0.dev0")).notes == ()


def test_unknown_arguments(masked: Path) -> None:
    assert "'nonsense'" in error_of(UsageError, "auto", None, masked, nonsense=1)
    assert "Unknown framework 'jax'" in error_of(UsageError, "auto", "jax", masked)


def test_tensorflow_classes_are_not_beside_pytorch(tmp_path: Path, masked: Path) -> None:
    assert "onnxport env create hf-tensorflow" in error_of(MissingDependencyError, "auto", "tf", masked)
    folder = copy(masked, tmp_path / "tensorflow")
    (folder / "model.safetensors").unlink()
    (folder / "tf_model.h5").write_bytes(hdf5_bytes())
    assert "has no TF classes" in error_of(MissingDependencyError, "auto", None, folder)
    assert "only TensorFlow weights" in error_of(CheckpointError, "auto", "pt", folder)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_framework_that_is_not_installed(masked: Path, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    text = error_of(MissingDependencyError, "auto", None, masked)
    assert f"{missing} is not installed" in text
    assert 'pip install "onnxport[pytorch]"' in text


def test_live_model(masked: Path) -> None:
    model = transformers.AutoModelForMaskedLM.from_pretrained(masked)
    loaded = load("auto", None, model, tokenizer())
    assert loaded.task.name == "fill-mask"
    assert loaded.pipeline.model is model
    assert loaded.checkpoint is None
    assert load("auto", None, model).pipeline.tokenizer is not None  # from the folder that it was loaded from
    assert "sample_inputs" in error_of(UsageError, "auto", None, torch.nn.Linear(2, 2))


def test_text_is_as_long_as_the_tests_need() -> None:
    assert len(tokenizer()(TEXT)["input_ids"]) > 40


def test_features_of_a_sound_need_their_extractor(tmp_path):
    from tests.conversions import save as save_tiny

    source = save_tiny("whisper", tmp_path / "m")
    for file in source.glob("*processor_config.json"):
        file.unlink()
    with pytest.raises(CheckpointError) as caught:
        load_graph_from_args("automatic-speech-recognition", None, source)
    assert "no feature extractor" in caught.value.message and "preprocessor_config.json" in caught.value.hint
