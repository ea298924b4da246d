"""A real server: the protocol by NVIDIA's client, bad clients, reloads."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import socket
import struct
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from running_server import wait_until
from spoter_runtime.bundle.manifest import read_bundle
from spoter_runtime.errors import BackendError, BundleError, ConfigError, DataError
from spoter_runtime.recognizer import Recognizer
from spoter_toolkit.cli.serve import log_on_stderr
from spoter_toolkit.serving.app import Application
from spoter_toolkit.serving.client import ServedModel, body_of
from spoter_toolkit.serving.limits import Limits
from spoter_toolkit.serving.models import Models, sources_from
from spoter_toolkit.serving.server import listen

INFER = "/v2/models/small/infer"
HEALTH = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"


def ask(running, path, body=None, **headers):
    """Return status, JSON or text, and headers of an answer."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(running.url + path, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            status, content, found = answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        status, content, found = error.code, error.read(), error.headers
    kind = found["content-type"]
    return status, json.loads(content) if kind == "application/json" else content.decode(), found


def raw(running, *parts, pause_s=0.0):
    """Send bytes as they are, and return all that comes back until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        for part in parts:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(part)
            time.sleep(pause_s)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                found += part
    return found.decode()


def model_of(running):
    return contextlib.closing(ServedModel(running.url))


def test_goldens_are_answered_over_http(served, bundle_folder):
    goldens = read_bundle(bundle_folder).goldens()
    clips = [
        poses[:length].reshape(length, 54, 2)
        for poses, length in zip(goldens.poses_NTD, goldens.lengths_N.tolist(), strict=True)
    ]
    with model_of(served) as model:
        found = np.concatenate(
            [model.infer(clips[i : i + 8], allow_empty=True) for i in range(0, len(clips), 8)]
        )
    assert np.abs(found - goldens.logits_NC).max() < 1e-4


@pytest.mark.parametrize("binary", [True, False])
def test_nvidias_client_gets_what_python_predicts(served, bundle_folder, make_clip, binary):
    triton = pytest.importorskip("tritonclient.http", reason="NVIDIA's client is not installed: tritonclient")
    clips = [make_clip(seed, frames).astype(np.float32) for seed, frames in ((1, 40), (2, 40), (3, 7))]
    clips = [np.nan_to_num(clip) for clip in clips]  # its JSON has no NaN; (0, 0) says the same
    expected = Recognizer.load(bundle_folder).predict_many(clips)
    poses = np.zeros((3, 40, 108), np.float32)
    for row, clip in zip(poses, clips, strict=True):
        row[: len(clip)] = clip.reshape(len(clip), 108)
    inputs = [triton.InferInput("poses", poses.shape, "FP32"), triton.InferInput("lengths", [3], "INT32")]
    inputs[0].set_data_from_numpy(poses, binary_data=binary)
    inputs[1].set_data_from_numpy(np.array([40, 40, 7], np.int32), binary_data=binary)
    with contextlib.closing(triton.InferenceServerClient(served.host)) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("small", "1")
        assert client.get_server_metadata()["name"] == "spoter-kit"
        told = client.get_model_metadata("small")
        assert [one["name"] for one in told["outputs"]] == ["logits", "label", "score"]
        assert client.get_model_repository_index()[0]["state"] == "READY"
        outputs = [
            triton.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "label", "score")
        ]
        answer = client.infer("small", inputs, outputs=outputs, request_id="r-1")
    assert answer.get_response()["id"] == "r-1"
    np.testing.assert_allclose(answer.as_numpy("logits"), [one.logits_C for one in expected], atol=1e-4)
    labels = [one.decode() if binary else one for one in answer.as_numpy("label").tolist()]
    assert labels == [one.label for one in expected]
    np.testing.assert_allclose(answer.as_numpy("score"), [one.score for one in expected], atol=1e-4)


def test_a_refusal_says_why_and_has_the_clients_request_id(served, make_clip):
    body, headers = body_of([np.full((3, 54, 2), np.nan, np.float32)])
    status, said, found = ask(served, INFER, body, X_Request_Id="kiosk-7", **headers)
    assert (status, found["x-request-id"]) == (400, "kiosk-7")
    assert said["error"].startswith("clip 0: no landmark is detected in any of its 3 frames")
    status, said, found = ask(served, INFER, b"{}", X_Request_Id="a b\tc")
    assert status == 400
    assert found["x-request-id"].isalnum()  # not the client's: it would break a line of the log
    assert ask(served, "/v2/models/smal/infer", b"{}")[:2] == (
        404,
        {"error": "no model 'smal'; did you mean 'small'?"},
    )
    assert ask(served, "/v2/models/small/versions/9/infer", b"{}")[0] == 404
    assert ask(served, INFER)[:2] == (405, {"error": f"GET {INFER}: method not allowed"})
    status, said, _ = ask(served, "/v2/model/small")
    reason, _, routes = said["error"].partition("; ")
    assert (status, reason) == (404, "GET /v2/model/small: not found")
    assert "/v2/repository/index" in routes
    assert ask(served, INFER, b"x", Content_Encoding="gzip")[0] == 415


def test_a_log_has_no_clip_and_a_line_for_each_request(served, make_clip, caplog):
    with caplog.at_level(logging.INFO, "spoter_toolkit.serving"):
        clip = np.full((3, 54, 2), 0.12345, np.float32)
        data = clip.ravel().tolist()
        inputs = [{"name": "poses", "datatype": "FP32", "shape": [1, 3, 108], "data": data}]
        assert ask(served, INFER, json.dumps({"inputs": inputs, "id": "one"}).encode())[0] == 200
        inputs[0]["data"][5] = 7.77e8
        assert ask(served, INFER, json.dumps({"inputs": inputs, "id": "two"}).encode())[0] == 400
    lines = [
        record.getMessage() for record in caplog.records if record.name.startswith("spoter_toolkit.serving")
    ]
    assert [line.partition(" ms=")[0] for line in lines] == [
        "request id=one model=small version=1 clips=1 frames=3 status=200",
        f"request id={lines[1].split('id=')[1][:32]} model=small version=1 status=400",
    ]
    assert lines[1].endswith(
        'error="clip 0: value … at index (0, 2, 1); coordinates are finite and at most 10000"'
    )
    assert "0.1234" not in caplog.text
    assert "7.77" not in caplog.text


def test_values_of_a_request_do_not_get_into_a_log(served, caplog):
    data = [[["a", 312.5, 7e-3]], {"x": 0.25}]
    inputs = [{"name": "poses", "datatype": "FP32", "shape": [1, 1, 108], "data": data}]
    with caplog.at_level(logging.INFO, "spoter_toolkit.serving"):
        for body in ({"inputs": inputs}, {"inputs": data}, {"inputs": [{"name": 0.125}]}):
            assert ask(served, INFER, json.dumps(body).encode())[0] == 400
    reasons = re.findall(r'status=400 ms=\S+ error="(.+)"', caplog.text)
    assert len(reasons) == 3
    assert not re.search(r"312|25|007", " ".join(reasons))


def test_a_server_that_drains_says_so_and_goes_on_answering(serve, bundle_folder, make_clip, caplog):
    with serve(bundle_folder, grace_s=60.0) as running, model_of(running) as model:
        assert ask(running, "/v2/health/ready")[:2] == (200, {"ready": True})
        with caplog.at_level(logging.WARNING, "spoter_toolkit.serving"):
            running.terminate()
            assert ask(running, "/v2/health/ready")[:2] == (503, {"ready": False})
            assert model.infer([make_clip()]).shape == (1, 5)
        assert ask(running, "/v2/health/live")[:2] == (200, {"live": True})
    drains = "draining: not ready; requests in flight: 0; takes more for 60 s, then answers for 30 s at most"
    assert drains in caplog.text


def kept_alive(running):
    """Return a connection that has had an answer."""
    connection = socket.create_connection(("127.0.0.1", running.port), timeout=10)
    connection.sendall(HEALTH)
    assert b"200 OK" in connection.recv(65536)
    return connection


def all_of(connection):
    """Return what comes until the server ends the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("new", [False, True])
def test_a_request_that_lies_unread_when_the_server_ends_is_answered(serve, bundle_folder, new):
    with (
        serve(bundle_folder) as running,
        contextlib.closing(kept_alive(running)) as old,
        socket.socket() as one,
    ):
        asking, asked = one if new else old, threading.Event()

        async def end_as_a_request_comes(counter):
            if new:
                one.connect(("127.0.0.1", running.port))
            asking.sendall(HEALTH)
            asked.set()
            return True  # the server ends at once: its loop has neither accepted nor read

        running.server.on_tick = end_as_a_request_comes
        assert asked.wait(20)
        answer = all_of(asking)
    assert answer.startswith(b"HTTP/1.1 503")  # of /v2/health/ready: it drains
    assert b"connection: close" in answer


def test_an_answer_that_is_not_yet_sent_when_the_server_ends_comes_as_a_whole(serve, bundle_folder):
    with serve(bundle_folder) as running, contextlib.closing(kept_alive(running)) as client:
        (connection,) = running.server.server_state.connections

        async def end_with_much_to_send(counter):
            connection.transport.write(bytes(8 << 20))
            assert connection.transport.get_write_buffer_size()
            return True

        running.server.on_tick = end_with_much_to_send
        assert len(all_of(client)) == 8 << 20


def test_a_connection_that_was_reset_is_not_kept(serve, bundle_folder):
    with serve(bundle_folder) as running:
        client = kept_alive(running)
        (connection,) = running.server.server_state.connections
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        wait_until(lambda: not running.server.server_state.connections)
        assert connection.timeout_keep_alive_task is None  # it would hold the connection for 75 s


def test_a_line_of_the_log_is_there_once_whatever_a_library_has_set_up(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(sys.stderr)])
    with log_on_stderr():
        logging.getLogger("spoter_toolkit.serving.app").warning("reloaded small 1")
    assert capsys.readouterr().err.count("reloaded small 1") == 1
    assert logging.getLogger("spoter_toolkit.serving").propagate


def test_a_port_that_is_taken_gets_another_one_to_paste(served):
    with pytest.raises(DataError, match=rf"another program listens there\. Fix: --port {served.port + 1}"):
        listen("127.0.0.1", served.port)


def test_metrics_are_read_by_prometheus(served, make_clip):
    with model_of(served) as model:
        model.infer([make_clip(), make_clip(frames=9)])
    status, text, headers = ask(served, "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client is not installed")
    families = {one.name: one for one in parser.text_string_to_metric_families(text)}
    assert families["spoter_batch_clips"].type == "histogram"
    assert sum(one.value for one in families["spoter_requests"].samples if one.labels["code"] == "200") >= 1
    assert families["spoter_model_info"].samples[0].labels["model"] == "small"


def request_of(length, *lines):
    return "\r\n".join(
        (f"POST {INFER} HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines, "", "")
    ).encode()


BAD_CLIENTS = {
    "nothing": ((), "408", "took too long to come"),
    "half a head": ((b"POST /v2 HTTP/1.1\r\nHost:",), "408", "took too long"),
    "half a body": ((request_of(100), b"{"), "408", "took too long"),
    "no HTTP": ((b"\x16\x03\x01 hello\r\n\r\n",), "400", "this is no HTTP request"),
    "a long line": ((b"GET /" + b"x" * 5000,), "431", "headers are too large"),
    "large headers": ((request_of(2, "X: " + "x" * 5000),), "431", "headers are too large"),
    "a large body": ((request_of(2_000_000),), "413", "a body of more than 1 MB"),
    "an endless body": (
        (
            request_of(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"),
            *[b"3d0900\r\n" + b"x" * 4_000_000 + b"\r\n"] * 2,
        ),
        "413",
        "",
    ),
    "a length that is none": ((request_of("many"),), "400", "no HTTP request"),
    "a length beyond": ((request_of("9" * 30),), "400", "no HTTP request"),
}


@pytest.mark.parametrize("name", BAD_CLIENTS)
def test_a_bad_client_is_refused_and_the_server_goes_on(served, name):
    parts, status, said = BAD_CLIENTS[name]
    found = raw(served, *parts)
    if found or said:  # a client that still sends may see its connection broken, and no answer
        assert found.startswith(f"HTTP/1.1 {status}")
        assert said in found
    assert ask(served, "/v2/health/ready")[:2] == (200, {"ready": True})


def test_a_body_that_drips_is_cut_off(served):
    begin = time.monotonic()
    found = raw(served, request_of(1000), *[b"{"] * 12, pause_s=0.06)
    assert time.monotonic() - begin < 2
    assert "408" in found


def test_two_requests_in_one_packet_are_both_answered(served):
    found = raw(served, request_of(2) + b"{}" + request_of(2, "Connection: close") + b"{}")
    assert found.count("HTTP/1.1 400") == 2


def test_more_connections_than_allowed_are_told_so(serve, bundle_folder):
    with serve(bundle_folder, connections=3) as running, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
        time.sleep(0.1)
        assert "503 Service Unavailable" in raw(running)
        stack.close()
        time.sleep(0.1)
        assert ask(running, "/v2/health/live")[0] == 200


def test_a_busy_server_says_when_to_come_again(serve, bundle_folder, make_clip):
    with serve(bundle_folder, queue_clips=1) as running:
        batcher = running.app._batcher
        batcher._frames, before = 10**9, batcher._frames
        status, said, found = ask(running, INFER, *body_of([make_clip()])[:1])
        batcher._frames = before
        assert (status, int(found["retry-after"]) > 1) == (429, True)
        assert said["error"].startswith("busy: 0 clips wait")
        with model_of(running) as model:
            assert model.infer([make_clip()]).shape == (1, 5)


def test_what_no_retry_can_mend_is_not_to_come_again(serve, bundle_folder, make_clip):
    with serve(bundle_folder, queue_clips=1) as running:
        body, headers = body_of([make_clip(), make_clip(1)])
        status, said, found = ask(running, INFER, body, **headers)
        assert (status, said["error"]) == (
            400,
            "2 clips, this server lets 1 wait. Fix: send fewer in a request",
        )
        assert "retry-after" not in found
        assert "retry-after" not in raw(running, b"\x16\x03\x01 hello\r\n\r\n")


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"budget_ms": 0}, "--budget-ms: 0, expected a number above 0. Fix: --budget-ms 100"),
        ({"body_mb": float("nan")}, "--max-body-mb: nan, expected a number above 0. Fix: --max-body-mb 8"),
        ({"drain_s": float("inf")}, "--drain-s: inf, expected a number above 0. Fix: --drain-s 30"),
    ],
)
def test_a_wrong_limit_names_its_option_and_a_right_value(limit, said):
    with pytest.raises(ConfigError) as found:
        Limits(**limit)
    assert str(found.value) == said


def test_a_reload_takes_a_sound_bundle_and_refuses_a_broken_one(serve, bundle_copy, make_clip):
    load, back = "/v2/repository/models/small/load", "/v2/repository/models/small/rollback"
    with serve(bundle_copy, control=True) as running, model_of(running) as model:
        before = model.infer([make_clip()])
        assert ask(running, back, b"")[:2] == (
            400,
            {"error": "small 1: was not reloaded, there is nothing to go back to"},
        )
        first = running.app.models.find("small")
        assert ask(running, load, b"")[0] == 200
        assert running.app.models.find("small") is not first
        (bundle_copy / "model.onnx").write_bytes(b"broken")
        status, said, _ = ask(running, load, b"")
        assert status == 400
        assert said["error"].startswith("not reloaded, small 1 of before goes on answering: ")
        np.testing.assert_array_equal(model.infer([make_clip()]), before)
        assert ask(running, back, b"")[0] == 200
        assert running.app.models.find("small") is first
        shutil.rmtree(bundle_copy)
        assert ask(running, load, b"")[0] == 400
        np.testing.assert_array_equal(model.infer([make_clip()]), before)
        assert 'spoter_reloads_total{result="refused"} 2' in ask(running, "/metrics")[1]


def test_clients_may_not_reload_unless_the_server_says_so(served):
    status, said, _ = ask(served, "/v2/repository/models/small/load", b"")
    assert status == 403
    assert "spoter-kit serve --control" in said["error"]


def test_a_server_has_models_and_versions_and_the_newest_is_the_default(bundle_folder):
    words = [f"one:2={bundle_folder}", f"one:10={bundle_folder}", str(bundle_folder)]
    sources = sources_from(words)
    assert list(sources) == [("one", "2"), ("one", "10"), ("small", "1")]
    models = Models(sources=sources, backend="ort-cpu")
    Application(models)
    assert models.versions("one") == ["2", "10"]
    assert (models.find("one").version, models.find("one", "2").version) == ("10", "2")
    for wrong in (["a/b=x"], ["a:one=x"], ["a=x", "a:1=y"]):
        with pytest.raises(ConfigError):
            sources_from(wrong)


def test_a_bundle_whose_answers_are_wrong_is_not_served(bundle_copy, plant):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(bundle_copy / "model.onnx")
    for bias in [one for one in model.graph.initializer if (list(one.dims), one.data_type) == ([5], 1)]:
        moved = numpy_helper.to_array(bias) + np.float32([0, 1, 0, 0, 0])
        bias.CopyFrom(numpy_helper.from_array(moved, bias.name))
    plant(bundle_copy, model.SerializeToString())
    with pytest.raises(BundleError, match="its answers here are not the model's"):
        Application(Models(sources={("small", "1"): bundle_copy}, backend="ort-cpu"))


def test_a_client_says_what_is_wrong_at_the_other_end(served, make_clip):
    with pytest.raises(BackendError, match="expected http://HOST:PORT"):
        ServedModel("localhost:8000")
    starts = r"does not answer: Connection refused\. Fix: spoter-kit serve BUNDLE --port 9 starts a server"
    with pytest.raises(BackendError, match=starts):
        ServedModel("http://127.0.0.1:9")
    model = ServedModel(f"{served.url}/v2/models/other")
    with pytest.raises(BackendError, match=r"with 404: no model 'other'; there are small$"):
        model.infer([make_clip()])
    model.close()
