"""The address of a server's gRPC: checked before anything connects, and the proxy on the way to it."""

import os
import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

_EXPECTED = "expected HOST:PORT of the server's gRPC, without http://, such as localhost:8001 or [::1]:8001"
# gRPC's own name for what HOST:PORT means; the other schemes that it knows are not for a server of ours.
_DNS = "dns:///"
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_NAME_LENGTH = 253
# In the order in which gRPC's core looks at them.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXEMPTING_VARIABLES = ("no_grpc_proxy", "no_proxy")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A host, by name or by number (IPv6 without its brackets), and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> "ServerAddress":
        """The address that `HOST:PORT`, `[IPv6]:PORT` or `dns:///HOST:PORT` means.

        Raises:
            TypeError: not text.
            ValueError: anything else, with the sentence that says what is wrong.
        """
        if not isinstance(url, str):
            raise TypeError(f"url is a {type(url).__name__}; {_EXPECTED}")

        def wrong(what: str) -> ValueError:
            return ValueError(f"url is {url!r}, which {what}; {_EXPECTED}")

        if not url:
            raise wrong("is empty")
        if any(c.isspace() or not c.isprintable() for c in url):
            raise wrong("has blanks or control characters in it")
        text = url.removeprefix(_DNS)
        if "://" in text or text.startswith("unix:"):
            raise wrong("has a scheme" if "://" in text else "is a Unix socket, where no server of ours listens")
        if any(c in text for c in "/?#@"):
            raise wrong("has more in it than a host and a port")
        host, separator, port = text.rpartition(":")
        is_bracketed = host.startswith("[") and host.endswith("]")
        if (text.startswith("[") and text.endswith("]")) or not separator:
            raise wrong("has no port")
        if ":" in host and not is_bracketed:
            raise wrong("has more than one colon; an IPv6 address stands in brackets")
        if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
            raise wrong("has no port from 1 to 65535")
        if is_bracketed:
            host = host[1:-1]
        if not (_is_ipv6(host) if is_bracketed else _is_name(host)):
            raise wrong("has no host" if not host else "has a host that is no name and no IP address")
        return cls(host, int(port))

    @property
    def target(self) -> str:
        """The text that gRPC is told. With the scheme, or a host called `unix` or `dns` would be taken for one."""
        host = f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host
        return f"{_DNS}{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True where its name or number alone says that it is on this machine."""
        name = self.host.rstrip(".").lower()
        if name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            address = ip_address(self.host)
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        address = mapped or address
        return address.is_loopback or address.is_unspecified

    def proxy(self) -> str | None:
        """The proxy that gRPC connects to in place of this host, and the variable that names it; None without one."""
        if self.is_loopback:
            return None
        chosen = next((name for name in _PROXY_VARIABLES if os.environ.get(name)), None)
        exempt = next((os.environ[name] for name in _EXEMPTING_VARIABLES if name in os.environ), "")
        if chosen is None or any(self._is_in(entry.strip()) for entry in exempt.split(",") if entry.strip()):
            return None
        # Without a name and a password.
        return f"{os.environ[chosen].rpartition('@')[2].removeprefix('http://')} ({chosen})"

    def _is_in(self, entry: str) -> bool:
        """As gRPC reads `no_proxy`: the end of a name, or a block of addresses."""
        if self.host.lower().endswith(entry.lower()):
            return True
        try:
            return ip_address(self.host) in ip_network(entry, strict=False)
        except ValueError:
            return False


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_name(host: str) -> bool:
    """True for a host's name or an IPv4 address: a text that ends with a number is an address."""
    labels = host.removesuffix(".").split(".")
    if len(host) > _MAX_NAME_LENGTH or not all(map(_LABEL.fullmatch, labels)):
        return False
    if not labels[-1].isdigit():
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
