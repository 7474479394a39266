"""Manifest to JSON text and back, strictly.

The dataclasses in `manifest.py` are the only description: encoder and decoder walk their type
hints, so that a new field needs no code here (it needs a line in `schema.json`). Two classes have a form
of their own: the limit and the operand of a restriction are one text, `rule`, as they have been since
schema version 1; and a weight of a ledger is one text, since there may be thousands.

JSON has no NaN and no infinity, and a conversion that went wrong has them: these three floats are
the strings "NaN", "Infinity" and "-Infinity", so that they survive the round trip.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from onnxport.artifact.ledger import WeightProof
from onnxport.artifact.manifest import SCHEMA_VERSION, Manifest
from onnxport.artifact.manifest_limits import check_limits
from onnxport.artifact.version_1 import add_origins
from onnxport.errors import FolderError
from onnxport.specs import Restriction

_T = TypeVar("_T")
_Order = Callable[[Any], list[Any]]
_SPECIAL_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME = 255  # bytes; Linux, macOS and Windows have no longer names
_RULED = ("axis", "rule", "reason")  # the fields of a restriction in JSON, all of them texts
_HINT = "Restore the file from where the folder came from, or convert again with `onnxport convert`."


def to_json(manifest: Manifest) -> str:
    """The text of `onnxport.json`: ASCII, indent 2, newline at the end.

    Fields come in the order of the dataclasses and mappings sorted by key, so equal manifests give
    equal bytes. Numpy scalars are written as plain numbers.

    Raises:
        TypeError: a value does not have the type that its field declares.
    """
    return json.dumps(_encode(Manifest, manifest, "manifest"), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> Manifest:
    """The manifest in `text`.

    A field that has a default may be absent; an unknown field is an error.

    Raises:
        FolderError: not JSON, a field is missing, unknown or wrong (the message names it, as in
            `components[0].inputs[1].axes`), or the manifest was written by a newer onnxport.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FolderError(f"The manifest is not JSON: {error}.", hint=_HINT) from error
    if not isinstance(data, dict):
        raise FolderError(f"The manifest must be a JSON object, not {_kind(data)}.", hint=_HINT)
    version = _version(data)
    if version == 1:
        data = add_origins(data)
    if version < SCHEMA_VERSION:  # version 2 has no ledgers, which are optional
        data = data | {"schema_version": SCHEMA_VERSION}
    manifest: Manifest = _decode(Manifest, data, "")
    check_limits(manifest)
    _check_origins(manifest)
    for where, path in named_paths(manifest):
        check_relative_path(path, where)
    for path, digest in manifest.files.items():
        if not _SHA256.fullmatch(digest):
            raise _wrong(f"files[{path!r}]", "a sha256 of 64 lower case hex digits", digest)
    return manifest


def to_plain(cls: type[_T], value: _T) -> Any:
    """A dataclass as JSON types, for documents other than the manifest. Mappings keep their order.

    Args:
        cls: its class; the fields are what those of the manifest are, or paths.

    Raises:
        TypeError: a value does not have the type that its field declares.
    """
    return _encode(cls, value, cls.__name__, order=list)


def from_plain(cls: type[_T], data: Any) -> _T:
    """The inverse of `to_plain`.

    Raises:
        FolderError: a field is missing, unknown or wrong.
    """
    decoded: _T = _decode(cls, data, "")
    return decoded


def named_paths(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every path in the manifest, and before it the field that it stands in (`components[0].file`)."""
    for index, component in enumerate(manifest.components):
        where = f"components[{index}]"
        yield f"{where}.file", component.file
        for number, path in enumerate(component.data_files):
            yield f"{where}.data_files[{number}]", path
        if component.weights_checksum is not None:
            yield f"{where}.weights_checksum.file", component.weights_checksum.file
    for path in manifest.files:
        yield f"files[{path!r}]", path


def check_relative_path(path: str, where: str) -> None:
    """Accept only "/" separated paths that stay in the folder, whatever system reads them.

    Args:
        path: the path from a manifest.
        where: the field it stands in, for the message.

    Raises:
        FolderError: empty, absolute, with a drive, a backslash, a "." or ".." part, or one that no system can have.
    """
    if (
        any(len(part.encode("utf-8", "replace")) > _LONGEST_NAME for part in path.split("/"))
        or not path
        or any(part in ("", ".", "..") for part in path.split("/"))
        or re.search(r"[\\:\0]", path)
    ):
        raise FolderError(
            f"The manifest names {path[:200]!r} at `{where}`, which is not a path inside the folder. Nothing was read.",
            hint="Do not use this folder: a manifest written by onnxport names only files in its own folder.",
        )


def _check_origins(manifest: Manifest) -> None:
    """Every graph goes back to one that was converted."""
    bases: dict[str, str | None] = {}
    for component in manifest.components:
        bases.setdefault(component.name, component.derived_from)
    sound: set[str | None] = {None}
    for index, component in enumerate(manifest.components):
        seen: set[str | None] = {component.name}
        base = component.derived_from
        while base not in sound:
            if base in seen or base not in bases:
                raise _wrong(f"components[{index}].derived_from", "the name of another graph", component.derived_from)
            seen.add(base)
            base = bases[base]
        sound |= seen


def _version(data: dict[str, Any]) -> int:
    version = data.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise _wrong("schema_version", "a whole number from 1", version)
    if version > SCHEMA_VERSION:
        raise FolderError(
            f"The manifest has schema version {version}; this onnxport reads up to {SCHEMA_VERSION}.",
            hint="The folder was written by a newer onnxport: pip install --upgrade onnxport",
        )
    return version


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _kind(value: object) -> str:
    """The value as a user sees it in the file, shortened."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _wrong(where: str, expected: str, value: object) -> FolderError:
    return FolderError(f"The manifest is wrong at `{where}`: expected {expected}, found {_kind(value)}.", hint=_HINT)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _encode(hint: Any, value: Any, where: str, order: _Order = sorted) -> Any:
    """`value` of declared type `hint` as JSON types; the keys of a mapping as `order` puts them."""
    encode = functools.partial(_encode, order=order)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, hint):
        return _encode_object(hint, value, where, order)
    if origin is tuple and isinstance(value, tuple | list):
        return [encode(args[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {str(key): encode(args[1], value[key], f"{where}[{key!r}]") for key in order(value)}
    if origin is types.UnionType:
        if value is None and type(None) in args:
            return None
        return encode(_member(args, value), value, where)
    return _encode_scalar(hint, value, where)


def _member(union: tuple[Any, ...], value: Any) -> Any:
    """The type in a union that a value has: unions in use are `X | None` and `int | str`."""
    if isinstance(value, str) and str in union:
        return str
    return next((member for member in union if member not in (str, type(None))), str)


def _encode_object(cls: type, value: Any, where: str, order: _Order) -> dict[str, Any]:
    if isinstance(value, WeightProof):
        return value.text  # type: ignore[return-value]
    if cls is Restriction:
        return {name: _encode(str, getattr(value, name), f"{where}.{name}") for name in _RULED}
    hints = _hints(cls)
    return {name: _encode(hints[name], getattr(value, name), f"{where}.{name}", order) for name in hints}


def _encode_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint in (str, Path) and isinstance(value, hint):
        return str(value)
    # Numbers may be numpy scalars; `item` makes plain ones of them without importing numpy.
    plain = value.item() if hasattr(value, "item") else value
    if hint is bool and isinstance(plain, bool):
        return plain
    if hint is int and not isinstance(plain, bool) and hasattr(plain, "__index__"):
        return operator.index(plain)
    if hint is float and isinstance(plain, int | float) and not isinstance(plain, bool):
        return _encode_float(float(plain))
    raise TypeError(f"{where} must be {hint}, not {value!r}")


def _encode_float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decode(hint: Any, value: Any, where: str) -> Any:
    """A JSON value as declared type `hint`; the inverse of `_encode`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _decode_object(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        return tuple(_decode(args[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        return {key: _decode(args[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    if origin is types.UnionType:
        if value is None and type(None) in args:
            return None
        return _decode(_member(args, value), value, where)
    return _decode_scalar(hint, value, where)


def _decode_object(cls: type, value: Any, where: str) -> Any:
    if cls is WeightProof:
        try:
            return WeightProof.from_text(value)
        except (ValueError, AttributeError):
            raise _wrong(where, "the text of a weight's proof", value) from None
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    prefix = f"{where}." if where else ""
    hints = _hints(cls) if cls is not Restriction else dict.fromkeys(_RULED, str)
    if unknown := sorted(set(value) - set(hints)):
        raise FolderError(f"The manifest has an unknown field `{prefix}{unknown[0]}`.", hint=_HINT)
    for name in _required(cls):
        if name not in value:
            raise FolderError(f"The manifest lacks the field `{prefix}{name}`.", hint=_HINT)
    fields = {name: _decode(hints[name], item, f"{prefix}{name}") for name, item in value.items()}
    return Restriction.from_rule(**fields) if cls is Restriction else cls(**fields)


def _required(cls: type) -> tuple[str, ...]:
    if cls is Restriction:
        return _RULED
    none = dataclasses.MISSING
    return tuple(f.name for f in dataclasses.fields(cls) if f.default is none and f.default_factory is none)


def _decode_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint in (str, Path):
        if isinstance(value, str):
            return hint(value)
        raise _wrong(where, "a string", value)
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise _wrong(where, "true or false", value)
    if hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise _wrong(where, "a whole number", value)
    if isinstance(value, str) and value in _SPECIAL_FLOATS:
        return _SPECIAL_FLOATS[value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        # Other writers drop the ".0" of whole floats, so an int is a float here.
        try:
            return float(value)
        except OverflowError:
            raise _wrong(where, "a number in the range of a double", value) from None
    raise _wrong(where, "a number", value)
