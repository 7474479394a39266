"""A fixed sample of `benchmarks/coverage`: built from configs, converted, and held against torch by the check there."""

from __future__ import annotations

import pytest

from benchmarks.coverage.check import check
from benchmarks.coverage.checkpoints import build
from benchmarks.coverage.pairs import every_pair
from onnxport import convert
from tests.sample import sampled

pytestmark = pytest.mark.integration

# A few of every modality and task.
SAMPLE = (
    "albert.token-classification", "bart.summarization", "bert.fill-mask", "bert.multiple-choice",
    "bert.next-sentence-prediction", "bloom.text-generation", "camembert.question-answering",
    "chinese_clip_vision_model.image-feature-extraction", "clip.zero-shot-image-classification",
    "convnext.image-classification", "deberta-v2.question-answering", "deit.image-classification",
    "distilbert.fill-mask", "dpt.depth-estimation", "electra.text-classification", "gemma.text-generation",
    "glm4.feature-extraction", "gpt2.text-generation", "gpt_bigcode.feature-extraction", "hubert.audio-classification",
    "layoutlm.text-classification", "lfm3.feature-extraction", "llama.text-generation", "mpnet.fill-mask",
    "mobilevit.image-feature-extraction",
    "qwen3.text-classification", "segformer.semantic-segmentation", "siglip.zero-shot-image-classification",
    "t5.text2text-generation", "vit.image-classification", "wav2vec2.automatic-speech-recognition",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", sampled(SAMPLE, "distilbert.fill-mask", "chinese_clip_vision_model.image-feature-extraction")
)
def test_pair(tmp_path, name):
    pair = next(pair for pair in every_pair({name.partition(".")[0]}) if pair.name == name)
    built = build(pair, tmp_path / "source")
    assert built.made and built.torch_runs is not False, built
    convert(None, tmp_path / "source", tmp_path / "out", pipeline_name=pair.task)
    checked = check(pair, tmp_path / "source", tmp_path / "out")
    assert checked.right and not checked.fixed, checked
