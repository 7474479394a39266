"""What the documents say is so: commands, options, tables, modules, links."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from onnxport.cli.main import app
from onnxport.tasks import TASKS
from onnxport.verification.compare import TOLERANCES

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
_IDS = [path.name for path in DOCUMENTS]
# Options of other programs that the documents mention.
_FOREIGN = {"--no-deps", "--families"}


def _options() -> dict[str, set[str]]:
    """Command to its options."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        # `env` has commands of its own.
        name: {
            "--help",
            *(o for c in (command, *getattr(command, "commands", {}).values()) for p in c.params for o in p.opts),
        }
        for name, command in commands.items()
    }


def _section(text: str, name: str) -> str:
    return text.partition(f"<!-- {name}:begin")[2].partition("-->")[2].partition(f"<!-- {name}:end")[0].strip()


@pytest.mark.parametrize("document", DOCUMENTS, ids=_IDS)
def test_every_option_exists(document: Path) -> None:
    options = _options()
    everywhere = set().union(*options.values())
    for line in document.read_text(encoding="utf-8").splitlines():
        command = re.search(r"\bonnxport (\w+)", line)
        known = options.get(command[1], everywhere) if command and line.startswith("onnxport ") else everywhere
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", line):
            assert option in known | _FOREIGN, f"{document.name}: {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=_IDS)
def test_every_command_exists(document: Path) -> None:
    for name in re.findall(r"^onnxport (\w+)|`onnxport (\w+)", document.read_text(encoding="utf-8"), re.MULTILINE):
        assert "".join(name) in _options(), document.name


def test_every_option_of_convert_is_documented() -> None:
    text = (ROOT / "docs" / "convert.md").read_text(encoding="utf-8")
    missing = [o for o in _options()["convert"] if o.startswith("--") and o != "--help" and f"`{o}" not in text]
    # Shown in an example, not in the text.
    assert set(missing) <= {"--model"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=_IDS)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=_IDS)
def test_every_python_example_compiles_and_imports_what_exists(document: Path) -> None:
    import importlib

    for code in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_the_table_of_tasks() -> None:
    rows = ["| task | also called | what it does | inputs of `onnxport run FOLDER` |", "|---|---|---|---|"]
    for task in TASKS:
        aliases = ", ".join(f"`{alias}`" for alias in task.aliases)
        rows.append(f"| `{task.name}` | {aliases} | {task.summary} | `{task.example}` |")
    wanted = "\n".join(rows)
    assert _section((ROOT / "README.md").read_text(encoding="utf-8"), "tasks") == wanted, f"README.md needs:\n{wanted}"


def test_the_table_of_tolerances() -> None:
    rows = ["| precision | absolute | relative |", "|---|---|---|"]
    rows += [f"| {name} | {absolute:g} | {relative:g} |" for name, (absolute, relative) in TOLERANCES.items()]
    wanted = "\n".join(rows)
    found = _section((ROOT / "docs" / "verify.md").read_text(encoding="utf-8"), "tolerances")
    assert found == wanted, f"docs/verify.md needs:\n{wanted}"


def test_the_opsets() -> None:
    from onnxport.export.opset import DEFAULT, OLDEST

    text = (ROOT / "docs" / "convert.md").read_text(encoding="utf-8")
    assert f"`--opset`: {OLDEST} or newer; the default is {DEFAULT}" in text


def test_the_architecture_names_every_module_and_no_other() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
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
    for name in re.findall(
        r"`((?:src|tests|docs|benchmarks|examples|\.ci)/[\w./]+)`", document.read_text(encoding="utf-8")
    ):
        assert (ROOT / name).exists(), f"{document.name}: {name}"


def test_the_makefile_has_the_targets_that_are_named() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        named = re.findall(r"^make (\w+)|`make (\w+)", document.read_text(encoding="utf-8"), re.MULTILINE)
        assert {"".join(name) for name in named} <= targets, document.name
