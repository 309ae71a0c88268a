"""The HTTP API before a stand-in of the ensembles: a video gets its score or its sentence, whatever is beside it."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("http_api", reason="needs the extras http and serve", exc_type=ImportError)
pytest.importorskip("served", reason="needs Triton server and its client", exc_type=ImportError)

import requests
from http_api import BAD, FAULT, MAX_REQUEST_BYTES, NETWORKS, SLOW, Api, api_before_a_stand_in, score_of
from served import free_ports, make_certificates
from soak_http import HttpClient
from soak_requests import Request, answer_of

from diffvqa_rt import cli
from diffvqa_rt.serving import Client, RequestError, ServerError, ServerTls
from diffvqa_rt.serving.http_api.process import HttpApi

EXAMPLE = Path(__file__).parents[2] / "examples" / "http_rewards.py"


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with api_before_a_stand_in(tmp_path_factory.mktemp("api"), free_ports(4)) as api:
        yield api


def files(*videos: bytes) -> list:
    return [("video", (f"{number}.mp4", video)) for number, video in enumerate(videos)]


def encoded(video: bytes, **others: object) -> dict:
    return {"video": base64.b64encode(video).decode(), **others}


def scores(answer: requests.Response) -> list:
    return [result.get("score", result.get("error")) for result in answer.json()["results"]]


def refusal(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def test_a_result_is_what_the_client_of_grpc_gives(api):
    video = b"a video\0"
    answer = api.post(files={"video": ("clip.mp4", video)}, data={"seed": "3", "crops": "2"})
    with Client(api.grpc_url) as client:
        expected = client.score(video, seed=3, crops=2)
    (result,) = answer.json()["results"]
    assert answer.status_code == 200
    assert result == json.loads(json.dumps(expected.as_dict() | {"source": "clip.mp4"}))
    assert result["score"] == score_of(video, seed=3)


def test_the_soaks_client_gets_what_that_of_grpc_gets(api):
    requests_of_soak = [
        Request(video=b"good\0", seed=2, crops=2),
        Request(video=b"good\0", metric="aigc_vqa", prompt="\u00dcber \u732b\u202e, [SEP]\0\n'"),
        Request(video=b"good\0", metric="aigc_vqa", prompt=" \n"),
        Request(video=b"good\0", crops=4),
        Request(video=BAD),
        Request(video=bytes(MAX_REQUEST_BYTES + 1)),
    ]
    by_http = {name: HttpClient(api.url, metric=name, deadline_seconds=60) for name in NETWORKS}
    by_grpc = {name: Client(api.grpc_url, metric=name, deadline_seconds=60) for name in NETWORKS}
    for request in requests_of_soak:
        assert answer_of(by_http, request) == answer_of(by_grpc, request)
    with pytest.raises(RequestError, match="failed"):
        by_http["diffvqa"].score(FAULT)
    for client in (*by_http.values(), *by_grpc.values()):
        client.close()


def test_many_videos_and_prompts_are_answered_in_their_order(api):
    videos, prompts = [b"one\0", b"two\0", b"three\0"], ["a cat", "a car", "ein Hund, süß"]
    expected = [score_of(video, prompt) for video, prompt in zip(videos, prompts, strict=True)]
    in_files = api.post(files=files(*videos), data={"metric": "aigc_vqa", "prompt": prompts})
    as_json = api.post(
        json={
            "metric": "aigc_vqa",
            "videos": [encoded(video, prompt=prompt) for video, prompt in zip(videos, prompts, strict=True)],
        }
    )
    assert scores(in_files) == scores(as_json) == expected
    result = in_files.json()["results"][0]
    assert (result["prompt"], result["parts"].keys()) == ("a cat", {"technical", "alignment"})


def test_a_prompt_may_be_for_all_videos_and_a_video_may_have_several(api):
    one_for_all = api.post(files=files(b"one\0", b"two\0"), data={"metric": "aigc_vqa", "prompt": "a cat"})
    assert scores(one_for_all) == [score_of(b"one\0", "a cat"), score_of(b"two\0", "a cat")]
    item = encoded(b"one\0", prompt=["a cat", "a car"])
    several = api.post(json={"metric": "aigc_vqa", "videos": [item, encoded(b"two\0")]})
    assert scores(several) == [score_of(b"one\0", "a cat"), score_of(b"one\0", "a car"), score_of(b"two\0")]


def test_each_bad_video_gets_its_sentence_and_the_others_their_scores(api):
    items = [
        encoded(b"good\0", name="first"),
        encoded(BAD, name="bad.mp4"),
        encoded(b""),
        {"video": "no base64!", "name": "spoilt"},
        {"video": 3},
        "text",
        encoded(b"good\0", prompts="a cat"),
        encoded(b"good\0", prompt=3),
        encoded(bytes(MAX_REQUEST_BYTES + 1), name="long.mp4"),
        encoded(FAULT, name="unlucky"),
        encoded(b"good\0"),
    ]
    answer = api.post(json={"metric": "aigc_vqa", "videos": items})
    assert answer.status_code == 200
    first, *failures, last = scores(answer)
    assert first == last == score_of(b"good\0")
    sentences = [
        "bad.mp4 is not a video or image",
        "video 3 is empty (0 bytes)",
        "spoilt is no base64",
        "video 5 is a int; expected base64",
        "video 6 is a str; expected an object",
        "video 7 has prompts; expected video, name, prompt",
        "prompt is a int; expected a text",
        "long.mp4 is 1,048,577 bytes long, and this server takes at most 1,048,576",
        "unlucky: 127.0.0.1",
    ]
    for failure, sentence in zip(failures, sentences, strict=True):
        assert failure.startswith(sentence)


def test_the_status_says_whom_a_request_without_any_score_has_to_blame(api):
    assert api.post(files=files(BAD, BAD)).status_code == 422
    assert api.post(files=files(BAD, FAULT)).status_code == 503
    assert api.post(files=files(BAD, FAULT, b"good\0")).status_code == 200
    too_many = api.post(files=files(b"good\0"), data={"crops": "4"})
    assert too_many.status_code == 422 and scores(too_many) == ["crops is 4; this server takes at most 3"]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"seed": "-1"}, "seed is -1; expected a whole number from 0"),
        ({"seed": "1.0"}, "seed is '1.0'; expected a whole number"),
        ({"keep_interlaced": "yes"}, "keep_interlaced is 'yes'; expected True or False"),
        ({"frames": "3"}, "frames is 3; DiffVQA does not take it, leave it out"),
        ({"metric": "vmaf"}, "metric is 'vmaf'; this server has diffvqa, aigc_vqa"),
        ({"engine": "x", "seed": "1"}, "engine is no option; expected metric, seed"),
        ({"seed": ["1", "2"]}, "seed stands there twice"),
        ({"prompt": ["a", "b", "c"]}, "3 prompts for 1 videos; expected one for each"),
    ],
)
def test_what_is_wrong_for_all_videos_is_refused_in_a_sentence(api, data, sentence):
    assert refusal(api.post(files=files(b"good\0"), data=data), 400).startswith(sentence)


BOUNDED = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\nxxxx'
AS_JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "body", "status", "sentence"),
    [
        (BOUNDED, b"", 400, "the multipart body has no end"),
        (BOUNDED, PART, 400, "the multipart body has no end"),
        (BOUNDED, PART + b"\r\n--b--", 200, ""),
        (BOUNDED, b"nonsense", 400, "the multipart body cannot be read"),
        (BOUNDED, b"--b\r\n\r\nxxxx\r\n--b--\r\n", 400, "the multipart body cannot be read"),
        (BOUNDED, PART.replace(b"video", b"film") + b"\r\n--b--", 400, "film is a file; a file is a video"),
        (BOUNDED, PART.replace(b'; filename="a"', b"") + b"\r\n--b--", 400, "video is text; send it as a file"),
        ({"Content-Type": "multipart/form-data"}, b"", 400, "the multipart body cannot be read (Missing boundary"),
        ({"Content-Type": "application/x-python-pickle"}, b"", 415, "Content-Type is 'application/x-python-pickle'"),
        ({}, b"x", 415, "Content-Type is ''"),
        (AS_JSON, b"{", 400, "the body is no JSON"),
        (AS_JSON, b"[" * 10**6, 400, "the body is no JSON"),
        (AS_JSON, b'{"a": ' + b"9" * 5000 + b"}", 400, "the body is no JSON"),
        (AS_JSON, b"\xff", 400, "the body is no JSON"),
        (AS_JSON, b"[]", 400, "the body is no object with a list of videos"),
        (AS_JSON, b'{"videos": []}', 400, "there is no video"),
        (AS_JSON, b'{"videos": [' + b"0," * 2000 + b"0]}", 400, "1,001 results are asked for"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_in_a_sentence(api, headers, body, status, sentence):
    answer = api.post(headers=headers, data=body)
    assert answer.status_code == status and answer.json().get("error", "").startswith(sentence)


def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(api):
    with socket.create_connection(("127.0.0.1", api.port), 30) as connection:
        head = ["POST /v1/score HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {10**12}"]
        connection.sendall("\r\n".join([*head, "", "["]).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    body = b'{"videos": []}'.ljust(2 * MAX_REQUEST_BYTES)
    assert "there is no video" in refusal(api.post(headers=AS_JSON, data=body), 400)
    assert "the body is more than 2,097,152 bytes" in refusal(api.post(headers=AS_JSON, data=iter([body, b" "])), 413)


def test_the_schema_and_the_page_are_there_and_load_nothing_from_elsewhere(api):
    schema = requests.get(f"{api.url}/openapi.json", timeout=60).json()
    assert schema["paths"].keys() == {"/v1/score", "/v1/model"}
    body = schema["paths"]["/v1/score"]["post"]["requestBody"]["content"]
    assert body.keys() == {"multipart/form-data", "application/json"}
    assert {"VideoScore", "ScoringFailure"} <= schema["components"]["schemas"].keys()
    page = requests.get(api.url, timeout=60)
    assert "/v1/score" in page.text and not any(word in page.text for word in ("<script", "http:", "https:", "//"))
    assert page.headers["Content-Security-Policy"] == "default-src 'none'"
    for path in ("docs", "redoc"):
        assert refusal(requests.get(f"{api.url}/{path}", timeout=60), 404)
    assert refusal(requests.get(f"{api.url}/v1/score", timeout=60), 405)


def test_the_model_says_what_plays_and_what_it_takes(api):
    first, second = requests.get(f"{api.url}/v1/model", timeout=60).json()["models"]
    assert (first["title"], first["facts"]["metric"], first["limits"]["max_crops"]) == ("DiffVQA", "diffvqa", 3)
    assert "prompt" in second["options"] and second["facts"]["parts"] == ["technical", "alignment"]


def test_sixteen_clients_at_once_get_their_own_answers(api):
    def ask(number: int) -> None:
        videos = [f"{number}, {place}\0".encode() * 1000 for place in range(8)]
        assert scores(api.post(files=files(*videos), data={"seed": str(number)})) == [
            score_of(video, seed=number) for video in videos
        ]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(32)))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_client_that_leaves_has_asked_for_is_cancelled(api):
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(requests.post, f"{api.url}/v1/score", files=files(*[SLOW] * 6), timeout=(30, 2))
        wait_for(lambda: api.stand_in.waiting == 4)  # so many of a request are under way
        with pytest.raises(requests.Timeout):
            answer.result()
    wait_for(lambda: api.stand_in.waiting == 0)
    assert scores(api.post(files=files(b"good\0"))) == [score_of(b"good\0")]


def test_a_server_that_stops_answers_what_it_has_and_takes_no_more(tmp_path):
    with api_before_a_stand_in(tmp_path, free_ports(4)) as api, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.post, files=files(b"good\0", SLOW))
        wait_for(lambda: api.stand_in.waiting == 1)
        api.traffic.stop()
        assert "this server is stopping" in refusal(api.post(files=files(b"good\0")), 503)
        api.process.stop()
        score, failure = scores(answer.result())
        assert score == score_of(b"good\0") and "1.mp4: the client was closed before" in failure
        assert not Path(f"/proc/{api.pid}").exists()


def test_a_process_that_was_killed_is_started_again_on_the_same_port(tmp_path):
    with api_before_a_stand_in(tmp_path, free_ports(4)) as api:
        assert scores(api.post(files=files(b"good\0")))
        os.kill(api.pid, signal.SIGKILL)
        api.process.kill()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(api.post, files=files(b"good\0"))
            time.sleep(0.3)
            assert not answer.done()
            api.start()
            assert scores(answer.result()) == [score_of(b"good\0")]


def test_tls_lets_in_who_has_a_certificate_as_grpc_does(tmp_path):
    make_certificates(tmp_path, "server", "client", "other")
    pem = {name: str(tmp_path / f"{name}.pem") for name in ("server", "client", "other")}
    pairs = {name: (path, path.replace(".pem", ".key")) for name, path in pem.items()}
    tls = ServerTls(cert=tmp_path / "server.pem", key=tmp_path / "server.key", client_ca=tmp_path / "client.pem")
    with api_before_a_stand_in(tmp_path, free_ports(4), tls) as api:
        known = api.post(files=files(b"good\0"), verify=pem["server"], cert=pairs["client"])
        assert scores(known) == [score_of(b"good\0")]
        for stranger in ({"cert": None}, {"cert": pairs["other"]}):
            with pytest.raises(requests.ConnectionError):
                api.post(files=files(b"good\0"), verify=pem["server"], **stranger)
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{api.port}/v1/model", timeout=60)


def test_misuse_of_the_option_is_a_sentence(monkeypatch, capsys):
    assert cli.main(["serve", "--http-api", "8000"]) == 2
    assert (
        "port, http_port, metrics_port and http_api_port are (8001, 8000, 8002, 8000); expected four"
        in capsys.readouterr().err
    )
    monkeypatch.setattr("diffvqa_rt.extras.is_installed", lambda path: path != "uvicorn")
    with pytest.raises(ServerError, match=r"^--http-api needs uvicorn, which is not installed: .*\[http\]"):
        HttpApi("127.0.0.1", 0)


def test_the_example_is_a_reward_of_each_video(api: Api, tmp_path):
    for name, video in {"cat.mp4": b"a cat\0", "bad.mp4": BAD}.items():
        (tmp_path / name).write_bytes(video)
    command = [sys.executable, str(EXAMPLE), api.url, "a cat", "cat.mp4", "bad.mp4"]
    said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()
    reward = score_of(b"a cat\0", "a cat")
    assert said[0].startswith(f"{reward:.3f} cat.mp4")
    assert said[1].startswith("0.000 bad.mp4 bad.mp4 is not a video")
    code = EXAMPLE.read_text().partition("import sys")[2].splitlines()
    assert len([line for line in code if line.strip()]) <= 15
