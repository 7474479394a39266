"""A manifest with every field filled, for the tests of what reads and shows manifests."""

from __future__ import annotations

from onnxport.artifact.ledger import Ledger, Proof, UnusedTensors, WeightProof
from onnxport.artifact.manifest import Component, FolderRun, Manifest, WeightsChecksum
from onnxport.specs import CaseCheck, Limit, OutputCheck, Restriction, TensorSpec, Verification


def make_manifest() -> Manifest:
    """A BERT with one graph and two verified cases."""
    logits = OutputCheck("logits", (1, 7, 30522), 2.4e-6, 1.1e-7, 21.5, 2e-4, True)
    hidden = OutputCheck("hidden", (1, 7, 4), 1.5e-4, 1e-5, 15.0, 2e-4, True)
    cases = (
        CaseCheck("traced", {"batch_size": 2, "sequence_length": 7}, (logits, hidden), "token", 1.0),
        CaseCheck("longer, padded rows", {"batch_size": 3, "sequence_length": 11}, (logits,)),
    )
    component = Component(
        name="model",
        file="onnx/model.onnx",
        opset=18,
        precision="float32",
        parameters=109_514_298,
        inputs=(
            TensorSpec("input_ids", "int64", ("batch_size", "sequence_length")),
            TensorSpec("attention_mask", "int64", ("batch_size", "sequence_length")),
        ),
        outputs=(TensorSpec("logits", "float32", ("batch_size", "sequence_length", 30522)),),
        restrictions=(Restriction("sequence_length", Limit.AT_MOST, 512, "the model has 512 positions"),),
        verification=Verification(True, "torch 2.13.0", "onnxruntime 1.32.0 (CPUExecutionProvider)", 1e-4, 1e-3, cases),
        fixes=("sdpa-mask",),
        operators={"MatMul": 96, "com.microsoft.Attention": 12},
        size_bytes=438_000_000,
        data_files=("onnx/model.onnx_data", "onnx/model.onnx_data_1"),
        weights_checksum=WeightsChecksum("crc32", 199, 437_000_000, "onnx/model.weights.json"),
        ledger=Ledger(
            "checkpoint",
            {
                "words": WeightProof(Proof.EXACT, "as is", "model.safetensors: bert.words"),
                "val_7": WeightProof(Proof.TRANSFORMED, "to float32, transposed 1 0", "model.safetensors: bert.query"),
            },
            {"exact": 93_763_584, "transformed": 344_000_000},
            876_000_000,
        ),
    )
    return Manifest(
        task="fill-mask",
        framework="pt",
        source="google-bert/bert-base-uncased",
        architecture="BertForMaskedLM",
        versions={"onnxport": "0.1.0", "torch": "2.13.0", "onnx": "1.23.2"},
        components=(component,),
        files={"onnx/model.onnx": "a" * 64, "config.json": "0123456789abcdef" * 4},
        notes=("no tokenizer in the checkpoint",),
        folder_run=FolderRun("onnxport.pipeline", 6, True, 1),
        unused=UnusedTensors(
            {"cls.seq_relationship.weight": "part of BertForPreTraining"}, {"bert.pooler.bias": "unused"}
        ),
    )
