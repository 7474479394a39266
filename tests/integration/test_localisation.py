"""A graph that differs from its source: the module and the node where it begins to are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from onnxport import convert, verify
from onnxport.errors import VerificationError
from onnxport.sources.pytorch.source import TorchSource
from onnxport.specs import CaseCheck, OutputCheck, Verification
from onnxport.verification.case import Case
from onnxport.verification.compare import check_case
from onnxport.verification.localisation.search import find_difference
from onnxport.verification.sessions import session_for

pytestmark = pytest.mark.integration
WIDTH = 24


class Block(nn.Module):
    """A residual block: x + down(gelu(up(norm(x))))."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.act = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU()
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(self.act(self.up(self.norm(x))))


class Blocks(nn.Module):
    """Three blocks and a head."""

    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(3)), nn.Linear(WIDTH, 5)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(x)}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Blocks().eval()


@pytest.fixture(scope="module")
def graph(once, model):
    """The graph of the model, as `convert` writes it."""

    def make(folder):
        convert(None, model, folder / "out.onnx", sample_inputs={"x": torch.randn(2, 7, WIDTH)})

    folder, _ = once("localisation-blocks", make)
    return onnx.load(folder / "out.onnx")


def changed(graph, change):
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    nodes = {node.name: node for node in copy.graph.node}
    change(copy, nodes)
    return copy


def searched(model, graph, file):
    """What verification and the search say of a changed graph, at a size that was not traced."""
    onnx.save(graph, file)
    source = TorchSource(model)
    x = np.random.default_rng(3).standard_normal((1, 5, WIDTH)).astype(np.float32)
    case = Case("other", {"batch_size": 1}, {"x": x}, source.run({"x": x}))
    check = check_case(session_for(file).run, case, None, None, 1e-5, 1e-5)
    assert not check.ok, "the change must be seen"
    verification = Verification(False, "torch", "onnxruntime", 1e-5, 1e-5, (check,))
    return find_difference(file, source, [case], verification)


def nodes_of(graph, operator):
    return [node.name for node in graph.graph.node if node.op_type == operator]


def test_a_changed_attribute(model, graph, tmp_path):
    name = nodes_of(graph, "LayerNormalization")[1]

    def change(_, nodes):
        kept = [attribute for attribute in nodes[name].attribute if attribute.name != "epsilon"]
        del nodes[name].attribute[:]
        nodes[name].attribute.extend([*kept, helper.make_attribute("epsilon", 1e-2)])

    found = searched(model, changed(graph, change), tmp_path / "g.onnx")
    assert (found.node, found.operator) == (name, "LayerNormalization")
    assert (found.module, found.kind) == ("blocks.1.norm", "LayerNorm")
    assert found.error_before < 1e-6 < 1e-3 < found.error_after
    assert found.shape == (1, 5, WIDTH)
    before = [one.error for one in found.modules if one.module.startswith("blocks.0")]
    assert before and max(before) < 1e-6


@pytest.mark.parametrize("name", ["blocks.2.up.bias", "blocks.0.down.bias", "head.bias"])
def test_a_changed_weight(model, graph, tmp_path, name):
    def change(copy, _):
        tensor = next(one for one in copy.graph.initializer if one.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[2] += 0.05
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    reader = next(node for node in graph.graph.node if name in node.input)
    found = searched(model, changed(graph, change), tmp_path / "g.onnx")
    assert (found.node, found.module, found.kind) == (reader.name, name.rpartition(".")[0], "Linear")


def test_a_wrong_residual_has_no_module_of_its_own(model, graph, tmp_path):
    """The addition is code of the block, between its modules."""
    name = [node.name for node in graph.graph.node if node.op_type == "Add" and not any(
        "." in given for given in node.input)][1]  # fmt: skip

    def change(_, nodes):
        nodes[name].op_type = "Sub"

    found = searched(model, changed(graph, change), tmp_path / "g.onnx")
    assert (found.node, found.module, found.kind) == (name, "blocks.1", "Block")


def test_a_wrong_decomposition(model, graph, tmp_path):
    """GELU through erf with a wrong constant, in four nodes instead of one."""
    at, gelu = [(n, node) for n, node in enumerate(graph.graph.node) if node.op_type == "Gelu"][2]

    def change(copy, _):
        source, target = gelu.input[0], gelu.output[0]
        nodes = [
            helper.make_node("Mul", [source, "scale"], ["g.scaled"], name="g.scale"),
            helper.make_node("Erf", ["g.scaled"], ["g.erf"], name="g.erf"),
            helper.make_node("Add", ["g.erf", "one"], ["g.more"], name="g.more"),
            helper.make_node("Mul", [source, "half"], ["g.half"], name="g.half"),
            helper.make_node("Mul", ["g.half", "g.more"], [target], name="g.last"),
        ]
        kept = [*copy.graph.node]
        del copy.graph.node[:]
        copy.graph.node.extend([*kept[:at], *nodes, *kept[at + 1 :]])
        for name, value in (("scale", 0.7), ("one", 1.0), ("half", 0.5)):  # 2 ** -0.5 is 0.7071
            copy.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))

    found = searched(model, changed(graph, change), tmp_path / "g.onnx")
    assert found.node.startswith("g.")
    assert (found.module, found.kind) == ("blocks.2.act", "GELU")
    assert "without a counterpart" in found.note


def test_a_sound_graph_that_is_called_wrong_finds_nothing(model, graph, tmp_path):
    onnx.save(graph, tmp_path / "g.onnx")
    source = TorchSource(model)
    x = np.random.default_rng(3).standard_normal((1, 5, WIDTH)).astype(np.float32)
    outputs = source.run({"x": x})
    wrong = OutputCheck("logits", (1, 5, 5), 1.0, 1.0, 1.0, 1e-5, False)
    case = Case("other", {}, {"x": x}, outputs)
    verification = Verification(False, "", "", 0, 0, (CaseCheck("other", {}, (wrong,), ok=False),))
    found = find_difference(tmp_path / "g.onnx", source, [case], verification)
    assert found is not None and not found.node and "equal" in found.note
    passed = replace(verification, cases=(CaseCheck("other", {}, ()),))
    assert find_difference(tmp_path / "g.onnx", source, [case], passed) is None


def test_a_conversion_tells_where(model, tmp_path, monkeypatch):
    """A fault after capture, with the scopes of the export: the error and the folder's manifest have the finding."""
    from onnxport.api import build_graph

    right = build_graph.strip

    def strip(captured):
        import onnx_ir as ir

        gelus = [node for node in captured.graph if node.op_type == "Gelu"]
        gelus[1].attributes["approximate"] = ir.AttrString("approximate", "tanh")
        return right(captured)

    monkeypatch.setattr(build_graph, "strip", strip)
    sample = {"x": 3 * torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(0))}
    with pytest.raises(VerificationError) as error:
        convert(None, model, tmp_path / "out", sample_inputs=sample)
    found = error.value.verification.difference
    assert (found.module, found.kind, found.operator) == ("blocks.1.act", "GELU", "Gelu")
    assert error.value.manifest.components[0].verification.difference == found
    assert not (tmp_path / "out").exists()
    conversion = convert(None, model, tmp_path / "out", sample_inputs=sample, allow_mismatch=True)
    assert conversion.manifest.components[0].verification.difference.module == "blocks.1.act"
    with pytest.raises(VerificationError) as again:
        verify(tmp_path / "out", model, sample_inputs=sample)
    assert again.value.verification.difference.module == "blocks.1.act"
