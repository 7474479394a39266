"""What the documents say is so: commands, options, tables, modules, links, pages of the site."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

import onnxport
from onnxport.cli.main import app
from onnxport.tasks import TASKS
from onnxport.verification.tolerance import TOLERANCES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *PAGES])
_IDS = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
# Options of other programs that the documents mention.
_FOREIGN = {
    "--no-deps", "--families", "--merge", "--update",
    "--model-repository", "--model-id", "--pooling", "--dtype",
}  # fmt: skip


def _group() -> Any:
    return typer.main.get_command(app)


def _build() -> ModuleType:
    """`docs/build.py`, which is in no package."""
    spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _options() -> dict[str, set[str]]:
    """Command to its options."""
    found = {}
    for name, command in _group().commands.items():
        # `env` has commands of its own.
        commands = (command, *getattr(command, "commands", {}).values())
        found[name] = {"--help", *(o for c in commands for p in c.params for o in p.opts if o.startswith("-"))}
    return found


def _section(text: str, name: str) -> str:
    return text.partition(f"<!-- {name}:begin")[2].partition("-->")[2].partition(f"<!-- {name}:end")[0].strip()


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _without_code(text: str) -> str:
    """The text without blocks and spans of code, in which nothing is a link."""
    return re.sub(r"`[^`\n]*`", "`code`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def _anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as the site and repository hosts make them."""
    text = _build().page_text(document, "page.md") if document in PAGES else document.read_text(encoding="utf-8")
    found = set()
    for title in re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE):
        words = re.sub(r"[^\w\s-]", "", title.lower()).strip()
        found.add(re.sub(r"[\s-]+", "-", words))
    return found


def _commands(text: str) -> list[list[str]]:
    """The words of every `onnxport` command in the blocks of shell commands."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and Path(words[0]).name == "onnxport":
                found.append(words[1:])
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=_IDS)
def test_every_option_exists(document: Path) -> None:
    options = _options()
    everywhere = set().union({"--version"}, *options.values())
    for line in document.read_text(encoding="utf-8").splitlines():
        command = re.search(r"\bonnxport (\w+)", line)
        known = options.get(command[1], everywhere) if command and line.startswith("onnxport ") else everywhere
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", line):
            assert option in known | _FOREIGN, f"{document.name}: {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=_IDS)
def test_every_command_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = {words[0] for words in _commands(text) if words} | set(re.findall(r"`onnxport ([\w-]+)", text))
    assert named <= _options().keys() | {"COMMAND", "--help", "--version"}, document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=_IDS)
def test_every_command_in_a_block_is_one_that_the_command_line_takes(document: Path) -> None:
    for words in _commands(document.read_text(encoding="utf-8")):
        command, rest = _group(), list(words)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        if command is not _group() and not hasattr(command, "commands"):
            with command.make_context(" ".join(["onnxport", *words]), rest):
                continue  # raises if an option, or the number of arguments, is wrong
        assert rest == ["--version"], f"{document.name}: onnxport {' '.join(words)}"


def test_commands_that_are_wrong_are_found() -> None:
    block = "```sh\nA=1 onnxport convert a b --nope  # why\nonnxport tasks \\\n  --json\n```"
    assert _commands(block) == [["convert", "a", "b", "--nope"], ["tasks", "--json"]]
    with pytest.raises(Exception, match="--nope"):
        _group().commands["convert"].make_context("convert", ["a", "b", "--nope"])


def test_every_option_of_convert_is_documented() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "guides").glob("*.md"))
    missing = [o for o in _options()["convert"] if o.startswith("--") and o != "--help" and f"`{o}" not in text]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=_IDS)
def test_every_link_leads_somewhere(document: Path) -> None:
    text = _without_code(document.read_text(encoding="utf-8"))
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if "://" in target:
            continue
        to = (document.parent / target).resolve() if target else document
        assert to.is_file() or (not anchor and to.exists()), f"{document.name}: {target}"
        assert ROOT in to.parents, f"{document.name}: {target}"
        assert not anchor or anchor in _anchors(to), f"{document.name}: {target}#{anchor}"


def test_the_site_has_every_page_and_no_other() -> None:
    def files(entries: list[Any]) -> list[str]:
        found = []
        for entry in entries:
            value = next(iter(entry.values())) if isinstance(entry, dict) else entry
            found += files(value) if isinstance(value, list) else [value]
        return found

    listed = files(yaml.safe_load(_text("mkdocs.yml"))["nav"])
    assert len(listed) == len(set(listed))
    wanted = {page.relative_to(DOCS).as_posix() for page in PAGES} | set(_build().ROOT_PAGES.values())
    assert set(listed) == wanted


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(DOCS).as_posix() for page in PAGES])
def test_links_of_the_site_stay_in_the_site(page: Path) -> None:
    build = _build()
    name = page.relative_to(DOCS).as_posix()
    pages = {one.relative_to(DOCS).as_posix() for one in PAGES} | set(build.ROOT_PAGES.values())
    for target in re.findall(r"\]\(([^)#\s]+)", _without_code(build.page_text(page, name))):
        if "://" not in target:
            to = (DOCS / name).parent.joinpath(target).resolve().relative_to(DOCS).as_posix()
            assert to in pages or (DOCS / to).is_file(), f"{name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(DOCS).as_posix() for page in PAGES])
def test_every_page_has_one_title(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    assert text.startswith("# ")


def test_every_preprocessing_class_is_in_its_page() -> None:
    from onnxport.runtime.preprocessing.images.classes import CLASSES
    from onnxport.runtime.preprocessing.sounds.extractors import EXTRACTORS

    page = (DOCS / "reference" / "preprocessing.md").read_text("utf-8")
    assert [name for name in (*CLASSES, *EXTRACTORS) if f"`{name}`" not in page] == []


def test_the_generated_parts() -> None:
    generated = {name: make() for name, make in _build().GENERATED.items()}
    used = {name for page in PAGES for name in re.findall(r"<!-- generated: (\w+) -->", page.read_text("utf-8"))}
    assert used == set(generated)
    for name, options in _options().items():
        assert f"## onnxport {name}" in generated["commands"]
        assert all(f"{option}" in generated["commands"] for option in options - {"--help"})
    schema = json.loads(_build().SCHEMA.read_text(encoding="utf-8"))
    for part in (schema, *schema["$defs"].values()):
        assert all(f"| `{field}` |" in generated["manifest"] for field in part.get("properties", {}))
    assert all(f"## {task.name}\n" in generated["tasks"] for task in TASKS)


def test_built_pages_that_load_from_other_hosts_are_found(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text('<script src="https://cdn.example/a.js"></script>', encoding="utf-8")
    (tmp_path / "font.html").write_text('<link rel="stylesheet" href="//fonts.example/b">', encoding="utf-8")
    (tmp_path / "good.html").write_text('<a href="https://example.org">x</a><img src="c.svg">', encoding="utf-8")
    assert [line.split(" ")[0] for line in _build().external_requests(tmp_path)] == ["bad.html", "font.html"]


def test_the_python_reference_names_what_is_public_and_exists() -> None:
    named = re.findall(r"^::: ([\w.]+)$", _text("docs/reference/python.md"), re.MULTILINE)
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert (
            importlib.util.find_spec(name)
            if name == "onnxport.errors"
            else hasattr(importlib.import_module(module), attribute)
        ), name
    wanted = {f"onnxport.{name}" for name in onnxport.__all__} - {"onnxport.__version__", "onnxport.OnnxPortError"}
    assert wanted <= set(named)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_IDS)
def test_every_python_example_compiles_and_imports_what_exists(document: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_readme_is_short() -> None:
    assert _text("README.md").count("\n") < 150


def test_the_table_of_tasks() -> None:
    rows = ["| task | also called | what it does | inputs of `onnxport run FOLDER` |", "|---|---|---|---|"]
    for task in TASKS:
        aliases = ", ".join(f"`{alias}`" for alias in task.aliases)
        rows.append(f"| `{task.name}` | {aliases} | {task.summary} | `{task.example}` |")
    wanted = "\n".join(rows)
    assert _section(_text("README.md"), "tasks") == wanted, f"README.md needs:\n{wanted}"


def test_the_table_of_tolerances() -> None:
    rows = ["| precision | absolute | relative |", "|---|---|---|"]
    rows += [f"| {name} | {absolute:g} | {relative:g} |" for name, (absolute, relative) in TOLERANCES.items()]
    wanted = "\n".join(rows)
    found = _section(_text("docs/concepts/verification.md"), "tolerances")
    assert found == wanted, f"docs/concepts/verification.md needs:\n{wanted}"


def test_the_opsets() -> None:
    from onnxport.export.opset import DEFAULT, NEWEST_TENSORFLOW, OLDEST, OLDEST_TENSORFLOW

    text = " ".join(_text("docs/guides/convert.md").split())
    assert f"`--opset`: {OLDEST} or newer; the default is {DEFAULT}" in text
    assert f"For TensorFlow: {OLDEST_TENSORFLOW} or newer; the default is {NEWEST_TENSORFLOW}." in text


def test_the_architecture_names_every_module_and_no_other() -> None:
    text = _text("ARCHITECTURE.md")
    table = text.partition("| module | does |")[2].partition("\n\n")[0]
    named = {
        name
        for row in table.splitlines()
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", row.split("|")[1:2][0] if row else "")
    }
    package = ROOT / "src" / "onnxport"
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("_")}
    folders = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    assert named == modules | folders


@pytest.mark.parametrize("document", DOCUMENTS, ids=_IDS)
def test_every_path_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:src|tests|docs|benchmarks|examples|\.ci)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), f"{document.name}: {name}"


def test_every_place_in_the_package_exists() -> None:
    for document in ("ARCHITECTURE.md", "CONTRIBUTING.md", "docs/style.md"):
        for name in re.findall(r"`(\w+(?:/\w+)*(?:/|/\w+\.py))`", _text(document)):
            # Of the table of modules also folders of folders, without what is before them.
            found = [ROOT / name, ROOT / "src" / "onnxport" / name, *(ROOT / "src" / "onnxport").glob(f"*/{name}")]
            assert any(path.exists() for path in found) or name == "dist/", f"{document}: {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=_IDS)
def test_every_module_that_is_named_exists(document: Path) -> None:
    for name in re.findall(r"`(onnxport(?:\.[a-z_]+)+)`", document.read_text(encoding="utf-8")):
        module, _, attribute = name.rpartition(".")
        if name in {"onnxport.json", "onnxport.cache", "onnxport.fixed"}:  # a file, and metadata of graphs
            continue
        assert hasattr(importlib.import_module(module), attribute) or importlib.util.find_spec(name), name


def test_the_makefile_has_the_targets_that_are_named() -> None:
    makefile = _text("Makefile")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        named = re.findall(r"^make (\w+)|`make (\w+)", document.read_text(encoding="utf-8"), re.MULTILINE)
        assert {"".join(name) for name in named} <= targets, document.name
