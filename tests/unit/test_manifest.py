"""onnxport.json: round trip, errors that name the field, and the JSON schema."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from importlib import resources
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxport import specs
from onnxport.artifact import manifest as manifest_module
from onnxport.artifact.manifest import SCHEMA_VERSION, Manifest
from onnxport.artifact.manifest_json import from_json, to_json
from onnxport.errors import FolderError
from onnxport.specs import Limit
from tests.unit.sample_manifest import make_manifest

SCHEMA = json.loads(resources.files("onnxport.artifact").joinpath("schema.json").read_text())


def validate(text: str) -> None:
    jsonschema.validate(json.loads(text), SCHEMA, cls=jsonschema.Draft202012Validator)


def with_error(value: Any) -> Manifest:
    """The sample with `value` as an error of its first output."""
    manifest = make_manifest()
    verification = manifest.components[0].verification
    assert verification is not None
    output = dataclasses.replace(verification.cases[0].outputs[0], max_abs_error=value)
    case = dataclasses.replace(verification.cases[0], outputs=(output,))
    component = dataclasses.replace(
        manifest.components[0], verification=dataclasses.replace(verification, cases=(case,))
    )
    return dataclasses.replace(manifest, components=(component,))


def read_error(manifest: Manifest) -> float:
    verification = manifest.components[0].verification
    assert verification is not None
    return verification.cases[0].outputs[0].max_abs_error


def edited(path: list[str | int], value: Any) -> str:
    """The sample's JSON with one place changed; `...` deletes it."""
    data = json.loads(to_json(make_manifest()))
    place = data
    for step in path[:-1]:
        place = place[step]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(data)


def test_round_trip() -> None:
    text = to_json(make_manifest())
    assert from_json(text) == make_manifest()
    assert text.endswith("}\n")
    assert text.isascii()
    validate(text)


def test_bytes_do_not_depend_on_the_order_of_mappings() -> None:
    manifest = make_manifest()
    turned = dataclasses.replace(
        manifest,
        files=dict(reversed(manifest.files.items())),
        versions=dict(reversed(manifest.versions.items())),
    )
    assert to_json(turned) == to_json(manifest)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_floats_that_json_does_not_have(value: float) -> None:
    text = to_json(with_error(value))
    json.loads(text, parse_constant=pytest.fail)  # standard JSON only
    validate(text)
    back = read_error(from_json(text))
    assert back == value or (math.isnan(back) and math.isnan(value))


@given(st.floats())
@settings(max_examples=200, deadline=None)
@pytest.mark.slow
def test_any_float_survives(value: float) -> None:
    back = read_error(from_json(to_json(with_error(value))))
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_numpy_scalars_are_plain_numbers() -> None:
    text = to_json(with_error(np.float32(0.5)))
    assert read_error(from_json(text)) == 0.5
    manifest = make_manifest()
    component = dataclasses.replace(manifest.components[0], opset=np.int64(18), parameters=np.uint8(3))
    text = to_json(dataclasses.replace(manifest, components=(component,)))
    assert (from_json(text).components[0].opset, from_json(text).components[0].parameters) == (18, 3)


def test_wrong_types_are_not_written() -> None:
    with pytest.raises(TypeError, match=r"manifest\.task"):
        to_json(dataclasses.replace(make_manifest(), task=3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (["task"], ..., "lacks the field `task`"),
        (["components", 0, "opset"], ..., "lacks the field `components[0].opset`"),
        (["components", 0, "opset"], "18", "`components[0].opset`: expected a whole number, found \"18\""),
        (["components", 0, "opset"], True, "`components[0].opset`"),
        (["components", 0, "inputs", 1, "axes", 0], 1.5, "`components[0].inputs[1].axes[0]`"),
        (["components", 0, "inputs", 1, "axes"], "batch", "`components[0].inputs[1].axes`: expected a list"),
        (["components", 0, "verification", "cases", 0, "outputs", 0, "scale"], None,
         "`components[0].verification.cases[0].outputs[0].scale`: expected a number, found null"),
        (["components", 0, "verification", "passed"], 1, "`components[0].verification.passed`: expected true or false"),
        (["components", 0, "verification"], [], "`components[0].verification`: expected an object"),
        (["components", 0, "data_files"], "x", "`components[0].data_files`: expected a list"),
        (["components", 0, "weights_checksum"], "x", "`components[0].weights_checksum`: expected an object"),
        (["components", 0, "ledger", "weights", "words"], "proved", "`components[0].ledger.weights['words']`"),
        (["components", 0, "ledger", "weights", "words"], 1, "`components[0].ledger.weights['words']`"),
        (["unused", "checkpoint"], [], "`unused.checkpoint`: expected an object"),
        (["components", 0, "weights_checksum", "count"], None, "`components[0].weights_checksum.count`"),
        (["components", 0, "weights_checksum", "file"], ..., "lacks the field `components[0].weights_checksum.file`"),
        (["components", 0, "colour"], "red", "unknown field `components[0].colour`"),
        (["versions", "torch"], 2, "`versions['torch']`: expected a string"),
        (["files", "config.json"], "abc", "`files['config.json']`: expected a sha256"),
        (["components", 0, "restrictions", 0, "rule"], 3, "`components[0].restrictions[0].rule`: expected a string"),
        (["components", 0, "restrictions", 0, "rule"], ..., "lacks the field `components[0].restrictions[0].rule`"),
        (["components", 0, "restrictions", 0, "kind"], "", "unknown field `components[0].restrictions[0].kind`"),
        (["components", 0, "derived_from"], 1, "`components[0].derived_from`"),
        (["schema_version"], ..., "`schema_version`"),
        (["schema_version"], 0, "`schema_version`"),
    ],
)  # fmt: skip
def test_errors_name_the_field(path: list[str | int], value: Any, named: str) -> None:
    with pytest.raises(FolderError, match=re.escape(named)) as caught:
        from_json(edited(path, value))
    assert caught.value.hint
    with pytest.raises(jsonschema.ValidationError):
        validate(edited(path, value))


def test_optional_fields_may_be_absent() -> None:
    for name in ("operators", "size_bytes", "fixes", "verification", "data_files", "weights_checksum", "derived_from"):
        text = edited(["components", 0, name], ...)
        from_json(text)
        validate(text)


def test_folders_of_older_versions_can_be_read() -> None:
    data = json.loads(to_json(make_manifest()))
    for name in ("data_files", "weights_checksum"):
        del data["components"][0][name]
    component = from_json(json.dumps(data)).components[0]
    assert component.data_files == ()
    assert component.weights_checksum is None


def version_1(*names: str, precision: str = "float32") -> str:
    """The sample as onnxport 0.1 wrote it, with graphs of these names."""
    data = json.loads(to_json(make_manifest())) | {"schema_version": 1}
    (component,) = data["components"]
    del component["derived_from"]
    data["components"] = [component | {"name": name, "precision": precision} for name in names]
    return json.dumps(data)


def test_version_1_says_by_names_which_graph_was_made_from_which() -> None:
    names = (
        "model",
        "model_quantized",
        "model_fused",
        "model_fused_q4",
        "model_fixed",
        "model_optimized",
        "model_int8",
    )
    manifest = from_json(version_1(*names))
    assert [component.derived_from for component in manifest.components] == [
        None, "model", "model", "model_fused", "model", "model", "model",
    ]  # fmt: skip
    assert {manifest.origin(component).name for component in manifest.components} == {"model"}
    assert manifest.schema_version == SCHEMA_VERSION
    validate(to_json(manifest))
    # Signatures of a SavedModel: a longer name alone makes no variant.
    manifest = from_json(version_1("predict", "predict_proba", "predict_proba_q4", "fixed", "fused_q4"))
    assert [component.derived_from for component in manifest.components] == [None, None, "predict_proba", None, None]


def with_origins(**origins: str | None) -> Manifest:
    """The sample with graphs of these names, each made from another."""
    (component,) = make_manifest().components
    components = tuple(dataclasses.replace(component, name=n, derived_from=base) for n, base in origins.items())
    return dataclasses.replace(make_manifest(), components=components)


def test_version_2_does_not_look_at_names() -> None:
    manifest = from_json(to_json(with_origins(predict=None, predict_fixed=None, other_q4="predict")))
    assert [component.name for component in manifest.converted()] == ["predict", "predict_fixed"]
    assert manifest.origin(manifest.components[2]).name == "predict"


def test_the_graph_beside_a_variant() -> None:
    manifest = with_origins(encoder=None, decoder=None, encoder_q4="encoder", decoder_q4="decoder", decoder_x="decoder")
    found = [manifest.counterpart(component, "encoder") for component in manifest.components]
    assert [graph.name if graph else None for graph in found] == [
        "encoder", "encoder", "encoder_q4", "encoder_q4", "encoder",
    ]  # fmt: skip
    assert manifest.counterpart(manifest.components[0], "absent") is None


@pytest.mark.parametrize("origins", [{"a": "b"}, {"a": "a"}, {"a": "b", "b": "a"}, {"a": None, "b": "c", "c": "b"}])
def test_a_graph_that_goes_back_to_none(origins: dict[str, str | None]) -> None:
    with pytest.raises(FolderError, match=r"components\[\d\]\.derived_from`: expected the name of another graph"):
        from_json(to_json(with_origins(**origins)))


@pytest.mark.parametrize("rule", ["real tokens first", "at most many", "fixed at -1", "equal to a b", "note x", ""])
def test_a_rule_in_no_known_form_is_a_text(rule: str) -> None:
    text = edited(["components", 0, "restrictions", 0, "rule"], rule)
    (restriction,) = from_json(text).components[0].restrictions
    assert (restriction.limit, restriction.rule) == (Limit.NOTE, rule)
    assert json.loads(to_json(from_json(text)))["components"][0]["restrictions"][0]["rule"] == rule


def test_newer_schema_says_upgrade_even_if_all_else_changed() -> None:
    with pytest.raises(FolderError, match="schema version 99") as caught:
        from_json(json.dumps({"schema_version": 99, "graphs": []}))
    assert "pip install --upgrade onnxport" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "NaN", '{"schema_version": NaN}', "[" * 100_000])
def test_not_a_manifest(text: str) -> None:
    with pytest.raises(FolderError):
        from_json(text)


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "onnx/../../x", "./x", "a//b", "", "..", "C:/x", "a\\..\\..\\x", "onnx/", "x\0"]
)
def test_paths_that_leave_the_folder(path: str) -> None:
    places: list[tuple[list[str | int], Any]] = [
        (["components", 0, "file"], path),
        (["components", 0, "data_files", 1], path),
        (["components", 0, "weights_checksum", "file"], path),
        (["files"], {path: "a" * 64}),
    ]
    for place, value in places:
        text = edited(place, value)
        with pytest.raises(FolderError, match="not a path inside the folder"):
            from_json(text)
        with pytest.raises(jsonschema.ValidationError):
            validate(text)


def test_version_2_has_no_ledger() -> None:
    data = json.loads(to_json(make_manifest())) | {"schema_version": 2}
    del data["unused"], data["components"][0]["ledger"]
    manifest = from_json(json.dumps(data))
    assert manifest.components[0].ledger is None
    assert manifest.unused is None
    assert manifest.schema_version == SCHEMA_VERSION
    validate(to_json(manifest))


def test_a_weight_of_the_ledger_is_one_text() -> None:
    data = json.loads(to_json(make_manifest()))
    ledger = data["components"][0]["ledger"]
    assert ledger["weights"]["words"] == "exact | as is | model.safetensors: bert.words"
    read = from_json(json.dumps(data)).components[0].ledger
    assert read is not None
    assert read.proved_bytes == read.total_bytes == 437_763_584


def test_every_field_is_in_the_schema() -> None:
    classes = {
        cls.__name__: cls
        for cls in (*vars(manifest_module).values(), *vars(specs).values())
        if isinstance(cls, type) and dataclasses.is_dataclass(cls)
    }
    definitions = {**SCHEMA["$defs"], "Manifest": SCHEMA}
    assert len(classes) >= 7
    for name, cls in classes.items():
        fields = dataclasses.fields(cls)
        if cls is specs.Restriction:  # its limit and operand are one text
            assert list(definitions[name]["properties"]) == ["axis", "rule", "reason"]
            continue
        assert [field.name for field in fields] == list(definitions[name]["properties"]), name
        required = {
            field.name
            for field in fields
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        # The version has a default for whoever makes a manifest, but a file must say it.
        assert required | ({"schema_version"} if cls is Manifest else set()) == set(definitions[name]["required"]), name
        assert definitions[name]["additionalProperties"] is False
    assert SCHEMA["properties"]["schema_version"] == {"const": SCHEMA_VERSION}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PLACES = [
    ["task"], ["components"], ["components", 0], ["components", 0, "inputs", 0, "axes"], ["files"], ["notes"],
    ["components", 0, "verification", "cases", 0], ["components", 0, "verification", "cases", 0, "sizes"],
    ["components", 0, "file"], ["components", 0, "operators"], ["schema_version"],
    ["components", 0, "data_files"], ["components", 0, "weights_checksum"], ["components", 0, "derived_from"],
    ["components", 0, "restrictions", 0, "rule"],
    ["components", 0, "ledger"], ["components", 0, "ledger", "weights", "words"], ["unused"],
]  # fmt: skip


@given(st.sampled_from(PLACES), JSON_VALUES)
@settings(max_examples=300, deadline=None)
@pytest.mark.slow
def test_any_damage_is_a_folder_error_or_a_manifest(place: list[str | int], value: Any) -> None:
    try:
        manifest = from_json(edited(place, value))
    except FolderError:
        return
    assert from_json(to_json(manifest)) == manifest


def test_how_a_tolerance_was_found_is_kept_and_unknown_to_onnxport_0_1() -> None:
    manifest = make_manifest()
    verification = manifest.components[0].verification
    assert verification is not None
    case = verification.cases[0]
    measured = dataclasses.replace(case.outputs[0], method="float64", source_error=1e-6, graph_error=2e-6)
    case = dataclasses.replace(case, outputs=(measured, *case.outputs[1:]))
    verification = dataclasses.replace(verification, cases=(case,))
    component = dataclasses.replace(manifest.components[0], verification=verification)
    text = to_json(dataclasses.replace(manifest, components=(component,)))
    validate(text)
    read = from_json(text).components[0].verification
    assert read == verification and read.cases[0].outputs[0].judged_error == 2e-6
    data = json.loads(text)
    for output in data["components"][0]["verification"]["cases"][0]["outputs"]:
        for name in ("method", "source_error", "graph_error"):
            output.pop(name, None)
    validate(json.dumps(data))
    old = from_json(json.dumps(data)).components[0].verification
    assert old is not None
    check = old.cases[0].outputs[0]
    assert (check.method, check.source_error, check.judged_error) == ("fixed", None, check.max_abs_error)
