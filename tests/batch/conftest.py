"""A real S3 server, moto's, and a Ray cluster of two cores, for the tests of catalogues."""

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


def start_node(*arguments: str) -> subprocess.Popen:
    """Starts a Ray node in a process group of its own."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *arguments]
    command += ["--object-store-memory", str(256 << 20), "--include-dashboard", "false"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )


def stop_node(node: subprocess.Popen) -> None:
    """Ends a node and what it started."""
    os.killpg(node.pid, signal.SIGTERM)
    try:
        node.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(address: str, node: subprocess.Popen, seconds: float = 180.0) -> None:
    """Waits until a node listens."""
    host, port = address.split(":")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert node.poll() is None, "the Ray node has ended"
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"no Ray node listens at {address}")


@pytest.fixture(scope="session")
def ray_address(s3_endpoint) -> Iterator[str]:
    """The address of a cluster of two cores, whose workers know of the S3 server."""
    pytest.importorskip("ray", reason="the extra `batch` is not installed")
    address = f"127.0.0.1:{free_port()}"
    node = start_node("--head", "--port", address.split(":")[1], "--num-cpus", "2")
    try:
        wait_for(address, node)
        yield address
    finally:
        stop_node(node)
