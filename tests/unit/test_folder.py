"""Publishing folders and reading them: what is put in place, refused and checked."""

from __future__ import annotations

import dataclasses
import errno
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from onnxport.artifact.folder import read_folder, write_manifest
from onnxport.artifact.hashes import check_files, hash_files
from onnxport.artifact.manifest import MANIFEST_NAME, Component, Manifest
from onnxport.artifact.manifest_json import to_json
from onnxport.errors import FolderError, OutputError
from onnxport.publishing import atomic_rename as moves
from onnxport.publishing import destination as destination_module
from onnxport.publishing.destination import check_free_space, write_errors
from onnxport.publishing.staging import stage
from tests.unit.sample_folder import FOLDER, fill, publish, tree
from tests.unit.sample_manifest import make_manifest

# ---------------------------------------------------------------- publishing


def test_publish_makes_parents_and_leaves_only_the_folder(tmp_path: Path) -> None:
    destination = tmp_path / "a" / "b" / "model"
    publish(destination)
    assert set(tree(tmp_path)) == {"a", "a/b", "a/b/model"} | {f"a/b/model/{name}" for name in FOLDER}
    check_files(destination, read_folder(destination))


def test_permissions_are_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    publish(tmp_path / "model")
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_empty_destination(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    publish(tmp_path / "model")
    assert set(tree(tmp_path / "model")) == FOLDER


def test_write_protected_files_can_be_published(tmp_path: Path) -> None:
    with stage(tmp_path / "model") as staging:
        (staging.path / "x").write_text("x")
        (staging.path / "x").chmod(0o444)
        staging.publish()
    assert (tmp_path / "model" / "x").read_text() == "x"


def test_long_names(tmp_path: Path) -> None:
    publish(tmp_path / ("n" * 255))
    publish(tmp_path / ("\N{SNOWMAN}" * 85))
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(OutputError, match="too long"), stage(tmp_path / ("n" * 256)):
        pass


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), OSError(errno.EIO, "x")])
def test_any_exception_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, stage(tmp_path / "a" / "b" / "model") as staging:
        fill(staging.path)
        raise error
    assert caught.value is error
    assert tree(tmp_path) == {}


def test_without_publish_nothing_stays(tmp_path: Path) -> None:
    with stage(tmp_path / "a" / "model") as staging:
        fill(staging.path)
    assert tree(tmp_path) == {}


def test_parents_that_others_use_stay(tmp_path: Path) -> None:
    with pytest.raises(ValueError), stage(tmp_path / "a" / "model"):
        (tmp_path / "a" / "theirs").write_text("x")
        raise ValueError
    assert tree(tmp_path) == {"a": "/", "a/theirs": "x"}


@pytest.mark.parametrize("can_exchange", [True, False])
def test_overwrite(can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_exchange:
        monkeypatch.setattr(moves, "_renameat2", lambda *_: False)
    publish(tmp_path / "model", "old")
    with pytest.raises(OutputError, match="not empty") as caught:
        publish(tmp_path / "model", "new")
    assert "--overwrite" in str(caught.value)
    publish(tmp_path / "model", "new", overwrite=True)
    assert (tmp_path / "model" / "onnx" / "model.onnx").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_overwrite_never_shows_an_absent_folder(tmp_path: Path) -> None:
    publish(tmp_path / "model", "0")
    looks: list[bool] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            looks.append((tmp_path / "model").is_dir())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for text in "12345":
        publish(tmp_path / "model", text, overwrite=True)
    done.set()
    watcher.join()
    assert looks and all(looks)


def test_interrupt_during_the_fallback_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "model", "old")
    monkeypatch.setattr(moves, "_renameat2", lambda *_: False)
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if Path(target) == tmp_path / "model" and ".onnxport-old-" not in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "model", "new", overwrite=True)
    assert (tmp_path / "model" / "onnx" / "model.onnx").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


# ---------------------------------------------------------------- what is refused


def test_strangers_folders_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "wedding.jpg").write_text("dear")
    with pytest.raises(OutputError, match="not written by onnxport"):
        publish(tmp_path / "photos", overwrite=True)
    assert tree(tmp_path) == {"photos": "/", "photos/wedding.jpg": "dear"}


@pytest.mark.parametrize("name", ["notes.txt", "onnx/mine.txt", ".git/config"])
def test_a_users_files_in_our_folder_are_never_deleted(name: str, tmp_path: Path) -> None:
    publish(tmp_path / "model", "old")
    (tmp_path / "model" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "model" / name).write_text("mine")
    with pytest.raises(OutputError, match=name):
        publish(tmp_path / "model", "new", overwrite=True)
    assert (tmp_path / "model" / name).read_text() == "mine"


def test_a_broken_manifest_protects_the_folder(tmp_path: Path) -> None:
    publish(tmp_path / "model")
    (tmp_path / "model" / MANIFEST_NAME).write_text("{")
    with pytest.raises(OutputError, match="cannot be told"):
        publish(tmp_path / "model", overwrite=True)


def test_the_destination_is_checked_again_when_publishing(tmp_path: Path) -> None:
    for overwrite in (False, True):
        with pytest.raises(OutputError), stage(tmp_path / "model", overwrite=overwrite) as staging:
            fill(staging.path)
            (tmp_path / "model").mkdir(exist_ok=True)
            (tmp_path / "model" / "theirs").write_text("x")
            staging.publish()
        assert tree(tmp_path) == {"model": "/", "model/theirs": "x"}
        shutil.rmtree(tmp_path / "model")


@pytest.mark.parametrize("overwrite", [False, True])
def test_places_that_cannot_be_a_folder(overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "work" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "deep")
    before = tree(tmp_path)
    for path, reason in [
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "below" / "it", "file is a file"),
        (tmp_path / "link", "symbolic link"),
        (tmp_path / "dangling", "symbolic link"),
        (Path(), "working directory"),
        (Path(".."), "working directory"),
        (tmp_path / "work", "working directory"),
        (Path("nul\0byte"), "null"),
    ]:
        with pytest.raises(OutputError, match=reason) as caught, stage(path, overwrite=overwrite):
            pass
        assert caught.value.hint
    assert tree(tmp_path) == before


def test_a_link_among_the_parents_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with stage(tmp_path / "link" / "model") as staging:
        fill(staging.path)
        staging.publish()
    assert set(tree(tmp_path / "real" / "model")) == FOLDER


def test_free_space(tmp_path: Path) -> None:
    check_free_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(OutputError, match=r"needs about 1000000\.0 GB") as caught:
        check_free_space(tmp_path / "not" / "yet", 10**15)
    assert "Free " in str(caught.value)


@pytest.mark.parametrize(("free", "fits"), [(10_000 + 300 + 2**20, True), (10_000 + 299 + 2**20, False)])
def test_free_space_is_weights_and_assets_and_a_mebibyte(
    free: int, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    if fits:
        check_free_space(tmp_path / "model", 10_000, 300)
    else:
        with pytest.raises(OutputError, match=r"needs about 1\.1 MB"):
            check_free_space(tmp_path / "model", 10_000, 300)


def test_write_errors_only_speak_of_the_destination(tmp_path: Path) -> None:
    destination = tmp_path / "out" / "model"
    with pytest.raises(OutputError, match=r"No space left: .* could not be written"), write_errors(destination):
        raise OSError(errno.ENOSPC, "no space")
    with pytest.raises(OutputError, match="No permission"), write_errors(destination):
        raise PermissionError(errno.EACCES, "denied", str(tmp_path / "out" / ".model.staging" / "x"))
    with pytest.raises(PermissionError), write_errors(destination):
        raise PermissionError(errno.EACCES, "denied", str(tmp_path / "checkpoint" / "weights"))
    with pytest.raises(OSError) as caught, write_errors(destination):
        raise OSError(errno.ENOSPC, "no space", str(tmp_path / "cache" / "x"))
    assert not isinstance(caught.value, OutputError)


# ---------------------------------------------------------------- reading


def with_file(manifest: Manifest, path: str) -> Manifest:
    component: Component = dataclasses.replace(manifest.components[0], file=path)
    return dataclasses.replace(manifest, components=(component,))


def test_hashes(tmp_path: Path) -> None:
    manifest = fill(tmp_path, "graph")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("x")
    assert hash_files(tmp_path) == manifest.files
    assert list(manifest.files) == ["config.json", "onnx/model.onnx"]
    command = f"cd {shlex.quote(str(tmp_path))} && sha256sum onnx/model.onnx"
    if shutil.which("sha256sum"):
        assert subprocess.check_output(command, shell=True, text=True).startswith(manifest.files["onnx/model.onnx"])
    check_files(tmp_path, read_folder(tmp_path))


@pytest.mark.parametrize("path", ["config.json", "onnx/model.onnx"])
def test_a_byte_that_changes_between_writing_and_renaming_is_found(path: str, tmp_path: Path) -> None:
    manifest = make_manifest()
    with pytest.raises(OutputError) as caught, stage(tmp_path / "model") as staging:
        digests = fill(staging.path).files
        (staging.path / MANIFEST_NAME).unlink()
        with (staging.path / path).open("r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 1]))
        staging.publish(lambda: write_manifest(staging.path, manifest, digests))
    assert path in caught.value.message and list(tmp_path.iterdir()) == []


def test_files_are_hashed_as_the_last_step(tmp_path: Path) -> None:
    with stage(tmp_path / "model") as staging:
        digests = fill(staging.path).files
        assert write_manifest(staging.path, make_manifest(), digests).files == digests
        staging.publish(lambda: write_manifest(staging.path, make_manifest(), digests))
    check_files(tmp_path / "model", read_folder(tmp_path / "model"))
    with pytest.raises(OutputError), stage(tmp_path / "other") as staging:
        digests = fill(staging.path).files
        (staging.path / "config.json").unlink()
        staging.publish(lambda: write_manifest(staging.path, make_manifest(), digests))


def test_check_files_lists_all_that_is_wrong(tmp_path: Path) -> None:
    manifest = fill(tmp_path)
    (tmp_path / "onnx" / "model.onnx").write_text("bit rot")
    (tmp_path / "config.json").unlink()
    (tmp_path / "extra.txt").write_text("x")
    with pytest.raises(FolderError) as caught:
        check_files(tmp_path, manifest)
    for problem in ("onnx/model.onnx differs", "config.json is missing", "extra.txt is not in the manifest"):
        assert problem in str(caught.value)


def test_not_a_folder_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, reason in ((tmp_path, "no onnxport.json"), (tmp_path / "x", "not exist"), (tmp_path / "file", "a file")):
        with pytest.raises(FolderError, match=reason) as caught:
            read_folder(path)
        assert "onnxport convert" in str(caught.value)
    (tmp_path / MANIFEST_NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(FolderError, match="UTF-8"):
        read_folder(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text("{}")
    with pytest.raises(FolderError, match=str(tmp_path)):
        read_folder(tmp_path)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "onnx/../../secret", "onnx\\..\\..\\secret"])
def test_manifests_that_name_files_outside(path: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    folder = tmp_path / "model"
    folder.mkdir()
    manifest = with_file(fill(folder), path)
    (folder / MANIFEST_NAME).write_text(to_json(manifest))
    with pytest.raises(FolderError, match="not a path inside"):
        read_folder(folder)
    with pytest.raises(FolderError, match="not a path inside"):
        check_files(folder, manifest)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_that_lead_outside(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    manifest = fill(folder)
    (folder / "onnx").rename(tmp_path / "onnx")
    if what == "file":
        (folder / "onnx").mkdir()
        (folder / "onnx" / "model.onnx").symlink_to(tmp_path / "onnx" / "model.onnx")
    else:
        (folder / "onnx").symlink_to(tmp_path / "onnx")
    for check in (lambda: read_folder(folder), lambda: check_files(folder, manifest), lambda: hash_files(folder)):
        with pytest.raises(FolderError, match="link"):
            check()
