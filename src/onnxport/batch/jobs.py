"""Read the jobs of a batch: a YAML, JSON, JSONL or CSV file, or a folder of checkpoints."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxport.errors import MissingDependencyError, UsageError, did_you_mean
from onnxport.formats.json_file import read_json

# Arguments of `convert` that a job may set, with the type of their values.
OPTIONS: Mapping[str, type] = {
    "task": str, "framework": str, "opset": int, "tokenizer": str, "revision": str, "signature": str,
    "use_external_format": bool, "link_weights": bool, "allow_mismatch": bool, "allow_missing_weights": bool,
    "allow_unused_weights": bool, "require_dynamic": bool, "allow_pickle": bool, "trust_remote_code": bool,
    "base_model": str, "strip_prefix": str, "dequantize": bool,
}  # fmt: skip
_LISTS = ("precisions", "targets")
_KEYS = ("model", "name", *_LISTS, *OPTIONS)
_SUFFIXES = (".yaml", ".yml", ".json", ".jsonl", ".csv")
# Files by which a folder is known as a checkpoint, and files that are one.
_MARKS = ("config.json", "modules.json", "saved_model.pb")
_MODEL_FILES = (".keras", ".gguf", ".h5")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
_MOST_JOBS = 100_000


@dataclass(frozen=True)
class Job:
    """One conversion.

    Attributes:
        name: of its folder in the output; letters, digits and `_.+-`.
        model: a folder, file or hub name, as for `convert`.
        options: further arguments of `convert` (`OPTIONS`).
        precisions: quantized graphs to add, as `quantize` calls them: "int8", "int4".
        targets: run times to write for: "genai", "transformers.js".
    """

    name: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    precisions: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """12 hex digits that change with anything that changes the result; the name does not."""
        parts = [self.model, dict(sorted(self.options.items())), self.precisions, self.targets]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def read_jobs(path: Path) -> list[Job]:
    """The jobs in a file, or one for each checkpoint in a folder; each with a name of its own.

    Paths of models in a file are relative to the folder of the file.

    Example of a JSONL file:
        {"model": "models/bert", "task": "fill-mask", "precisions": ["int8"]}
        {"model": "models/whisper", "name": "speech", "targets": ["transformers.js"]}

    Raises:
        UsageError: no such file, an unknown key or value, a name that occurs twice, or no job at all.
        MissingDependencyError: a YAML file, without PyYAML.
    """
    path = path.expanduser()
    if path.is_dir():
        jobs = _named(Job("", str(found.resolve())) for found in _checkpoints(path))
    elif path.is_file():
        jobs = _named(_job(entry, f"{path.name}, {where}", path.parent) for where, entry in _entries(path))
    else:
        raise UsageError(f"{path} does not exist.", hint="Give a file of jobs, or a folder of checkpoints.")
    if not jobs:
        raise UsageError(f"{path} has no job.", hint=f"A job is for example {{'model': 'bert-base'}}; keys: {_keys()}.")
    return jobs


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if any((entry / mark).is_file() for mark in _MARKS) or (entry.is_file() and entry.suffix in _MODEL_FILES)
    )


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """(where it stands, value) of every job in a file.

    Raises:
        UsageError: the file cannot be read as what its name says.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise UsageError(f"{path.name} is no file of jobs.", hint=f"Known endings: {', '.join(_SUFFIXES)}.")
    try:
        text = path.read_text(encoding="utf-8")
        match suffix:
            case ".jsonl":
                for number, line in enumerate(text.splitlines(), start=1):
                    if line.strip():
                        yield f"line {number}", json.loads(line)
            case ".csv":
                for number, row in enumerate(csv.DictReader(text.splitlines()), start=2):
                    yield f"line {number}", {key: value for key, value in row.items() if value}
            case _:
                document = read_json(path) if suffix == ".json" else _yaml(text)
                entries = document.get("jobs") if isinstance(document, dict) else document
                if not isinstance(entries, list):
                    raise UsageError(f"{path.name} is not a list of jobs.", hint="- model: path/to/checkpoint")
                yield from ((f"job {number}", entry) for number, entry in enumerate(entries, start=1))
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, RecursionError) as error:
        raise UsageError(f"{path.name} cannot be read: {error}.", hint=f"Is it a {suffix} file?") from None


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingDependencyError("YAML files need PyYAML.", hint='pip install "onnxport[batch]"') from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(
            f"The file is no YAML: {' '.join(str(error).split())}.", hint="- model: a/checkpoint"
        ) from None


def _job(entry: Any, where: str, folder: Path) -> Job:
    if not isinstance(entry, dict) or not isinstance(entry.get("model"), str) or not entry["model"]:
        raise UsageError(f"{where}: a job needs a model; this is {str(entry)[:80]!r}.", hint=f"Keys: {_keys()}.")
    for key in entry:
        if key not in _KEYS:
            raise UsageError(f"{where}: unknown key {key!r}.", hint=did_you_mean(str(key), _KEYS))
    options = {key: _value(entry[key], OPTIONS[key], f"{where}: {key}") for key in OPTIONS if key in entry}
    lists = {key: _words(entry.get(key, ()), f"{where}: {key}") for key in _LISTS}
    name = entry.get("name", "")
    if name and (not isinstance(name, str) or not _NAME.fullmatch(name)):
        raise UsageError(f"{where}: {name!r} cannot name a folder.", hint="Use letters, digits and _ . + - only.")
    local = folder / Path(entry["model"]).expanduser()
    return Job(
        name, str(local.resolve()) if local.exists() else entry["model"], options, lists["precisions"], lists["targets"]
    )


def _value(value: Any, kind: type, where: str) -> Any:
    """A value of an option; CSV files have texts only."""
    if kind is not str and isinstance(value, str):
        words: Mapping[str, Any] = {"true": True, "yes": True, "false": False, "no": False}
        value = words.get(value.lower(), value) if kind is bool else int(value) if value.isdigit() else value
    if type(value) is not kind:
        raise UsageError(f"{where} is {value!r}, which is no {kind.__name__}.", hint=f"Give a {kind.__name__}.")
    return value


def _words(value: Any, where: str) -> tuple[str, ...]:
    """A list of words, or words with commas between."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise UsageError(f"{where} is {value!r}, which is no list of names.", hint="Write for example int8,int4.")
    return tuple(word.strip() for word in words if word.strip())


def _named(jobs: Iterable[Job]) -> list[Job]:
    """The jobs, each with a name; those without one get that of their model, with a number where it is taken.

    Raises:
        UsageError: two jobs have the same name, or there are more jobs than a batch may have.
    """
    found = list(jobs)
    if len(found) > _MOST_JOBS:
        raise UsageError(f"{len(found):,} jobs are more than {_MOST_JOBS:,}.", hint="Split the file.")
    taken: set[str] = set()
    for job in found:
        if job.name in taken:
            raise UsageError(f"Two jobs are named {job.name!r}.", hint="Give each a name of its own, or none.")
        taken |= {job.name} - {""}
    return [job if job.name else _with_name(job, taken) for job in found]


def _with_name(job: Job, taken: set[str]) -> Job:
    base = re.sub(r"[^A-Za-z0-9_.+-]+", "-", Path(job.model.rstrip("/")).name).strip(".-")[:100] or "model"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    taken.add(name)
    return Job(name, job.model, job.options, job.precisions, job.targets)


def _keys() -> str:
    return ", ".join(_KEYS)
