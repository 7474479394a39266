"""Done once by the server that jobs are forked from: what most conversions import, and the table of operators.

No operation of PyTorch runs here: its threads would not survive the fork.
"""

from __future__ import annotations

import importlib
from contextlib import suppress

_MODULES = (
    "onnx.reference",
    "onnx_ir.passes.common",
    "onnxruntime",
    "onnxscript.function_libs.torch_lib.ops",
    "onnxscript.optimizer",
    "scipy.optimize",
    "sympy.sets.setexpr",
    "sympy.tensor.tensor",
    "torch._dynamo",
    "torch._export.passes.replace_set_grad_with_hop_pass",
    "torch._inductor.decomposition",
    "torch._inductor.fx_passes.dedupe_symint_uses",
    "torch._inductor.sizevars",
    "torch._subclasses.schema_check_mode",
    "torch.export._trace",
    "torch.fx.experimental.validator",
    "torch.onnx._internal.exporter._core",
    "torch.onnx._internal.exporter._torchlib.ops",
    "transformers.exporters.exporter_onnx",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.pipelines",
    "onnxport.api.convert",
    "onnxport.api.capture",
    "onnxport.api.localise",
    "onnxport.api.publish",
    "onnxport.artifact.card",
    "onnxport.export.pytorch",
    "onnxport.loading.assembly",
    "onnxport.loading.load",
    "onnxport.loading.weights",
    "onnxport.runtime.pipeline",
    "onnxport.sources.pytorch.decoder",
    "onnxport.sources.pytorch.measured",
    "onnxport.user_runs.check",
    "onnxport.user_runs.record",
    "onnxport.verification.ledger.prove",
    "onnxport.weights.attach",
)

for _name in _MODULES:
    # Whatever an optional package raises, a job that needs it will say so.
    with suppress(Exception):
        importlib.import_module(_name)

with suppress(Exception):
    from onnxport.export.operator_table import read_operators

    read_operators()
