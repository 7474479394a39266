"""What torch.onnx would do again: its second trace, only where a program needs it, and what it knows."""

from __future__ import annotations

import contextlib
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch.onnx._internal.exporter import _fx_passes, _registration

from onnxport import convert
from onnxport.export.decompositions import decompose_where_needed, has_translations
from onnxport.export.guards import accepted_guards, valid_sizes
from onnxport.export.loaded_patches import loaded_patches
from onnxport.export.operator_table import operator_table
from onnxport.export.type_promotion import promote_recorded_types

pytestmark = pytest.mark.integration


class Spellings(torch.nn.Module):
    """Casts, a reshape, a mask of two, a copy in another layout, the smaller and the larger of two."""

    def forward(self, x):
        pairs = x.reshape(x.shape[0], -1, 1).to(torch.float64).to(torch.float64).transpose(1, 2).contiguous()
        pairs = torch.max(torch.min(pairs, -pairs), pairs / 2)
        mask = (pairs > -1) & (pairs < 1) | (pairs > 2)
        return torch.where(mask, pairs, 0.5).to(x.device).view(pairs.shape[0], -1).float()


class SpelledOutputs(torch.nn.Module):
    """Outputs that are inputs or each other, in another layout or of the same type."""

    def forward(self, x):
        left, right = (x * 2)[:, None].split(1, dim=1)[0].squeeze(1).contiguous(), x.to(torch.float32)
        return left, left.contiguous(), right, x.reshape(x.shape[0], -1)


class InPlace(torch.nn.Module):
    """In place where nothing else sees it; the second after the first, and of what was read before."""

    def forward(self, x):
        doubled = x * 2
        halved = doubled / 4
        doubled.add_(x).relu_()
        return halved, doubled.mul(3)


class ReadAfterwards(torch.nn.Module):
    """The tensor that is written to is read again by its first name."""

    def forward(self, x):
        doubled = x * 2
        view = doubled[:, 1:]
        doubled.add_(1)
        return view * 3


class ReadThroughDropout(torch.nn.Module):
    """In inference, dropout gives its argument itself."""

    def forward(self, x):
        doubled = x * 2
        same = torch.nn.functional.dropout(doubled, 0.5, training=self.training)
        same.add_(1)
        return doubled


class OtherType(torch.nn.Module):
    """A new tensor would be of type double."""

    def forward(self, x):
        return (x * 2).add_(x.double())


class Image(torch.nn.Module):
    """Layers of an image network in inference."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(1, 5, (2, 1), padding="valid")
        self.norm = torch.nn.BatchNorm2d(5)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.act = torch.nn.ReLU(inplace=True)

    def forward(self, x):
        return torch.nn.functional.adaptive_avg_pool2d(self.act(self.norm(self.convolution(x[:, None, :, None]))), 1)


class Normed(torch.nn.Module):
    """A weight that is stored as its direction and its length along the last axis, as wav2vec2's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(1, 3, 4), dim=2)
        torch.nn.init.uniform_(self.convolution.parametrizations.weight.original0, 0.5, 2)

    def forward(self, x):
        return self.convolution(x[:, None])


class Detached(torch.nn.Module):
    """A constant that torch.export detaches after its trace."""

    def forward(self, x):
        return torch.where(x > 0, x, torch.tensor(-1.5)) + x.detach()


class Untranslated(torch.nn.Module):
    """An operator that torch.onnx cannot translate before it is decomposed."""

    def forward(self, x):
        return torch.nn.functional.adaptive_avg_pool1d(x[:, None], 1)


def exported(module):
    rows = torch.export.Dim("rows")
    return torch.export.export(module.eval(), (torch.randn(4, 12),), dynamic_shapes=({0: rows},))


def known():
    registry = _registration.ONNXRegistry.from_torchlib()
    return {meanings[0].fx_target for meanings in registry.functions.values()}


def test_spellings_are_replaced():
    program = exported(Spellings())
    assert has_translations(program, known())
    left = {str(node.target) for node in program.graph_module.graph.nodes}
    replaced = ("aten.to.", "aten.reshape", "aten.contiguous", "aten.__", "aten.min.", "aten.max.")
    assert not {name for name in left if name.startswith(replaced)}


@pytest.mark.parametrize("module", [InPlace, Image, Normed, Detached])
def test_no_second_trace_for_what_equals_another_operator(module):
    program = exported(module())
    assert has_translations(program, known())
    left = {str(node.target) for node in program.graph_module.graph.nodes}
    assert not {
        name
        for name in left
        if "_." in name or name.startswith(("aten.batch", "aten.adaptive", "aten.detach", "aten._weight"))
    }


@pytest.mark.parametrize("module", [ReadAfterwards, ReadThroughDropout, OtherType, Untranslated])
def test_other_programs_take_the_second_trace(module):
    program = exported(module())
    before = program.graph_module.code
    assert not has_translations(program, known())
    assert program.graph_module.code == before


def test_torch_is_as_it_was():
    own = _fx_passes.decompose_with_registry
    with pytest.raises(ZeroDivisionError), decompose_where_needed():
        assert _fx_passes.decompose_with_registry is not own
        raise ZeroDivisionError
    assert _fx_passes.decompose_with_registry is own


class Promotions(torch.nn.Module):
    """Whole numbers with fractions, two precisions, a mean of half precision, and scalars."""

    def forward(self, x):
        whole = (x * 3).to(torch.int64)
        half = torch.softmax(x.half() / 2, -1).mean(-1, keepdim=True)
        return whole / 2 + half * x.double(), torch.where(whole > 1, whole, 0.5), whole.bool() | (x > 0)


def kind_of(value):
    return (value.dtype, len(value.shape)) if isinstance(value, torch.Tensor) else type(value)


def test_casts_are_those_of_a_second_run():
    from torch.onnx._internal.exporter._fx_passes import insert_type_promotion_nodes

    found = []
    for patch in (contextlib.nullcontext, promote_recorded_types):
        program = exported(Promotions())
        before = len(program.graph.nodes)
        with patch():
            insert_type_promotion_nodes(program.graph_module)
        program.graph_module.recompile()
        assert len(program.graph.nodes) > before  # there is something to cast
        found.append((program.graph_module.code, [node.meta.get("val") for node in program.graph.nodes]))
    (plain, values), (code, others) = found
    assert code == plain
    kinds = [
        [(one.dtype, len(one.shape)) for one in part if isinstance(one, torch.Tensor)] for part in (values, others)
    ]
    assert kinds[0] == kinds[1]


def test_the_table_of_operators_is_read_once():
    own = _registration.onnxscript_apis.get_torchlib_ops
    tables = []
    for _ in range(2):
        with operator_table():
            tables.append(_registration.onnxscript_apis.get_torchlib_ops())
    assert tables[0] is tables[1]
    onnxscripts = own()
    assert [(meta.qualified_name, meta.function) for meta in tables[0][: len(onnxscripts)]] == [
        (meta.qualified_name, meta.function) for meta in onnxscripts
    ]
    assert all(meta.is_complex for meta in tables[0][len(onnxscripts) :])
    with pytest.raises(ZeroDivisionError), operator_table():
        raise ZeroDivisionError
    assert _registration.onnxscript_apis.get_torchlib_ops is own


def test_patches_of_models_that_are_not_loaded_are_left_out():
    import transformers.exporters.exporter_onnx
    import transformers.models.qwen2_vl.modeling_qwen2_vl  # noqa: F401
    from transformers.exporters import utils

    before = {backend: list(patches) for backend, patches in utils._PATCHES.items()}
    modules = set(sys.modules)
    with pytest.raises(ZeroDivisionError), loaded_patches():
        inside = {backend: list(patches) for backend, patches in utils._PATCHES.items()}
        with utils.apply_patches("dynamo"), utils.apply_patches("onnx"):
            assert not {name for name in set(sys.modules) - modules if name.startswith("transformers.models.")}
            raise ZeroDivisionError
    assert before == utils._PATCHES
    paths = {path for path, _, _ in inside["dynamo"]}
    assert "transformers.models.qwen2_vl.modeling_qwen2_vl.VisionAttention" in paths
    # What is no module of a model stays whether it is loaded or not.
    assert {path for path, _, _ in before["dynamo"] if not path.startswith("transformers.models.")} <= paths


class Strides(torch.nn.Module):
    """At five columns or fewer one is left after the strides, which torch.export takes for another case."""

    def forward(self, x):
        half = torch.nn.functional.conv1d(x[:, None], torch.ones(1, 1, 1), stride=5)
        return half + half.mean(-1, keepdim=True)


class Constant(Strides):
    def forward(self, x):
        return super().forward(x) + int(x.shape[1])


def test_a_trace_is_kept_where_its_guards_are_accepted():
    columns, messages = torch.export.Dim("columns"), []
    example = torch.randn(2, 12)

    def export():
        return torch.export.export(Strides(), (example,), dynamic_shapes=({1: columns},))

    with accepted_guards(lambda message: messages.append(message) or True):
        program = export()
    assert valid_sizes(messages[0], "columns", 12) == (6, None)
    for size in (6, 7, 31):
        x = torch.randn(2, size)
        found = program.graph_module(x)[0]
        torch.testing.assert_close(found, Strides()(x))
    with accepted_guards(lambda message: True), pytest.raises(torch._dynamo.exc.UserError):
        # A constant size is no guard that a larger size could satisfy.
        torch.export.export(Constant(), (example,), dynamic_shapes=({1: columns},))
    with accepted_guards(lambda message: False), pytest.raises(torch._dynamo.exc.UserError):
        export()
    with pytest.raises(torch._dynamo.exc.UserError):
        export()


@pytest.mark.parametrize(
    "module",
    [Spellings, SpelledOutputs, InPlace, ReadAfterwards, OtherType, Image, Normed, Detached, Untranslated],
)
def test_numbers_at_another_size(module, tmp_path):
    convert("pt", module().eval(), tmp_path / "out", sample_inputs=torch.randn(4, 12))
    x = np.random.default_rng(0).standard_normal((10, 12)).astype(np.float32)
    (file,) = (tmp_path / "out").rglob("*.onnx")
    session = onnxruntime.InferenceSession(file)
    wanted = module().eval()(torch.from_numpy(x))
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for found, value in zip(session.run(None, {session.get_inputs()[0].name: x}), wanted, strict=True):
        np.testing.assert_allclose(found, value.detach().numpy(), atol=1e-6)
