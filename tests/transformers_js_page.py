"""transformers.js in a headless Chromium, on WASM: a page on loopback that loads folders from this machine.

with JavaScriptPage(modules, {"minilm": folder}) as page:
    page.ask("feature-extraction", "minilm", ["A text."], {"dtype": "q4"})

`modules` is a node_modules folder with @huggingface/transformers. Nothing else than it and the folders is served.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.browser import Browser

_PAGE = """<!doctype html><meta charset="utf-8"><title>transformers.js</title>
<script type="importmap">{"imports": {
  "onnxruntime-web/webgpu": "/modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs",
  "onnxruntime-common": "/modules/onnxruntime-common/dist/esm/index.js"}}</script>
<script type="module">
import { env, pipeline } from "/modules/@huggingface/transformers/dist/transformers.web.js";
env.allowRemoteModels = false; env.allowLocalModels = true; env.localModelPath = "/models/";
env.useBrowserCache = false; env.useWasmCache = false;
env.backends.onnx.wasm.wasmPaths = "/modules/onnxruntime-web/dist/";
env.backends.onnx.wasm.numThreads = 1;
const plain = (value) => value && value.tolist ? value.tolist() : value;
window.ask = async (task, folder, inputs, options, settings) => {
  window.answer = undefined;
  try {
    const run = await pipeline(task, folder, { device: "wasm", ...options });
    window.answer = { value: plain(await run(inputs, settings)) };
    await run.dispose();
  } catch (error) { window.answer = { error: String(error) }; }
};
window.loaded = true;
</script>"""
_SECONDS = 90.0
_TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}


class JavaScriptPage:
    """The page; a server and a browser that end with the block."""

    def __init__(self, modules: Path, folders: Mapping[str, Path]) -> None:
        roots = {"modules": modules.resolve(), **{f"models/{name}": path.resolve() for name, path in folders.items()}}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/").partition("?")[0]
                root = next((one for one in roots if path.startswith(f"{one}/")), None)
                file = (roots[root] / path[len(root) + 1 :]).resolve() if root is not None else None
                inside = file is not None and root is not None and file.is_file() and file.is_relative_to(roots[root])
                body = file.read_bytes() if inside and file is not None else b"" if path else _PAGE.encode()
                self.send_response(200 if body else 404)
                kind = _TYPES.get(file.suffix, "application/octet-stream") if file is not None else "text/html"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> JavaScriptPage:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._browser = Browser().__enter__()
        self.page = self._browser.open(f"{self.address}/", width=600)
        self._wait("window.loaded")
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.__exit__()
        self._server.shutdown()
        self._server.server_close()

    def ask(self, task: str, folder: str, inputs: Any, options: Any = None, settings: Any = None) -> Any:
        """What a pipeline gives; an error of the page is an AssertionError."""
        words = ", ".join(json.dumps(one) for one in (task, folder, inputs, options or {}, settings or {}))
        self.page.evaluate(f"void window.ask({words})")
        answer = self._wait("window.answer")
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def _wait(self, code: str) -> Any:
        end = time.monotonic() + _SECONDS
        while (found := self.page.evaluate(code)) is None:
            assert time.monotonic() < end, f"{code} did not come"
            time.sleep(0.05)
        return found
