"""Our HTTP endpoints: clients that leave in the middle are no news."""

import socket
import struct
import time

from served import free_ports

from diffvqa_rt.serving.endpoints import Endpoint


def test_a_client_that_resets_its_connection_leaves_nothing_in_the_log(capfd):
    (port,) = free_ports(1)
    endpoint = Endpoint("127.0.0.1", port, {"/": lambda: (200, "x" * 10_000_000)})
    try:
        for request in (b"GET / HTTP/1.1\r\n\r\n", b"junk\r\n\r\n", b"GET"):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(request)
                time.sleep(0.05)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(0.3)
    finally:
        endpoint.close()
    assert capfd.readouterr().err == ""
