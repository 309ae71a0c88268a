"""Finds out what answers at an address where gRPC does not: a server that is away comes back, another port does not.

gRPC says UNAVAILABLE of both, in words that change from version to version; and of a name with several addresses, it
says why the last of them failed. So we ask ourselves, by the first bytes of HTTP/2 and of TLS.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from diffvqa_rt.serving.client.address import ServerAddress
from diffvqa_rt.serving.client.tls import ClientTls

_CONNECT_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
_MOST_ADDRESSES = 4
# A client's first bytes, and an empty SETTINGS frame (RFC 9113, 3.4); a server's are a SETTINGS frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_HEADER_BYTES = 9
_SETTINGS = 4

NOT_GRPC = "is not a server's gRPC port (8001 by default), but another one, perhaps that of its HTTP or its metrics"
_IS_TLS = "speaks TLS; name the authority of its certificate with --tls-ca (tls)"
_IS_CLEAR = "speaks gRPC in the clear; leave the certificates out"


def obstacle_at(address: ServerAddress, tls: ClientTls | None) -> str | None:
    """The reason why nothing that is asked at an address will ever be answered, to follow its name in a sentence.

    None where nobody answers, who may come back, or where gRPC does. A name's addresses are asked one by one, and one
    that may do is enough.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return None
    obstacles = []
    for place in [info[4] for info in found][:_MOST_ADDRESSES]:
        with suppress(OSError):
            if tls is None:
                obstacle = _obstacle_in_clear(place)
            else:
                obstacle = _obstacle_in_tls(place, tls.server_name or address.host, tls.context())
            if obstacle is None:
                return None
            obstacles.append(obstacle)
    return obstacles[0] if obstacles else None


Place = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


class _SilentError(OSError):
    """A peer that closes or says nothing: a server that is starting or ending may do that."""


def _obstacle_in_clear(place: Place) -> str | None:
    """Raises OSError where that cannot be told, as `_obstacle_in_tls` does."""
    try:
        answer = _first_answer(place)
    except OSError:
        if _speaks_tls(place):
            return _IS_TLS
        raise
    if answer[:1] == b"\x15":  # an alert, by which TLS refuses what is in the clear
        return _IS_TLS
    return None if _is_http2(answer) else NOT_GRPC


def _obstacle_in_tls(place: Place, host: str, tls: ssl.SSLContext) -> str | None:
    try:
        # Twice: a server may be ending just now.
        if any(_is_answered_in_tls(place, host, tls) for _ in range(2)):
            return None
    except ssl.SSLCertVerificationError as error:
        return f"has a certificate that --tls-ca (tls) does not vouch for ({error.verify_message})"
    except ssl.SSLError:
        return _IS_CLEAR if _is_http2(_first_answer(place)) else NOT_GRPC
    return "takes no client without a certificate that it trusts; see --tls-cert and --tls-key (tls)"


def _is_answered_in_tls(place: Place, host: str, tls: ssl.SSLContext) -> bool:
    """True where gRPC answers once TLS is agreed on; only then does a server refuse our certificate."""
    with _connected(place) as raw, tls.wrap_socket(raw, server_hostname=host) as connection:
        try:
            connection.sendall(_PREFACE)
            return _is_http2(_read(connection))
        except (ConnectionError, ssl.SSLError, _SilentError):
            return False


def _first_answer(place: Place) -> bytes:
    with _connected(place) as connection:
        connection.sendall(_PREFACE)
        return _read(connection)


def _read(connection: socket.socket) -> bytes:
    answer = b""
    while len(answer) < _FRAME_HEADER_BYTES and (received := connection.recv(_FRAME_HEADER_BYTES - len(answer))):
        answer += received
    if not answer:
        raise _SilentError
    return answer


def _is_http2(answer: bytes) -> bool:
    return len(answer) == _FRAME_HEADER_BYTES and answer[3] == _SETTINGS


def _speaks_tls(place: Place) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent that anyone could read
    try:
        with _connected(place) as raw, context.wrap_socket(raw):
            return True
    except OSError:
        return False


@contextmanager
def _connected(place: Place) -> Iterator[socket.socket]:
    with socket.create_connection(place[:2], _CONNECT_SECONDS) as connection:  # type: ignore[arg-type]
        connection.settimeout(_ANSWER_SECONDS)
        yield connection
