"""Every attack through the command line: exit code 2 in words, nothing written, little time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxport.system.memory import anonymous_bytes
from tests.attacks import checkpoints, folders, onnx_files, saved_models
from tests.unit.cli_runner import refusal, run

SECONDS = 20
MOST_BYTES = 700 * 2**20


def refused(capsys: pytest.CaptureFixture[str], words: list[object], writes: Path) -> str:
    """What the command line says of an attack, which must be refused in words."""
    before, start = anonymous_bytes() or 0, time.process_time()
    said = refusal(run(capsys, *words), writes)
    assert "bug" not in said, said
    assert time.process_time() - start < SECONDS
    assert (anonymous_bytes() or 0) - before < MOST_BYTES
    return said


@pytest.mark.parametrize("name", checkpoints.INPUTS)
def test_a_checkpoint_is_refused(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words, make = checkpoints.INPUTS[name]
    before = _names(tmp_path)
    path = make(tmp_path / "m")
    made = _names(tmp_path) - before
    said = refused(capsys, ["convert", path, tmp_path / "out"], tmp_path / "out")
    assert words in said
    assert checkpoints.SECRET not in said
    assert _names(tmp_path) - before == made


@pytest.mark.parametrize("name", ["in-a-function", "saver-called-by-a-signature", "graph-Abort", "graph-WriteFile"])
def test_a_saved_model_is_refused(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    operator, content = saved_models.BAD[name]
    folder = saved_models.write(tmp_path / "m", content)
    said = refused(capsys, ["convert", folder, tmp_path / "out"], tmp_path / "out")
    assert operator in said and "--trust-remote-code" in said


@pytest.mark.parametrize("command", ["verify", "inspect"])
@pytest.mark.parametrize("name", onnx_files.FILES)
def test_an_onnx_file_is_refused(name: str, command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, make = onnx_files.FILES[name]
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(make(folder))
    if command == "inspect" and (code == "OX006" or name == "hard-link"):
        return  # it reads no weights
    assert code in refused(capsys, [command, folder / "model.onnx"], tmp_path / "out")


@pytest.mark.parametrize("name", folders.INPUTS)
def test_a_folder_is_refused(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words, make = folders.INPUTS[name]
    path = make(tmp_path / "m")
    assert words in refused(capsys, ["verify", path], tmp_path / "out")
    for command in (["inspect", path], ["run", path, tmp_path / "none.npy"]):
        outcome = run(capsys, *command)
        assert outcome.code in (0, 2) and "bug" not in outcome.err and "Traceback" not in outcome.err, outcome.err


def test_a_sound_folder_is_not_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = folders.sound(tmp_path / "m")
    outcome = run(capsys, "verify", "--strict", folder)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("0 findings\n")


def test_strict_lists_each_finding_with_its_code(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(onnx_files.FILES["raw-and-external"][1](tmp_path))
    outcome = run(capsys, "verify", "--strict", file)
    assert outcome.code == 2
    assert outcome.out.splitlines()[0].startswith(
        "OX002 model.onnx: the initializer 'w' holds its values more than once"
    )


def test_links_into_the_blobs_of_the_same_repository(tmp_path: Path) -> None:
    from onnxport.checkpoints.checkpoint import inspect_checkpoint

    snapshot = checkpoints.checkpoint(tmp_path / "models--a--b" / "snapshots" / "1234")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for file in list(snapshot.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(Path("..", "..", "blobs", file.name))
    (tmp_path / "model").symlink_to(snapshot)  # a user's own name for it
    for path in (snapshot, tmp_path / "model"):
        assert inspect_checkpoint(path).weights_format == "safetensors"


def test_links_inside_a_checkpoint(tmp_path: Path) -> None:
    from onnxport.checkpoints.checkpoint import inspect_checkpoint

    folder = checkpoints.checkpoint(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    (folder / "gone").symlink_to("nothing")
    assert inspect_checkpoint(folder).weights_format == "safetensors"


def test_linked_weights_whose_content_is_on_record(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "onnx").mkdir(parents=True)
    content = onnx_files.with_data(folder / "onnx", bytes(8), offset=0, length=8)
    folders_file = folder / "onnx" / "model.onnx"
    data = (folder / "onnx" / "w.bin").rename(tmp_path / "w.bin")
    folders.sound(tmp_path / "other")
    folders_file.write_bytes(content)
    (folder / "onnx" / "w.bin").hardlink_to(data)
    from onnxport.artifact.folder import read_folder, write_manifest

    write_manifest(folder, read_folder(tmp_path / "other"))
    assert run(capsys, "verify", folder).code == 0
    data.write_bytes(b"12345678")  # another content than the manifest knows: it may be any file
    (folder / "x.npy").unlink(missing_ok=True)
    from onnxport.errors import FolderError
    from onnxport.runtime.session import OnnxSession

    with pytest.raises(FolderError, match="OX007"):
        OnnxSession(folder)


_TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "pre_tokenizer": None,
    "normalizer": None, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"},
}  # fmt: skip


@pytest.mark.parametrize("charsmap", ["AAAA", "BAAAAP////8="])
def test_a_panic_of_the_tokenizer_is_an_error(charsmap: str, tmp_path: Path) -> None:
    import json

    from onnxport.errors import OnnxPortError
    from onnxport.runtime.prompts.tokenizer import FolderTokenizer

    normalizer = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    (tmp_path / "tokenizer.json").write_text(json.dumps({**_TOKENIZER, "normalizer": normalizer}))
    with pytest.raises(OnnxPortError, match="Panic"):
        FolderTokenizer(tmp_path).encode(["a b"], 0, "left")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "did not end"),
        ("{{ 'a' * 10 ** 11 }}", "memory"),
        (
            "{% set n = namespace(x='a' * 1000) %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "memory",
        ),
        ("{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}", "characters"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ ''.center(10 ** 11) }}", "memory"),
    ],
)
def test_a_chat_template_ends(template: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    from onnxport.errors import UsageError
    from onnxport.runtime.prompts import template_process
    from onnxport.runtime.prompts.chat_template import render

    shortened: Callable[..., str] = template_process.PROCESS.render
    monkeypatch.setattr(template_process.PROCESS, "render", lambda *given: shortened(*given, 0))
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(UsageError, match=words):
        render(tmp_path, [{"role": "user", "content": "a"}])
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert render(tmp_path, [{"role": "user", "content": "still here"}]) == "still here"


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
