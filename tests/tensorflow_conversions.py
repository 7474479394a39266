"""Several conversions in one process of the environment with TF classes, as a command.

    python -m tests.tensorflow_conversions CALLS

CALLS is a JSON list of arguments of `onnxport.convert` (or of `onnxport.verify`, where there is `against`, or of
`tests.tiny_tensorflow`, where there is `names`); prints a JSON list of results, each {"passed"} or {"error", "message",
"hint"}. Importing TensorFlow takes longer than a tiny conversion: a test file's calls go into one process.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from onnxport import OnnxPortError, convert, verify
from onnxport.system.output_capture import capture_process


def carried_out(call: dict[str, Any]) -> dict[str, Any]:
    """The result of one call, as in a process of its own."""
    import tf_keras

    tf_keras.backend.clear_session()  # it numbers the models of a process, and the names of their weights with them
    if "names" in call:
        from tests import tiny_tensorflow

        tiny_tensorflow.main([call["folder"], *call["names"]])
        return {"passed": True}
    try:
        if "against" in call:
            return {"passed": verify(**call).ok}
        conversion = convert(call.pop("framework", None), call.pop("model"), call.pop("output"), **call)
    except OnnxPortError as error:
        return {"error": type(error).__name__, "message": error.text, "hint": error.hint}
    return {"passed": conversion.passed, "notes": list(conversion.manifest.notes)}


if __name__ == "__main__":
    with capture_process():
        found = [carried_out(call) for call in json.loads(sys.argv[1])]
    print(json.dumps(found))
