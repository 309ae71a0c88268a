"""The client before what is no server of ours, or none at the moment: what cannot change is said at once."""

import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import free_ports, make_certificates

from diffvqa_rt.errors import InputError, VideoDecodeError
from diffvqa_rt.results import ScoringFailure
from diffvqa_rt.serving import Client, ClientTls, RequestError

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")

# As a server that is away has it; what ends at once ends long before, on a busy machine too.
DEADLINE_SECONDS = 120
AT_ONCE_SECONDS = 30


@contextmanager
def listening(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """A port where each connection gets an answer and is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def http_1(connection: socket.socket) -> None:
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def ssh(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")
    connection.recv(100)


class Stranger(grpc.GenericRpcHandler):
    """Answers all calls with a status; without one it knows no method."""

    def __init__(self, status: Any = None, message: str = "") -> None:
        self._status, self._message = status, message

    def service(self, details: Any) -> Any:
        if self._status is None:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(self._status, self._message))


@contextmanager
def grpc_server(handler: Stranger, credentials: Any = None) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    place = "127.0.0.1:0"
    port = server.add_secure_port(place, credentials) if credentials else server.add_insecure_port(place)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


def assert_refused(url: str, sentence: str, *, deadline_seconds: float) -> None:
    with Client(url, deadline_seconds=deadline_seconds) as client, pytest.raises(RequestError, match=sentence):
        client.score(b"a video")


def complaint(url: str, tls: ClientTls | None = None, error: type[Exception] = RequestError) -> str:
    """The sentence that comes at once."""
    start = time.monotonic()
    with Client(url, deadline_seconds=DEADLINE_SECONDS, tls=tls) as client, pytest.raises(error) as raised:
        client.score(b"a video")
    assert time.monotonic() - start < AT_ONCE_SECONDS
    return str(raised.value)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """Certificates `ours`, for this machine, and `other`."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder, "ours", "other")
    return folder


def credentials(folder: Path, client_ca: str | None = None) -> Any:
    pair = ((folder / "ours.key").read_bytes(), (folder / "ours.pem").read_bytes())
    ca = (folder / f"{client_ca}.pem").read_bytes() if client_ca else None
    return grpc.ssl_server_credentials([pair], ca, client_ca is not None)


@pytest.mark.parametrize("answer", [http_1, ssh])
def test_another_port_is_named_at_once(answer):
    with listening(answer) as url:
        assert f"{url} is not a server's gRPC port" in complaint(url)
        # A name of several addresses, where nobody listens on the others.
        assert "is not a server's gRPC port" in complaint(url.replace("127.0.0.1", "localhost"))


@pytest.mark.parametrize(
    ("handler", "sentence"),
    [
        (Stranger(), "speaks gRPC, and is no Triton server"),
        (Stranger(grpc.StatusCode.NOT_FOUND, "no such model"), "is a Triton server without the model diffvqa"),
        (Stranger(grpc.StatusCode.PERMISSION_DENIED, "go away"), r"failed (PERMISSION_DENIED: go away)"),
    ],
)
def test_another_service_is_named_at_once(handler, sentence):
    with grpc_server(handler) as url:
        assert sentence in complaint(url)


def test_tls_on_one_side_alone_is_named_at_once(certificates):
    ours = ClientTls(ca=certificates / "ours.pem")
    with grpc_server(Stranger()) as clear, grpc_server(Stranger(), credentials(certificates)) as encrypted:
        assert "speaks TLS; name the authority of its certificate with --tls-ca" in complaint(encrypted)
        assert "speaks gRPC in the clear; leave the certificates out" in complaint(clear, ours)
        assert "is no Triton server" in complaint(encrypted, ours)
    with listening(http_1) as url:
        assert "is not a server's gRPC port" in complaint(url, ours)


def test_a_certificate_that_is_not_trusted_is_named_at_once(certificates):
    other = ClientTls(ca=certificates / "other.pem")
    with grpc_server(Stranger(), credentials(certificates)) as url:
        assert "certificate that --tls-ca (tls) does not vouch for" in complaint(url, other)
    ours = ClientTls(ca=certificates / "ours.pem")
    with grpc_server(Stranger(), credentials(certificates, client_ca="other")) as url:
        assert "takes no client without a certificate that it trusts" in complaint(url, ours)
    (certificates / "text.pem").write_text("no certificate")
    with pytest.raises(ValueError, match=r"text\.pem: no certificate"):
        ClientTls(ca=certificates / "text.pem")


def test_a_name_that_is_not_found_is_asked_for_a_few_seconds(monkeypatch):
    monkeypatch.setattr("diffvqa_rt.serving.client.client._NAME_SECONDS", 1)
    start = time.monotonic()
    sentence = r"nowhere\.invalid:8001 is a name that is not found"
    assert_refused("nowhere.invalid:8001", sentence, deadline_seconds=DEADLINE_SECONDS)
    assert time.monotonic() - start < AT_ONCE_SECONDS


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda connection: None, id="closes"),
        pytest.param(lambda connection: connection.recv(1), id="closes-later"),
    ],
)
def test_who_says_nothing_may_come_back(answer):
    with listening(answer) as url:
        assert_refused(url, r"gave no score within 0\.7 s .* see that the server is up", deadline_seconds=0.7)


def test_the_proxy_is_named_where_it_is_in_the_way(monkeypatch):
    (port,) = free_ports(1)
    monkeypatch.setenv("grpc_proxy", f"http://127.0.0.1:{port}")
    sentence = rf"by way of the proxy 127\.0\.0\.1:{port} \(grpc_proxy\)"
    assert_refused("gpu.example:8001", sentence, deadline_seconds=0.5)


def test_no_proxy_is_asked_for_this_machine(monkeypatch):
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with grpc_server(Stranger()) as url:
        for host in ("127.0.0.1", "localhost"):
            assert "is no Triton server" in complaint(url.replace("127.0.0.1", host))


# Ends.


def away() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


def test_ctrl_c_ends_the_command_though_the_server_is_away(clip):
    command = [sys.executable, "-m", "diffvqa_rt.cli", "client", "--url", away(), "--deadline", "120", *[str(clip)] * 6]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()  # the table's header: it has begun
    time.sleep(0.5)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert (process.returncode, said) == (130, b"") and time.monotonic() - start < AT_ONCE_SECONDS


@pytest.mark.parametrize("server", ["away", "silent"])
def test_leaving_the_block_ends_what_is_under_way(server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = away() if server == "away" else f"127.0.0.1:{silent.getsockname()[1]}"
        client = Client(url, deadline_seconds=DEADLINE_SECONDS)
        with ThreadPoolExecutor(2) as pool:
            answers = pool.submit(client.score, b"x"), pool.submit(list, client.score_many([b"x"] * 3))
            time.sleep(0.5)
            start = time.monotonic()
            with pytest.raises(ZeroDivisionError), client:
                raise ZeroDivisionError
            with pytest.raises(RequestError, match="closed before"):
                answers[0].result()
            assert all("closed before" in failure.error for failure in answers[1].result())
        assert time.monotonic() - start < AT_ONCE_SECONDS
        with pytest.raises(RequestError, match="is closed; make another"):
            client.score(b"x")


def test_an_iterator_that_is_closed_leaves_nothing_under_way():
    with Client(away(), deadline_seconds=DEADLINE_SECONDS) as client:
        results = client.score_many(iter([b"", b"x", b"x"]))
        assert isinstance(next(results), ScoringFailure)
        results.close()
        threads = [thread for thread in threading.enumerate() if thread.name == "diffvqa-client"]
        for thread in threads:
            thread.join(AT_ONCE_SECONDS)
        assert not any(thread.is_alive() for thread in threads)


def test_a_refusal_names_the_video_or_the_option(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"x")
    refused = grpc.StatusCode.INVALID_ARGUMENT
    with grpc_server(Stranger(refused, "in ensemble 'diffvqa', <bytes> is empty")) as url, Client(url) as client:
        with pytest.raises(VideoDecodeError, match="^/.*/clip.mp4 is empty$"):
            client.score(tmp_path / "clip.mp4")
        (failure,) = client.score_many([tmp_path / "clip.mp4"])
        assert failure.error == f"{tmp_path / 'clip.mp4'} is empty"
    with grpc_server(Stranger(refused, "crops is 4; this server takes at most 3")) as url, Client(url) as client:
        with pytest.raises(InputError, match="^crops is 4; this server takes at most 3$"):
            client.score(b"x", crops=4)
        with pytest.raises(InputError, match="^crops is 4"):  # as all videos would fail
            list(client.score_many([b"x", b"y"], crops=4))


# Arguments.


def test_each_source_of_another_type_fails_in_its_place(tmp_path):
    class Spoilt:
        def __fspath__(self):
            raise RuntimeError("no path today")

    with (tmp_path / "clip.mp4").open("wb") as file, Client(away(), deadline_seconds=0.2) as client:
        sources = [None, 3, ["a"], {}, bytearray(b"x"), memoryview(b"x"), file, np.zeros((1, 8, 8, 3), np.uint8), "\0"]
        results = list(client.score_many([*sources, b"x"]))
    assert all(isinstance(result, ScoringFailure) for result in results) and len(results) == len(sources) + 1
    assert [result.source for result in results[:3]] == ["<NoneType>", "<int>", "<list>"]
    assert "source is a bytearray; expected a path" in results[4].error
    assert "gave no score within" in results[-1].error


def test_numbers_are_taken_by_their_value():
    with Client(away(), concurrency=np.int64(2), deadline_seconds=np.float32(0.2)) as client:
        for good in (np.int64(3), np.uint8(1), 2):
            with pytest.raises(RequestError):
                client.score(b"x", seed=good, crops=good, keep_interlaced=np.True_)
        for bad in (True, 1.0, "1", None, -1, 2**63, np.array([1])):
            with pytest.raises(InputError, match="seed is .*; expected a whole number from 0"):
                client.score(b"x", seed=bad)
        for bad in (True, 1.0, "1", 0, -1, 2**63, np.array([1])):
            with pytest.raises(InputError, match="crops is .*; expected a whole number from 1"):
                list(client.score_many([b"x"], crops=bad))
        with pytest.raises(InputError, match="keep_interlaced is 'no'; expected True or False"):
            client.score(b"x", keep_interlaced="no")
        with pytest.raises(TypeError, match="sources is one str; expected several"):
            list(client.score_many("clip.mp4"))
        with pytest.raises(VideoDecodeError, match="cannot be read"):
            client.score("/none.mp4")
        with pytest.raises(VideoDecodeError, match="^/ is a folder; over gRPC goes one file: make an APNG or a video"):
            client.score("/")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"concurrency": 0}, "concurrency is 0; expected at least 1"),
        ({"concurrency": "4"}, "concurrency is '4'; expected a whole number"),
        ({"concurrency": 2.0}, "concurrency is 2.0; expected a whole number"),
        ({"concurrency": True}, "concurrency is True"),
        ({"deadline_seconds": 0}, "deadline_seconds is 0; expected a number above 0"),
        ({"deadline_seconds": float("nan")}, "deadline_seconds is nan"),
        ({"deadline_seconds": float("inf")}, "deadline_seconds is inf"),
        ({"deadline_seconds": "5"}, "deadline_seconds is '5'; expected a number of seconds"),
        ({"deadline_seconds": None}, "deadline_seconds is None"),
        ({"url": None}, "url is a NoneType; expected HOST:PORT"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_a_sentence(arguments, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        Client(**{"url": "localhost:1", **arguments})


def test_what_a_client_trusts_is_what_grpc_trusts(certificates):
    assert ClientTls(ca=certificates / "ours.pem").context().verify_mode == ssl.CERT_REQUIRED
