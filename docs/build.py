"""Build the documentation site into `build/site`: `make docs`.

1. Copy `docs/` and the root documents into `build/docs`, with their links adapted.
2. Fill in what is generated: the commands, the manifest's fields and the tasks.
3. Run zensical in strict mode: a broken link or an unknown Python name fails the build.
4. Check that no built page loads anything from another host.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BUILD = ROOT / "build"
SCHEMA = ROOT / "src" / "onnxport" / "artifact" / "schema.json"

# Root documents and their page in the site.
ROOT_PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
}
# README.md has a page of its own in the site.
_COPIED = {name: page for name, page in ROOT_PAGES.items() if name != "README.md"}
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_MARKER = re.compile(r"<!-- generated: (\w+) -->")
_LOADED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")


def main() -> int:
    """Build the site.

    Returns:
        The exit code: 0, or 1 if the site has an error.
    """
    assemble(BUILD / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", "mkdocs.yml"]
    # zensical colours its output even in a pipe.
    colours = {} if sys.stderr.isatty() else {"NO_COLOR": "1"}
    if subprocess.run(command, cwd=ROOT, env=os.environ | colours, check=False).returncode:
        print("error: the site was not built; see the warnings above", file=sys.stderr)
        return 1
    site = BUILD / "site"
    loaded = sorted(external_requests(site))
    for line in loaded:
        print(f"error: {line}", file=sys.stderr)
    print(f"{site.relative_to(ROOT)}/index.html")
    return 1 if loaded else 0


def assemble(target: Path) -> None:
    """Write the sources of the site into `target`, which is replaced."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(DOCS, target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for source in sorted(DOCS.rglob("*.md")):
        page = source.relative_to(DOCS).as_posix()
        (target / page).write_text(page_text(source, page), encoding="utf-8")
    for name, page in _COPIED.items():
        (target / page).parent.mkdir(parents=True, exist_ok=True)
        (target / page).write_text(page_text(ROOT / name, page), encoding="utf-8")


def page_text(source: Path, page: str) -> str:
    """The text of a page of the site: generated parts filled in, links between documents adapted.

    Args:
        source: the document in the repository.
        page: its path in the site, such as "project/security.md".
    """
    text = _MARKER.sub(lambda found: GENERATED[found[1]](), source.read_text(encoding="utf-8"))
    folder = posixpath.dirname(source.relative_to(ROOT).as_posix())

    def adapt(found: re.Match[str]) -> str:
        if "://" in found[2] or found[2].startswith("mailto:"):
            return found[0]
        wanted = posixpath.normpath(posixpath.join(folder, found[2]))
        inside = ROOT_PAGES.get(wanted) or wanted.removeprefix("docs/")
        return found[1] + posixpath.relpath(inside, posixpath.dirname(page) or ".") + (found[3] or "") + found[4]

    return _LINK.sub(adapt, text)


def commands() -> str:
    """Every command with its arguments and options, from the command line's own help."""
    import typer

    from onnxport.cli.main import app

    return "\n\n".join(_command(name, command) for name, command in _leaves("onnxport", typer.main.get_command(app)))


def _leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """(what is typed, command) of all commands that have none below them, in the order of the help."""
    below: Mapping[str, Any] = getattr(command, "commands", {})
    if not below:
        yield path, command
    for name, sub in below.items():
        yield from _leaves(f"{path} {name}", sub)


def _command(path: str, command: Any) -> str:
    context = command.context_class(command, info_name=path)
    lines = [f"## {path}", "", _paragraphs(command.help or ""), "", "```text"]
    lines += [" ".join([path, *command.collect_usage_pieces(context)]), "```"]
    for title, kind in (("argument", "argument"), ("option", "option")):
        records = [p.get_help_record(context) for p in command.params if p.param_type_name == kind]
        rows = [f"| `{_name(name)}` | {_cell(text)} |" for name, text in filter(None, records)]
        if rows:
            lines += ["", f"| {title} | meaning |", "|---|---|", *rows]
    return "\n".join(lines)


def _name(text: str) -> str:
    """The name of an argument or option, without the Python type of a list."""
    return re.sub(r" <list\[.*\]>", "", " ".join(text.split()))


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def manifest() -> str:
    """Every field of `onnxport.json`, from its JSON schema."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    parts = [("The document", schema), *schema["$defs"].items()]
    return "\n\n".join(_object(name, part) for name, part in parts)


def _object(name: str, part: dict[str, Any]) -> str:
    lines = [f"## {name}", "", part.get("description", "")]
    if "properties" not in part:
        return "\n".join([*lines, "", f"Type: {_type(part)}."])
    lines += ["", "| field | type | required | meaning |", "|---|---|---|---|"]
    required = set(part.get("required", ()))
    for field, about in part["properties"].items():
        meaning = _cell(about.get("description", ""))
        lines.append(f"| `{field}` | {_cell(_type(about))} | {'yes' if field in required else 'no'} | {meaning} |")
    return "\n".join(lines)


def _type(about: dict[str, Any]) -> str:
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "oneOf" in about:
        return " or ".join(_type(one) for one in about["oneOf"])
    if "enum" in about:
        return " or ".join(f"`{one}`" for one in about["enum"])
    if "const" in about:
        return f"`{about['const']}`"
    kind = about.get("type", "any")
    kinds = kind if isinstance(kind, list) else [kind]
    if kinds == ["array"]:
        return f"list of {_type(about['items'])}"
    if kinds == ["object"] and isinstance(about.get("additionalProperties"), dict):
        return f"map of text to {_type(about['additionalProperties'])}"
    return " or ".join({"string": "text", "boolean": "true or false"}.get(one, one) for one in kinds)


def tasks() -> str:
    """Every task: what goes in and what comes out."""
    from onnxport.tasks import TASKS

    parts = []
    for task in TASKS:
        other = ", ".join(f"`{alias}`" for alias in task.aliases) or "none"
        parts += [
            f"## {task.name}\n\nWhat it does: {task.summary}.\n\n```sh\nonnxport run FOLDER {task.example}\n```\n",
            f"- Other names: {other}",
            f"- Kind of input: {task.kind}",
            f"- Outputs, if the model has them: {', '.join(f'`{name}`' for name in task.outputs)}",
            f"- Compared besides the values: {task.decision or 'nothing'}",
            f"- Classes of transformers: {', '.join(f'`{name}`' for name in task.auto)}\n",
        ]
    return "\n".join(parts)


def measured() -> str:
    """Every task, without a framework and with transformers."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.tasks.table import documented

    return documented()


GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "manifest": manifest,
    "tasks": tasks,
    "measured": measured,
}


def external_requests(site: Path) -> Iterator[str]:
    """What built pages load from other hosts, as `page: address`. Links to click are none."""
    for page in sorted(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(site).as_posix()
        for address in _LOADED.findall(text):
            yield f"{name} loads {address}"
        # The theme loads the renderer of these diagrams from a content delivery network.
        if 'class="mermaid"' in text:
            yield f"{name} has a mermaid diagram, whose renderer is loaded from another host: use an SVG in docs/assets"


if __name__ == "__main__":
    sys.exit(main())
