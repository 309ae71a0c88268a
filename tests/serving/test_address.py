"""The address of a server: refused in a sentence before anything connects, and reached without a detour."""

import pytest

from diffvqa_rt import cli
from diffvqa_rt.serving.client.address import ServerAddress


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("localhost:8001", "localhost", "dns:///localhost:8001"),
        ("dns:///diffvqa:8001", "diffvqa", "dns:///diffvqa:8001"),
        ("[::1]:8001", "::1", "dns:///[::1]:8001"),
        ("[fe80::1%eth0]:8001", "fe80::1%eth0", "dns:///[fe80::1%25eth0]:8001"),
        ("dns:8001", "dns", "dns:///dns:8001"),  # a host of that name, not gRPC's scheme
        ("a_b.example.:8001", "a_b.example.", "dns:///a_b.example.:8001"),
    ],
)
def test_an_address_is_a_host_and_a_port(url, host, target):
    address = ServerAddress.parse(url)
    assert (address.host, address.port, address.target) == (host, 8001, target)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "is empty"),
        ("http://127.0.0.1:8001", "has a scheme"),
        ("grpcs://server:8001", "has a scheme"),
        ("dns://8.8.8.8/server:8001", "has a scheme"),
        ("unix:/run/server", "is a Unix socket"),
        ("localhost", "has no port"),
        ("[::1]", "has no port"),
        ("localhost:", "no port from 1 to 65535"),
        ("localhost:0", "no port from 1 to 65535"),
        ("localhost:65536", "no port from 1 to 65535"),
        ("localhost:+80", "no port from 1 to 65535"),
        ("localhost:８００１", "no port from 1 to 65535"),
        (" localhost:8001", "has blanks"),
        ("localhost:8001\n", "has blanks or control characters"),
        ("localhost:8001/v2", "more in it than a host and a port"),
        ("me@localhost:8001", "more in it than a host and a port"),
        ("::1:8001", "an IPv6 address stands in brackets"),
        ("[localhost]:8001", "no name and no IP address"),
        ("256.0.0.1:8001", "no name and no IP address"),
        ("two..dots:8001", "no name and no IP address"),
        (":8001", "has no host"),
    ],
)
def test_what_is_no_address_is_misuse_and_one_sentence(url, sentence, capfd):
    assert cli.main(["client", f"--url={url}", "clip.mp4"]) == 2
    said = capfd.readouterr().err
    assert sentence in said and "expected HOST:PORT of the server's gRPC, without http://" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]"])
def test_no_proxy_stands_before_this_machine(host, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    address = ServerAddress.parse(f"{host}:8001")
    assert address.is_loopback and address.proxy() is None


def test_the_proxy_of_another_machine_is_named_without_its_password(monkeypatch):
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    address = ServerAddress.parse("gpu.example:8001")
    assert address.proxy() is None
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy:3128")
    assert address.proxy() == "proxy:3128 (http_proxy)"
    monkeypatch.setenv("grpc_proxy", "http://other:1")
    assert address.proxy() == "other:1 (grpc_proxy)"
    monkeypatch.setenv("no_proxy", "10.0.0.0/8, .example")
    assert address.proxy() is None
    assert ServerAddress.parse("10.1.2.3:8001").proxy() is None
    assert ServerAddress.parse("11.1.2.3:8001").proxy() == "other:1 (grpc_proxy)"
