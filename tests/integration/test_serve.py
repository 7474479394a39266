"""`onnxport serve` over HTTP: the pipeline's answers, the protocols, limits, the page, and the end."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest

from onnxport import pipeline
from onnxport.cli.main import main
from onnxport.runtime.session import OnnxSession
from onnxport.runtime.text_generation import TextGenerator
from tests import browser
from tests.serving import Server

pytestmark = pytest.mark.integration
pytest.importorskip("litserve")

WORDS = "the river of stone seven Paris is a city by water and garden".split()
TEXTS = [" ".join(WORDS[n % 5 : n % 5 + 1 + n % 6]) for n in range(48)]
QUEUE = 40
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}assistant"


@pytest.fixture(scope="module")
def folder(converted):
    return converted("bert-text-classification").folder


@pytest.fixture(scope="module")
def server(folder):
    with Server(folder, "--queue", str(QUEUE), "--max-body", "64KiB", "--batch-delay", "30") as running:
        yield running


@pytest.fixture(scope="module")
def expected(folder):
    with pipeline(model=str(folder)) as classify:
        return [classify(text, top_k=None) for text in TEXTS]


def assert_same(found, wanted):
    """Scores of a batch differ by rounding alone."""
    assert [one["label"] for one in found] == [one["label"] for one in wanted]
    np.testing.assert_allclose([one["score"] for one in found], [one["score"] for one in wanted], atol=1e-5)


def test_clients_at_once_get_what_the_pipeline_gives(server, expected):
    with ThreadPoolExecutor(32) as clients:
        found = list(
            clients.map(lambda text: server.post("/predict", {"inputs": text, "parameters": {"top_k": None}}), TEXTS)
        )
    for (status, answer), wanted in zip(found, expected, strict=True):
        assert status == 200
        assert_same(answer, wanted)
    numbers = server.get("/metrics")[1]
    assert f'onnxport_requests_total{{path="/predict",status="200"}} {len(TEXTS)}.0' in numbers
    assert "onnxport_requests_running 0.0" in numbers


def test_one_wrong_request_of_a_batch_fails_alone(server, expected):
    def ask(number):
        text = "" if number == 7 else TEXTS[number]
        parameters = {"top_k": None} if number != 7 else {"top_k": None, "max_length": 1, "truncation": "no"}
        return server.post("/predict", {"inputs": text, "parameters": parameters})

    with ThreadPoolExecutor(16) as clients:
        found = list(clients.map(ask, range(16)))
    assert [status for status, _ in found] == [400 if number == 7 else 200 for number in range(16)]
    assert "truncation" in found[7][1]["error"]["message"]
    assert_same(found[8][1], expected[8])
    for wrong, words in (
        ({"inputs": "a", "parameters": {"top_x": 1}}, "top_x"),
        ({"inputs": "a", "parameters": {"batch_size": 10**9}}, "batch_size"),
        ({"text": "a"}, "inputs"),
        (["a"], "object"),
    ):
        status, answer = server.post("/predict", wrong)
        assert status == 400 and words in answer["error"]["message"]


def test_the_open_inference_protocol(server, folder):
    rng = np.random.default_rng(5)
    session = OnnxSession(folder)
    assert [server.get(f"/v2/health/{what}")[0] for what in ("live", "ready")] == [200, 200]
    said = json.loads(server.get("/v2/models/model")[1])
    assert [one["name"] for one in said["inputs"]] == [spec.name for spec in session.inputs]
    assert said["inputs"][0] == {"name": said["inputs"][0]["name"], "datatype": "INT64", "shape": [-1, -1]}

    def arrays(rows, tokens):
        return {
            "input_ids": rng.integers(5, 60, (rows, tokens)),
            "attention_mask": np.ones((rows, tokens), np.int64),
            "token_type_ids": np.zeros((rows, tokens), np.int64),
        }

    def tensors(given):
        return [
            {"name": name, "shape": list(array.shape), "datatype": "INT64", "data": array.ravel().tolist()}
            for name, array in given.items()
        ]

    asked = [arrays(1 + n % 3, 7 if n % 2 else 12) for n in range(12)]
    with ThreadPoolExecutor(12) as clients:
        found = list(
            clients.map(lambda one: server.post("/v2/models/model/infer", {"id": "x", "inputs": tensors(one)}), asked)
        )
    for (status, answer), given in zip(found, asked, strict=True):
        assert status == 200 and answer["id"] == "x"
        [output] = answer["outputs"]
        wanted = session.run(given)["logits"]
        assert output["shape"] == list(wanted.shape) and output["datatype"] == "FP32"
        np.testing.assert_allclose(np.array(output["data"]).reshape(wanted.shape), wanted, atol=1e-5)
    one = tensors(asked[0])
    for change, words in (
        ({"data": [1.5] * asked[0]["input_ids"].size}, "INT64"),
        ({"data": [1]}, "values"),
        ({"datatype": "INT65"}, "INT65"),
        ({"shape": [-1]}, "shape"),
        ({"name": "ids"}, "input"),
    ):
        status, answer = server.post("/v2/models/model/infer", {"inputs": [{**one[0], **change}, *one[1:]]})
        assert status == 400 and words in answer["error"]
    assert server.post("/v2/models/modle/infer", {"inputs": one})[0] == 404
    assert server.get("/v2/models/modle")[0] == 404


def test_several_texts_in_one_request(server, expected):
    wanted = {"inputs": TEXTS[:9], "parameters": {"top_k": None}}
    status, found = server.post("/predict", wanted)
    assert status == 200 and len(found) == 9
    tensor = {"name": "text", "shape": [9], "datatype": "BYTES", "data": TEXTS[:9]}
    asked = {"inputs": [tensor], "parameters": {"top_k": None}}
    status, answer = server.post("/v2/models/model/infer", asked)
    assert status == 200
    [output] = answer["outputs"]
    assert (output["name"], output["shape"], output["datatype"]) == ("answer", [9], "BYTES")
    for one, text, right in zip(found, output["data"], expected[:9], strict=True):
        assert_same(one, right)
        assert_same(json.loads(text), right)
    status, answer = server.post("/v2/models/model/infer", {**asked, "parameters": {"top_x": 1}})
    assert status == 400 and "top_x" in answer["error"]


def test_limits(server, expected):
    status, answer = server.post("/predict", {"inputs": "a" * 70_000})
    assert status == 413 and "65536 bytes" in answer["error"]["message"]
    parameters = {"top_k": None}
    with ThreadPoolExecutor(3 * QUEUE) as clients:
        found = list(
            clients.map(
                lambda number: server.post("/predict", {"inputs": TEXTS[number % 48], "parameters": parameters}),
                range(3 * QUEUE),
            )
        )
    statuses = {status for status, _ in found}
    assert statuses <= {200, 429} and 429 in statuses
    assert sum(status == 200 for status, _ in found) >= QUEUE
    for number, (status, answer) in enumerate(found):
        if status == 200:
            assert_same(answer, expected[number % 48])
    assert server.get("/health") == (200, "ok")


def test_a_request_of_another_task_says_so(server):
    for path, document in (
        ("/v1/embeddings", {"input": "a text"}),
        ("/v1/completions", {"prompt": "a text"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ):
        status, answer = server.post(path, document)
        assert status == 400 and answer["error"]["type"] == "invalid_request_error", path


@pytest.mark.skipif(browser.program() is None, reason="needs Chromium")
def test_the_page(server, expected, tmp_path):
    with browser.Browser() as chromium:
        page = chromium.open(f"http://127.0.0.1:{server.port}/", width=900)
        wait(lambda: page.evaluate("document.body.dataset.ready"))
        page.evaluate(f"document.getElementById('text').value = {json.dumps(TEXTS[9])}")
        page.evaluate("document.getElementById('parameters').value = '{\"top_k\": null}'")
        page.evaluate("document.getElementById('repeat').click()")
        wait(lambda: page.evaluate("document.getElementById('count').textContent") == "20")
        lines = page.evaluate("[...document.querySelectorAll('.bar')].map((bar) => bar.innerText.split('\\n'))")
        picture = page.screenshot()
        assert page.evaluate("document.getElementById('median').textContent").endswith("ms")
        assert all(url.startswith((f"http://127.0.0.1:{server.port}/", "data:")) for url in page.requests())
        # What is wrong is said in words, and the page stays usable.
        page.evaluate("document.getElementById('parameters').value = '{\"top_x\": 1}'")
        page.evaluate("document.getElementById('run').click()")
        wait(lambda: "top_x" in page.evaluate("document.getElementById('state').textContent"))
    assert [line[0] for line in lines] == [one["label"] for one in expected[9]]
    assert [float(line[-1]) for line in lines] == pytest.approx([one["score"] for one in expected[9]], abs=1e-4)
    from PIL import Image

    image = np.asarray(Image.open(BytesIO(picture)).convert("RGB"))
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20  # something is drawn


def wait(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def writer(converted, tmp_path_factory):
    folder = converted("llama", {"tokenizer": "modernbert"}).copy(tmp_path_factory.mktemp("served") / "writer")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def test_texts_as_openai_has_them_and_a_stop_that_loses_nothing(writer):
    messages = [{"role": "user", "content": [{"type": "text", "text": "the river"}]}]
    with TextGenerator(writer) as write, Server(writer) as server:
        wanted, answer = (
            write("Paris is", max_new_tokens=9),
            write.chat([{"role": "user", "content": "the river"}], max_new_tokens=9),
        )
        status, found = server.post("/v1/completions", {"prompt": "Paris is", "max_tokens": 9})
        assert status == 200 and found["choices"][0]["text"] == wanted and found["object"] == "text_completion"
        assert found["usage"]["completion_tokens"] <= 9 and found["choices"][0]["finish_reason"] in ("length", "stop")
        events = server.events("/v1/completions", {"prompt": "Paris is", "max_tokens": 9, "stream": True})
        assert "".join(event["choices"][0]["text"] for event in events) == wanted
        assert len(events) > 3 and events[-1]["choices"][0]["finish_reason"] == found["choices"][0]["finish_reason"]
        asked = {"messages": messages, "max_completion_tokens": 9, "temperature": 0}
        status, found = server.post("/v1/chat/completions", asked)
        assert status == 200 and found["choices"][0]["message"] == {"role": "assistant", "content": answer}
        events = server.events(
            "/v1/chat/completions", {**asked, "stream": True, "stream_options": {"include_usage": True}}
        )
        assert "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1]) == answer
        assert events[-1]["usage"] == found["usage"]
        two = {"prompt": ["Paris is", "the river"], "max_tokens": 9}
        status, found = server.post("/v1/completions", two)
        second = write("the river", max_new_tokens=9)
        assert [(one["index"], one["text"]) for one in found["choices"]] == [(0, wanted), (1, second)]
        events = server.events("/v1/completions", {**two, "stream": True, "stream_options": {"include_usage": True}})
        texts = ["", ""]
        for event in events[:-1]:
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
        assert texts == [wanted, second] and events[-1]["usage"] == found["usage"]
        status, found = server.post("/v1/completions", {"prompt": ["a"] * 99})
        assert status == 400 and "99" in found["error"]["message"]
        status, found = server.post("/v1/completions", {"prompt": "a", "max_tokens": 0})
        assert status == 400
        status, found = server.post("/v1/completions", {"prompt": "a", "n": 3})
        assert status == 400 and "n=3" in found["error"]["message"]
        # A request that runs when the server is stopped is answered; the next one is not taken.
        running: list[tuple[int, object]] = []
        late = threading.Thread(
            target=lambda: running.append(server.post("/v1/completions", {"prompt": "Paris is", "max_tokens": 40}))
        )
        late.start()
        time.sleep(0.02)
        code, error = server.stop(signal.SIGTERM)
        late.join()
        assert code == 0 and "Traceback" not in error
        assert running[0][0] == 200
        with pytest.raises(OSError):
            server.post("/v1/completions", {"prompt": "a"})


def test_a_client_that_goes_away_frees_its_place(writer, tmp_path):
    """One worker and one place: until the long text has stopped, nobody else is answered."""
    folder = shutil.copytree(writer, tmp_path / "writer")
    for name in ("config.json", "generation_config.json"):  # a text that does not end
        settings = json.loads((folder / name).read_text())
        longest = {"max_position_embeddings": 10**6} if name == "config.json" else {}
        (folder / name).write_text(json.dumps({**settings, "eos_token_id": None, **longest}))
    with Server(folder, "--queue", "1", "--timeout", "50") as server:
        for stream in (True, False):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            body = {"prompt": "Paris is", "max_tokens": 500_000, "stream": stream}
            connection.request("POST", "/v1/completions", json.dumps(body).encode())
            if stream:
                answer = connection.getresponse()
                assert answer.status == 200 and answer.readline().startswith(b"data: ")
                answer.close()
            wait(lambda: "onnxport_requests_running 1.0" in server.get("/metrics")[1])
            connection.close()
            wait(lambda: server.post("/v1/completions", {"prompt": "seven", "max_tokens": 2})[0] == 200, 20)
        numbers = server.get("/metrics")[1]
        assert 'onnxport_requests_total{path="/v1/completions",status="499"} 2.0' in numbers
        assert "onnxport_requests_running 0.0" in numbers


@pytest.mark.sweep
def test_embeddings_as_openai_has_them(converted):
    folder = converted("sentence-bert").folder
    with pipeline(model=str(folder)) as embed, Server(folder) as server:
        wanted = embed.encode(TEXTS[:5])
        status, found = server.post("/v1/embeddings", {"input": TEXTS[:5]})
        assert status == 200
        np.testing.assert_allclose([one["embedding"] for one in found["data"]], wanted, atol=1e-5)
        status, found = server.post("/v1/embeddings", {"input": TEXTS[0], "encoding_format": "base64"})
        vector = np.frombuffer(base64.b64decode(found["data"][0]["embedding"]), "<f4")
        np.testing.assert_allclose(vector, wanted[0], atol=1e-5)


@pytest.mark.sweep
def test_images_come_in_the_request_and_never_from_a_path(converted, tmp_path):
    from PIL import Image

    folder = converted("vit-image-classification").folder
    pixels = np.random.default_rng(3).integers(0, 255, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    encoded = base64.b64encode((tmp_path / "photo.png").read_bytes()).decode()
    with pipeline(model=str(folder)) as classify, Server(folder) as server:
        wanted = classify(str(tmp_path / "photo.png"))
        for inputs in (encoded, f"data:image/png;base64,{encoded}"):
            status, found = server.post("/predict", {"inputs": inputs})
            assert status == 200
            assert_same(found, wanted)
        for inputs in (str(tmp_path / "photo.png"), "http://127.0.0.1:9/photo.png", "file:///etc/passwd"):
            status, found = server.post("/predict", {"inputs": inputs})
            assert status == 400 and "base64" in found["error"]["message"]


@pytest.mark.sweep
def test_a_slow_answer_ends_at_the_time_limit_and_the_worker_goes_on(writer):
    with Server(writer, "--timeout", "0.3") as server:
        status = server.post("/v1/completions", {"prompt": "Paris is", "max_tokens": 50, "num_beams": 8})[0]
        assert status in (200, 504)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", "100")
        connection.endheaders()
        assert connection.getresponse().status == 408  # the body never came
        wait(lambda: server.post("/v1/completions", {"prompt": "seven", "max_tokens": 1})[0] == 200)


def test_what_cannot_be_served_is_said_before_it_starts(folder, tmp_path, capsys):
    assert main(["serve", str(tmp_path / "none")]) == 2
    assert main(["serve", str(folder), "--port", "80"]) == 2
    assert main(["serve", str(folder), "--host", "example.org"]) == 2
    assert main(["serve", str(folder), "--component", "model_q9"]) == 2
    errors = capsys.readouterr().err
    assert "--port 80" in errors and "example.org" in errors and "model_q9" in errors


def test_waiting_requests_share_a_batch_unless_padding_would_cost_more(folder, expected, monkeypatch):
    from onnxport.serve.jobs import Job, ServeSettings
    from onnxport.serve.worker import Worker

    worker = Worker(ServeSettings(folder, threads=1))
    sizes, run = [], OnnxSession.run

    def counted(session, inputs):
        sizes.append(inputs["input_ids"].shape)
        return run(session, inputs)

    monkeypatch.setattr(OnnxSession, "run", counted)
    settings = {"top_k": None, "truncation": True}
    jobs = [Job("call", text, settings) for text in TEXTS[:12]]
    long = [Job("call", " ".join(["river"] * 60), settings)]
    for (job, wanted), reply in zip(
        zip(jobs, expected[:12], strict=True), worker.run([*jobs, *long])[:12], strict=True
    ):
        assert job.settings == settings
        assert_same(reply.value, wanted)
    assert sorted(rows for rows, _ in sizes) == [1, 12] and dict(sizes)[1] == 64
    sizes.clear()
    other = [Job("call", text, {"top_k": 1, "truncation": True}) for text in TEXTS[:3]]
    worker.run([*jobs, *other])
    assert sorted(rows for rows, _ in sizes) == [3, 12]
