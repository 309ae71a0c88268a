"""A Hub of one's own: the part of its HTTP interface that downloads use, on this machine, for files in memory."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


class HubStub:
    """Serves `repositories`, of each name the files by path; each has the revisions COMMIT, main and v1.

    A file of safetensors is a large one: its hash is SHA-256. Others have git's. `altered` files are sent otherwise.
    """

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.altered: set[str] = set()
        self.asked: list[str] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):  # by HTTP/1.0: once stopped, it answers on no connection
            def do_GET(self) -> None:
                stub.answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(request.path.partition("?")[0]).strip("/")
        self.asked.append(f"{request.command} {path}")
        words = path.removeprefix("api/models/").split("/")
        name, verb, rest = "/".join(words[:2]), words[2] if len(words) > 2 else "", words[3:]
        if name not in self.repositories:
            return self._refuse(request, "RepoNotFound")
        files = self.repositories[name]
        if not rest or rest[0] not in (COMMIT, "main", "v1"):
            return self._refuse(request, "RevisionNotFound")
        if path.startswith("api/") and verb == "revision":
            siblings = [{"rfilename": file} for file in files]
            return self._send(request, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
        if path.startswith("api/") and verb == "tree":
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": git_sha1(content)}
                for file, content in files.items()
            ]
            return self._send(request, json.dumps(tree).encode())
        file = "/".join(rest[1:])
        if file not in files:
            return self._refuse(request, "EntryNotFound")
        content = files[file]
        is_large = file.endswith(".safetensors")
        etag = hashlib.sha256(content).hexdigest() if is_large else git_sha1(content)
        sent = content[:-1] + bytes([content[-1] ^ 1]) if file in self.altered else content
        return self._send(request, sent, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _send(self, request: BaseHTTPRequestHandler, content: bytes, headers: dict[str, str] | None = None) -> None:
        request.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)

    def _refuse(self, request: BaseHTTPRequestHandler, code: str) -> None:
        request.send_response(404)
        request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()


@contextmanager
def hub_of(repositories: dict[str, dict[str, bytes]], cache: Path) -> Iterator[HubStub]:
    """A Hub of these repositories, in the place of the real one, and a cache."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra `hub` is not installed")
    stub = HubStub(repositories)
    with pytest.MonkeyPatch.context() as patch:
        # What HF_ENDPOINT and HF_HUB_CACHE set where they are there before the library is imported.
        patch.setattr(constants, "ENDPOINT", stub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", stub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield stub
    stub.stop()
