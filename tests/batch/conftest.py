"""A real S3 server, moto's, and a Ray cluster of two cores, for the tests of catalogues."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server on this machine; this process's and its children's clients are told of it."""
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    pytest.importorskip("s3fs", reason="the extra `batch` is not installed")
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(s3_endpoint) -> str:
    """The URL of a new bucket."""
    import fsspec

    url = f"s3://bucket-{time.monotonic_ns()}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(url)
    return url


@pytest.fixture(scope="session")
def ray_address(s3_endpoint) -> Iterator[str]:
    """The address of a cluster of two cores, whose workers know of the S3 server."""
    with _cluster(2) as (address, _):
        yield address


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, list[int]]]:
    """The address of a cluster of two nodes of a core each, and the nodes' processes."""
    with _cluster(1, 1) as cluster:
        yield cluster


@contextlib.contextmanager
def _cluster(*cpus: int) -> Iterator[tuple[str, list[int]]]:
    """A cluster with a node of each number of cores: its address, and the nodes' processes."""
    pytest.importorskip("ray", reason="the extra `batch` is not installed")
    with pytest.MonkeyPatch.context() as environment, contextlib.ExitStack() as nodes, socket.socket() as listener:
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.close()
        address = f"127.0.0.1:{port}"
        place = ["--head", "--port", str(port), "--include-dashboard", "false"]
        started = []
        for count in cpus:
            started.append(nodes.enter_context(_node(*place, "--num-cpus", str(count))))
            _wait_for(port, started[0])
            place = ["--address", address]
        if len(cpus) > 1:
            subprocess.run([sys.executable, "-c", _WAIT_FOR_NODES, address, str(len(cpus))], check=True, timeout=180)
        yield address, [node.pid for node in started]


_WAIT_FOR_NODES = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.2)
"""


@contextlib.contextmanager
def _node(*arguments: str) -> Iterator[subprocess.Popen]:
    """A Ray node in a process group of its own, which ends with the block."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *arguments]
    command += ["--object-store-memory", str(256 << 20)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    nowhere = subprocess.DEVNULL
    node = subprocess.Popen(command, stdout=nowhere, stderr=nowhere, env=environment, start_new_session=True)
    try:
        yield node
    finally:
        node.terminate()
        try:
            node.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()


def _wait_for(port: int, node: subprocess.Popen, seconds: float = 180.0) -> None:
    """Waits until a node listens."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert node.poll() is None, "the Ray node has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"no Ray node listens at port {port}")
