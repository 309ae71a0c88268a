"""`diffvqa serve` and its client on the real Triton server: one score wherever it is made, whatever strangers send."""

import csv
import io
import json
import os
import signal
import socket
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from pictures import huge_png
from served import CLIPS, MAX_REQUEST_MIB, Served, assert_same, free_ports, grpc, make_certificates
from training_network import SMALLEST

from diffvqa_rt import Scorer, cli
from diffvqa_rt.errors import EngineMismatchError, InputError, VideoDecodeError
from diffvqa_rt.metrics.diffvqa.metric import METRIC
from diffvqa_rt.results import ScoringFailure, csv_columns
from diffvqa_rt.serving import Client, ClientTls, RequestError, Server, ServerConfig, ServerError, find_tritonserver


@pytest.mark.parametrize("name", [*CLIPS, "frog.mp4"])
def test_a_served_score_is_the_score_of_this_process(client, expected, name):
    video, result = expected[name]
    assert_same(client.score(video), result)


def test_sixteen_clients_at_once_get_their_own_answers(served, expected):
    order = list(expected) * 2

    def ask(index: int) -> None:
        video, result = expected[order[index]]
        with Client(served.url, deadline_seconds=240) as client:
            assert_same(client.score(video), result)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))


def test_crops_and_seed_mean_the_same_there(client, expected, small_engines):
    video, default = expected["h264.mp4"]
    served = client.score(video, seed=2**62 + 3, crops=2)
    assert_same(served, Scorer.open(small_engines).score(video, seed=2**62 + 3, crops=2))
    assert len(served.crop_scores) == 2 and served.crop_scores[0] != default.score


def test_seed_and_crops_may_be_left_out(served, expected):
    video, result = expected["vp8.webm"]
    tensor = grpc.InferInput("video", [len(video)], "UINT8")
    tensor.set_data_from_numpy(np.frombuffer(video, np.uint8))
    answer = grpc.InferenceServerClient(served.url).infer("diffvqa", [tensor])
    assert answer.as_numpy("score").tolist() == [result.score]
    assert json.loads(answer.as_numpy("model").tobytes())["weights_sha256"] == result.weights_sha256


def test_keep_interlaced_may_be_asked_for(client, served, expected):
    video, result = expected["h264.mp4"]  # progressive: nothing changes
    assert_same(client.score(video, keep_interlaced=True), result)
    ((named),) = client.score_many([video], keep_interlaced=True)
    assert_same(named, result)
    inputs = []
    for name, values, datatype in [
        ("video", np.frombuffer(video, np.uint8), "UINT8"),
        ("keep_interlaced", np.array([False]), "BOOL"),
    ]:
        inputs.append(grpc.InferInput(name, values.shape, datatype).set_data_from_numpy(values))
    answer = grpc.InferenceServerClient(served.url).infer("diffvqa", inputs)
    assert answer.as_numpy("score").tolist() == [result.score]
    assert json.loads(answer.as_numpy("video_info").tobytes())["warnings"] == []


@pytest.mark.parametrize("port", ["http_port", "metrics_port"])
def test_the_servers_other_ports_are_named_at_once(served, expected, port):
    start = time.monotonic()
    url = f"127.0.0.1:{getattr(served, port)}"
    with Client(url, deadline_seconds=120) as client, pytest.raises(RequestError, match="is not a server's gRPC port"):
        client.score(expected["still.png"][0])
    assert time.monotonic() - start < 30


def test_a_proxy_does_not_stand_between_a_client_and_this_machine(served, clip, capsys, monkeypatch):
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "elsewhere")
    url = f"localhost:{served.port}"
    assert cli.main(["client", "--url", url, "--deadline", "60", "--format", "json", str(clip)]) == 0
    assert json.loads(capsys.readouterr().out)["score"]


def test_a_start_without_a_gpu_reports_no_error(served):
    if not Path("/dev/nvidiactl").exists():
        before = served.lines[: next(i for i, line in enumerate(served.lines) if "metrics at" in line)]
        assert before and not [line for line in before if line.startswith("E")]


@pytest.mark.parametrize(
    "video",
    [b"", b"Dear diary", os.urandom(5000), make_clip()[:600], make_clip(container="mpegts")[:100]],
    ids=["empty", "text", "random", "headless", "cut"],
)
def test_a_bad_video_gets_the_sentence_of_this_process(client, small_engines, video, tmp_path):
    with pytest.raises(VideoDecodeError) as here:
        Scorer.open(small_engines).score(video)
    with pytest.raises(VideoDecodeError) as there:
        client.score(video)
    assert str(there.value) == str(here.value)
    (tmp_path / "clip.mp4").write_bytes(video)
    with pytest.raises(VideoDecodeError, match="clip.mp4 is "):
        client.score(tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    ("video", "sentence"),
    [
        (bytes((MAX_REQUEST_MIB << 20) + 1), "2,097,153 bytes long, and this server takes at most 2,097,152"),
        (huge_png(1500), "2,250,000 pixels a picture, and this server takes at most 1,000,000"),
        (huge_png(60000), "pixels a picture"),
        (make_clip(frames=420, size=(16, 16)), "420 frames, and this server takes at most 400"),
    ],
    ids=["bytes", "bomb", "huge-bomb", "frames"],
)
def test_what_is_beyond_the_limits_is_refused(client, video, sentence):
    with pytest.raises(VideoDecodeError, match=sentence):
        client.score(video)


def test_more_crops_than_the_server_takes_is_a_bad_argument(client):
    with pytest.raises(InputError, match="crops is 4; this server takes at most 3"):
        client.score(make_clip(), crops=4)


def test_playlists_are_refused_and_nothing_they_name_is_opened(client, tmp_path):
    # Whoever opens the pipe is in a wait for its other end, and the request would take until its time is over.
    pipe = tmp_path / "clip.ts"
    os.mkfifo(pipe)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        for target in (str(pipe), pipe.as_uri(), f"http://127.0.0.1:{listener.getsockname()[1]}/clip.ts"):
            for text in (
                f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
                f"ffconcat version 1.0\nfile '{target}'\n",
                "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 33\n",
            ):
                start = time.monotonic()
                with pytest.raises(VideoDecodeError, match="not a playlist"):
                    client.score(text.encode())
                assert time.monotonic() - start < 20
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_bad_request_leaves_the_others_alone_and_in_order(client, expected, tmp_path):
    good, result = expected["still.png"]
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    first, second, third, fourth = client.score_many([good, bad, tmp_path / "missing.mp4", good])
    assert_same(first, result)
    assert_same(fourth, result)
    assert isinstance(second, ScoringFailure) and "bad.mp4 is not a video" in second.error
    assert isinstance(third, ScoringFailure) and "missing.mp4 cannot be read" in third.error


def test_the_command_prints_what_scoring_here_prints(served, small_engines, clip, tmp_path, capsys):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    videos = [str(clip), str(bad)]
    assert cli.main(["score", "--engines", str(small_engines), "--format", "json", *videos]) == 1
    here = capsys.readouterr()
    assert cli.main(["client", "--url", served.url, "--format", "json", *videos]) == 1
    there = capsys.readouterr()
    for ours, theirs in zip(
        map(json.loads, there.out.splitlines()), map(json.loads, here.out.splitlines()), strict=True
    ):
        assert ours.pop("stage_seconds", {}).keys() == theirs.pop("stage_seconds", {}).keys()
        assert ours == theirs
    assert "bad.mp4 is not a video" in there.err
    assert cli.main(["client", "--url", served.url, "--format", "csv", str(bad)]) == 1
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert tuple(row) == csv_columns(METRIC.stages) and "bad.mp4 is not a video" in row["error"]
    assert cli.main(["client", "--url", served.url, "--crops", "4", str(clip)]) == 2
    assert "this server takes at most 3" in capsys.readouterr().err


def test_what_changes_the_server_is_closed(served, tmp_path):
    connection = grpc.InferenceServerClient(served.url)
    for call in (
        connection.get_model_repository_index,
        lambda: connection.load_model("head"),
        lambda: connection.unload_model("head"),
        lambda: connection.register_system_shared_memory("mine", "/mine", 64),
        connection.get_system_shared_memory_status,
        lambda: connection.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
        lambda: connection.update_log_settings({"log_file": str(tmp_path / "log")}),
        lambda: connection.get_model_config("diffvqa"),  # which says where the engines are
    ):
        with pytest.raises(grpc.InferenceServerException, match="restricted|not allowed|expecting"):
            call()
    # Triton server 2.51 itself would end with a segmentation fault.
    for port, path in [(served.http_port, "v2/models/diffvqa/infer"), (served.metrics_port, "metrics")]:
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", data=bytes(20_000_000))
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}/index")
    assert connection.is_server_ready()


def test_no_process_of_the_server_has_torch(served):
    for name in ("preprocess", "vae_encoder", "denoise", "head", "finish"):
        assert served.pids(name)
        for pid in served.pids(name):
            maps = Path(f"/proc/{pid}/maps").read_text()
            assert "libtorch" not in maps
            assert ("onnxruntime" in maps) == (name not in ("preprocess", "finish"))


def test_health_and_metrics_are_where_the_server_says(served, expected):
    said = "\n".join(served.lines)
    for port, path in [(served.http_port, "v2/health/ready"), (served.metrics_port, "metrics")]:
        url = f"http://127.0.0.1:{port}/{path}"
        assert f"{url}\n" in said + "\n"
        with urllib.request.urlopen(url) as answer:
            assert answer.status == 200
    assert f"scoring at {served.url} (gRPC)" in said
    with socket.socket() as elsewhere, pytest.raises(OSError, match="refused"):
        elsewhere.connect(("127.0.0.2", served.port))


@pytest.mark.parametrize("name", ["preprocess", "head", "tritonserver"])
def test_a_client_gets_its_answers_though_a_process_is_killed(served, client, expected, name):
    video, result = expected["h264.mp4"]
    before = served.pids(name)
    with ThreadPoolExecutor(2) as pool:
        with served.held():
            answers = [pool.submit(client.score, video) for _ in range(2)]
            time.sleep(0.3)
            assert not any(answer.done() for answer in answers)
            os.kill(before[0], signal.SIGKILL)
        for answer in answers:
            assert_same(answer.result(), result)
    assert any(f"the process of {name} has ended; starting again" in line for line in served.lines)
    after = served.pids(name)
    assert len(after) == len(before) and not set(after) & set(before)


def test_a_decoder_that_dies_takes_nothing_else_along(served, client, expected):
    servers, models, decoders = served.pids("tritonserver"), served.pids("preprocess"), served.decoders()
    assert len(decoders) == len(models)
    for pid in decoders:
        os.kill(pid, signal.SIGKILL)
    video, result = expected["still.png"]
    for _ in range(2):
        assert_same(client.score(video), result)
    assert served.pids("tritonserver") == servers and served.pids("preprocess") == models


def test_tls_lets_in_who_has_a_certificate(small_engines, expected, tmp_path):
    make_certificates(tmp_path, "server", "client")
    server, client = tmp_path / "server.pem", tmp_path / "client.pem"
    flags = ["--tls-cert", server, "--tls-key", tmp_path / "server.key", "--tls-client-ca", client]
    served = Served(small_engines, *map(str, flags))
    try:
        served.wait_until_ready()
        video, result = expected["still.png"]
        known = ClientTls(ca=server, cert=client, key=tmp_path / "client.key")
        with Client(served.url, deadline_seconds=30, tls=known) as client_with_certificate:
            assert_same(client_with_certificate.score(video), result)
        strangers = {
            "speaks TLS": None,
            "takes no client without a certificate": ClientTls(ca=server),
            "does not vouch for": ClientTls(ca=client),
        }
        for sentence, tls in strangers.items():
            stranger = Client(served.url, deadline_seconds=60, tls=tls)
            with stranger, pytest.raises(RequestError, match=sentence):
                stranger.score(video)
    finally:
        assert served.stop() == 0


def test_a_killed_server_is_found_again_and_a_stopped_one_answers_first(small_engines, expected):
    video, result = expected["h264.mp4"]
    before = run_folders()
    first = Served(small_engines)
    with Client(first.url, deadline_seconds=120) as client, ThreadPoolExecutor(2) as pool:
        first.wait_until_ready()
        (run,) = run_folders() - before
        with first.held():
            answer = pool.submit(client.score, video)
            time.sleep(0.3)
            assert not answer.done()
            first.process.kill()
            first.process.wait()
        assert run in run_folders()
        second = Served(small_engines, ports=(first.port, first.http_port, first.metrics_port))
        try:
            second.wait_until_ready()
            assert run not in run_folders()  # what a killed one has left
            assert_same(answer.result(), result)
            with second.held():
                answers = [pool.submit(client.score, video) for _ in range(2)]
                time.sleep(0.5)
                second.process.terminate()
                time.sleep(0.5)
                assert second.process.poll() is None and not any(answer.done() for answer in answers)
            for answer in answers:
                assert_same(answer.result(), result)
        finally:
            assert second.stop() == 0
    assert run_folders() == before
    assert not [line for line in second.lines if "Traceback" in line]
    with Client(second.url, deadline_seconds=1) as client:
        assert not client.is_ready()
        with pytest.raises(RequestError, match="gave no score within 1 s"):
            client.score(video)


def run_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("diffvqa-serve-*"))


def test_an_occupied_port_is_a_sentence(served, small_engines, capsys, monkeypatch):
    monkeypatch.setattr("diffvqa_rt.serving.server.GRACE_SECONDS", 0.5)  # in which one that was killed gives it up
    port = str(served.port)
    assert cli.main(["serve", "--engines", str(small_engines), "--port", port]) == 1
    assert f"cannot listen on ports {port}, 8000 and 8002" in capsys.readouterr().err


def test_the_wheels_server_stays_on_this_machine(small_engines, capsys):
    if find_tritonserver().backends is not None:
        pytest.skip("there is a Triton server of its own here")
    assert cli.main(["serve", "--engines", str(small_engines), "--host", "0.0.0.0"]) == 1
    assert "reach a network with Triton server 26.07" in capsys.readouterr().err


def test_an_inner_model_takes_as_many_rows_as_a_video_has_crops(served):
    connection = grpc.InferenceServerClient(served.url)
    for rows in (0, 4):
        z0 = np.zeros((rows, 2 * SMALLEST.frames, *SMALLEST.latent_shape), np.float32)
        tensor = grpc.InferInput("z0", z0.shape, "FP32").set_data_from_numpy(z0)
        with pytest.raises(grpc.InferenceServerException, match=f"1 to 3 rows at a time; got {rows}") as refusal:
            connection.infer("denoise", [tensor])
        assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_tensors_that_do_not_fit_together_are_the_requests_fault(served):
    connection = grpc.InferenceServerClient(served.url)
    tensors = []
    for spec in connection.get_model_metadata("head").inputs:
        is_frames = spec.name == "frames"
        array = np.zeros([2 if is_frames else 1, *spec.shape[1:]], np.uint8 if is_frames else np.float32)
        tensors.append(grpc.InferInput(spec.name, array.shape, spec.datatype).set_data_from_numpy(array))
    with pytest.raises(
        grpc.InferenceServerException, match="all tensors have a row per crop; got 1, 2 rows"
    ) as refusal:
        connection.infer("head", tensors)
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_it_is_not_ready_with_an_engine_that_was_changed(engines_copy, capfd):
    port, http_port, metrics_port = free_ports(3)
    config = ServerConfig(engines=engines_copy, port=port, http_port=http_port, metrics_port=metrics_port)
    with Server(config) as server:
        spoil(engines_copy)
        # Status 1; about once in twenty times tritonserver crashes as it ends, by a cause that is not known.
        with pytest.raises(ServerError, match=r"ended with status (1|-11) before it was ready"):
            server.start()
        assert not server.is_ready()
    assert "head.onnx was changed after it was built" in capfd.readouterr().err
    with pytest.raises(EngineMismatchError, match="was changed after it was built"):
        Server(config)
    assert cli.main(["serve", "--engines", str(engines_copy)]) == 1
    assert "head.onnx was changed after it was built" in capfd.readouterr().err


def spoil(engines: Path) -> None:
    file = engines / "onnx" / "head.onnx"
    content = bytearray(file.read_bytes())
    content[100] ^= 255
    file.write_bytes(content)


def test_misuse_of_the_server_command_is_status_2(small_engines, capsys):
    assert cli.main(["serve", "--engines", str(small_engines), "--port", "8000"]) == 2
    assert "three different ones" in capsys.readouterr().err
    assert cli.main(["serve", "--engines", str(small_engines), "--tls-cert", "/none.pem"]) == 2
    assert "/none.pem; expected a file" in capsys.readouterr().err


def test_misuse_of_the_client_is_refused_before_it_connects():
    with Client("localhost:1", deadline_seconds=0.3) as client:
        with pytest.raises(TypeError, match="an encoded video"):
            client.score(np.zeros((2, 8, 8, 3), np.uint8))
        with pytest.raises(ValueError, match="seed is -1"):
            client.score(b"x", seed=-1)
        with pytest.raises(VideoDecodeError, match="cannot be read"):
            client.score("/none.mp4")
