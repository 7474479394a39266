"""SavedModels whose operators reach out of them, written field by field, without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from onnxport.formats.protobuf_wire import field_bytes
from tests.attacks.onnx_files import text


def node(name: str, operator: str, inputs: str = "", **attributes: bytes) -> bytes:
    """A NodeDef; attributes are AttrValues."""
    entries = b"".join(field_bytes(5, text(1, key) + field_bytes(2, value)) for key, value in attributes.items())
    return text(1, name) + text(2, operator) + b"".join(text(3, one) for one in inputs.split()) + entries


def function_attribute(name: str) -> bytes:
    return field_bytes(10, text(1, name))


def string_attribute(value: str) -> bytes:
    return text(2, value)


def function(name: str, *nodes: bytes) -> bytes:
    """A FunctionDef."""
    return field_bytes(1, text(1, name)) + b"".join(field_bytes(3, one) for one in nodes)


def saver(filename: str, restore: str) -> bytes:
    return text(1, f"{filename}:0") + text(2, "save/control:0") + text(3, restore)


def signature(name: str, output: str) -> bytes:
    """An entry of signature_def with one output."""
    info = field_bytes(2, text(1, "y") + field_bytes(2, text(1, output)))
    return text(1, name) + field_bytes(2, info)


def saved_model(
    *nodes: bytes,
    functions: tuple[bytes, ...] = (),
    objects: tuple[str, ...] | None = None,
    save: bytes = b"",
    outputs: tuple[str, ...] = (),
    assets: tuple[str, ...] = (),
) -> bytes:
    """A SavedModel message with one graph.

    Args:
        functions: of the library.
        objects: functions that its objects have; None for a model of TensorFlow 1.
        save: a SaverDef.
        outputs: tensors that its signature gives.
        assets: file names.
    """
    library = b"".join(field_bytes(1, one) for one in functions)
    graph = b"".join(field_bytes(1, one) for one in nodes) + (field_bytes(2, library) if library else b"")
    meta = field_bytes(1, text(4, "serve")) + field_bytes(2, graph)
    meta += field_bytes(3, save) if save else b""
    meta += b"".join(field_bytes(5, signature(f"s{i}", name)) for i, name in enumerate(outputs))
    meta += b"".join(field_bytes(6, text(2, name)) for name in assets)
    if objects is not None:
        held = b"".join(field_bytes(2, text(1, name) + field_bytes(2, b"")) for name in objects)
        called = b"".join(field_bytes(1, field_bytes(6, text(1, name))) for name in objects)
        meta += field_bytes(7, held + called)
    return field_bytes(2, meta)


_TF1_SAVER = (
    node("save/filename", "Const"), node("save/Const", "PlaceholderWithDefault", "save/filename"),
    node("names", "Const"), node("w", "VariableV2"), node("save/SaveV2", "SaveV2", "save/Const names names w"),
    node("save/RestoreV2", "RestoreV2", "save/Const names names"), node("save/Assign", "Assign", "w save/RestoreV2"),
    node("save/restore_all", "NoOp", "^save/Assign"), node("x", "Placeholder"), node("y", "Mul", "x w"),
)  # fmt: skip
_SAVE = function("__inference__traced_save_9", node("s", "MergeV2Checkpoints"), node("t", "SaveV2"))
_RESTORE = function("__inference__traced_restore_9", node("r", "RestoreV2"))
_SERVE = function("__inference_serve_5", node("y", "MatMul"))
_TF2_SAVER = (
    node("saver_filename", "Placeholder"),
    node("call", "StatefulPartitionedCall", "saver_filename", f=function_attribute("__inference__traced_save_9")),
    node("call_1", "StatefulPartitionedCall", "saver_filename", f=function_attribute("__inference__traced_restore_9")),
)  # fmt: skip
_OWN = "save/Const", "save/restore_all"

# As TensorFlow writes them: nothing to refuse.
SOUND: dict[str, bytes] = {
    "tensorflow-1": saved_model(*_TF1_SAVER, save=saver(*_OWN), outputs=("y:0",)),
    "tensorflow-2": saved_model(
        *_TF2_SAVER, functions=(_SAVE, _RESTORE, _SERVE), objects=("__inference_serve_5",),
        save=saver("saver_filename", "call_1"),
    ),
    "prints": saved_model(node("p", "PrintV2", output_stream=string_attribute("stderr")), objects=()),
}  # fmt: skip

_OPERATORS = (
    "WriteFile", "ReadFile", "Abort", "PyFunc", "EagerPyFunc", "PyFuncStateless", "MatchingFiles", "WholeFileReaderV2",
    "TextLineDataset", "DataServiceDatasetV4", "RegisterDatasetV2", "SaveDatasetV2", "SnapshotDatasetV2",
    "CacheDatasetV2", "RpcServer", "RpcCall", "CreateSummaryFileWriter", "ImmutableConst", "SleepOp",
    "InitializeTableFromTextFileV2", "LoadAndRemapMatrix", "GenerateVocabRemapping", "DebugIdentityV3", "DumpTensor",
    "FileSystemSetConfiguration", "XlaCustomCall", "RemoteCall", "ShellExecute", "DecodeProtoV2", "DistributedSave",
    "DeleteFile", "FixedUnigramCandidateSampler",
)  # fmt: skip

# Each with the operator that the message names.
BAD: dict[str, tuple[str, bytes]] = {
    **{f"graph-{name}": (name, saved_model(node("n", name), objects=())) for name in _OPERATORS},
    "in-a-function": ("Abort", saved_model(functions=(function("__inference_f_1", node("a", "Abort")),), objects=())),
    "in-a-nested-attribute": ("SaveV2", saved_model(
        node("c", "If", then_branch=function_attribute("__inference_b_1")), outputs=("c:0",),
        functions=(function("__inference_b_1", node("s", "SaveV2")),),
    )),
    "SaveV2-in-a-signature": ("SaveV2", saved_model(
        functions=(function("__inference_serve_5", node("s", "SaveV2")),), objects=("__inference_serve_5",)
    )),
    "RestoreV2-in-a-signature": ("RestoreV2", saved_model(
        functions=(function("__inference_serve_5", node("r", "RestoreV2")),), objects=("__inference_serve_5",)
    )),
    "saver-called-by-a-signature": ("SaveV2", saved_model(
        functions=(_SAVE, function("__inference_serve_5", node(
            "c", "StatefulPartitionedCall", f=function_attribute("__inference__traced_save_9")))),
        objects=("__inference_serve_5",),
    )),
    "saver-called-by-name": ("SaveV2", saved_model(
        functions=(_SAVE, function("__inference_serve_5", node("c", "__inference__traced_save_9"))),
        objects=("__inference_serve_5",),
    )),
    "tensorflow-1-save-in-a-signature": ("SaveV2", saved_model(
        *_TF1_SAVER, node("bad", "Identity", "x ^save/SaveV2"), save=saver(*_OWN), outputs=("bad:0",))),
    "tensorflow-1-restore-that-saves": ("SaveV2", saved_model(
        *_TF1_SAVER, node("bad", "NoOp", "^save/SaveV2"), save=saver("save/Const", "bad"), outputs=("y:0",))),
    "tensorflow-1-restore-of-another-file": ("RestoreV2", saved_model(
        *_TF1_SAVER, node("other", "Const"), node("r", "RestoreV2", "other names names"),
        node("bad", "NoOp", "^r"), save=saver("save/Const", "bad"), outputs=("y:0",))),
    "tensorflow-1-Save": ("Save", saved_model(node("s", "Save", "x"), outputs=("s:0",))),
    "tensorflow-1-Restore": ("Restore", saved_model(node("s", "Restore", "x"), outputs=("s:0",))),
    "prints-to-a-file": ("PrintV2", saved_model(
        node("p", "PrintV2", output_stream=string_attribute("file:///tmp/x")), objects=())),
    "function-with-the-name-of-an-operator": ("WriteFile", saved_model(
        node("n", "WriteFile"), functions=(function("WriteFile", node("a", "NoOp")),), objects=())),
    "asset-outside": ("the asset", saved_model(node("x", "Placeholder"), objects=(), assets=("../../secret",))),
    "operator-twice": ("Abort", saved_model(node("n", "Abort") + text(2, "NoOp"), objects=())),
}  # fmt: skip


def write(folder: Path, content: bytes) -> Path:
    """A SavedModel folder with that graph."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(content)
    (folder / "variables" / "variables.index").write_bytes(b"")
    return folder
