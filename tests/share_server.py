"""A stand-in for putEMG's share on 127.0.0.1: serves files, resumes them, lists them, and misbehaves on request.

with ShareServer() as share:
    share.put("records.txt", b"...")
    share.misbehave("Data-HDF5/x.hdf5", "cut", at=1000, times=2)
    ... share.mirror is the address for --base-url, share.requests what was asked
"""

import base64
import hashlib
import http.server
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape

TOKEN = "45NY5snj0U4tgQz"  # noqa: S105  the public share's address
MODIFIED = "Fri, 11 May 2018 11:05:00 GMT"


@dataclass
class Stored:
    data: bytes
    etag: str
    modified: str


@dataclass
class Fault:
    kind: str
    options: dict[str, Any]
    times: int | None  # None: always
    methods: tuple[str, ...]


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Answer:
    """What a request is about to get; faults change it."""

    code: int
    headers: dict[str, str]
    body: bytes
    pieces: Callable[["Handler", bytes], None] | None = None  # how to send the body, if not at once
    keep_alive: bool = True


class ShareServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # a busy machine takes them late

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Stored] = {}
        self.requests: list[Request] = []
        self.ranges = True
        self.lists = True
        self.ways = {"dav", "webdav"}  # of the share's two addresses, those that work
        self.closing = threading.Event()
        self.let_go = threading.Event()  # what answers that are `held` wait for
        self._faults: dict[str, list[Fault]] = {}
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def mirror(self) -> str:
        return f"{self.address}/mirror"

    def put(self, path: str, data: bytes, *, etag: str | None = None, modified: str = MODIFIED) -> None:
        digest = hashlib.sha256(data).hexdigest()[:16]
        self.files[path] = Stored(data, f'"{digest}"' if etag is None else etag, modified)

    def misbehave(
        self, path: str, kind: str, *, times: int | None = None, methods: tuple[str, ...] = ("GET",), **options: Any
    ) -> None:
        """From now on (`times` times) requests for `path` meet the fault `kind`; see the functions below."""
        assert kind in FAULTS, kind
        self._faults.setdefault(path, []).append(Fault(kind, options, times, methods))

    def behave(self) -> None:
        self._faults.clear()

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults.get(path, []):
                if method in fault.methods and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def asked(self, path: str = "", method: str = "GET") -> list[Request]:
        """The requests so far whose path ends with `path`."""
        return [request for request in self.requests if request.method == method and request.path.endswith(path)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""

    def __enter__(self) -> "ShareServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.let_go.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every small answer waits 40 ms
    server: ShareServer

    def do_GET(self) -> None:
        self._handle(self._file)

    def do_HEAD(self) -> None:
        self._handle(self._file)

    def do_PROPFIND(self) -> None:
        self._handle(self._listing)

    def _handle(self, make: Callable[[str], Answer]) -> None:
        path = self._inside()
        self.server.requests.append(Request(self.command, path or self.path, dict(self.headers)))
        answer = make(path) if path is not None else Answer(404, {}, b"nothing here")
        fault = self.server.fault(self.command, path) if path is not None else None
        if fault:
            FAULTS[fault.kind](self, answer, **fault.options)
        self._send(answer)

    def _inside(self) -> str | None:
        """The path under the share's or the mirror's root; None for other addresses."""
        path = unquote(self.path)
        for way, root in (("dav", f"/public.php/dav/files/{TOKEN}/"), ("webdav", "/public.php/webdav/")):
            if path.startswith(root):
                login = "Basic " + base64.b64encode(f"{TOKEN}:".encode()).decode()
                allowed = way == "dav" or self.headers.get("Authorization") == login
                return path.removeprefix(root) if way in self.server.ways and allowed else None
        return path.removeprefix("/mirror/") if path.startswith("/mirror/") else None

    def _file(self, path: str) -> Answer:
        stored = self.server.files.get(path)
        if stored is None:
            return Answer(404, {"Content-Type": "text/html"}, b"<html>Not found</html>")
        headers = {"Content-Type": "application/octet-stream"}
        headers |= {"ETag": stored.etag} if stored.etag else {}
        headers |= {"Last-Modified": stored.modified} if stored.modified else {}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.server.ranges and self.headers.get("If-Range") in (None, stored.etag, stored.modified):
            start, total = int(wanted[1]), len(stored.data)
            if start >= total:
                return Answer(416, {"Content-Range": f"bytes */{total}"}, b"")
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
            return Answer(206, headers, stored.data[start:])
        return Answer(200, headers, stored.data)

    def _listing(self, path: str) -> Answer:
        if not self.server.lists:
            return Answer(405, {}, b"")
        entries = [f"<d:response><d:href>/public.php/webdav/{path}</d:href></d:response>"]
        for name, stored in self.server.files.items():
            if name.startswith(path) and path:
                entries.append(
                    f"<d:response><d:href>/public.php/webdav/{quote(name)}</d:href><d:propstat><d:prop>"
                    f"<d:getcontentlength>{len(stored.data)}</d:getcontentlength>"
                    f"<d:getetag>{escape(stored.etag)}</d:getetag></d:prop></d:propstat></d:response>"
                )
        body = f'<?xml version="1.0"?><d:multistatus xmlns:d="DAV:">{"".join(entries)}</d:multistatus>'
        return Answer(207, {"Content-Type": "application/xml"}, body.encode())

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.code)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in headers.items():
            if value != "":
                self.send_header(name, value)
        if not answer.keep_alive:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            (answer.pieces or Handler.write)(self, answer.body)

    def write(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


# --- faults: each changes the answer that a well-behaved server would give ---------------------------------


def status(_: Handler, answer: Answer, code: int, **headers: str) -> None:
    """Another status; `Retry_After="1"` and the like become headers."""
    answer.code, answer.body = code, b"no"
    answer.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def cut(_: Handler, answer: Answer, at: int, every: bool = False) -> None:
    """The connection ends after `at` bytes of the body; `every`: slowly enough for somebody to look."""

    def pieces(handler: Handler, body: bytes) -> None:
        handler.write(body[:at])
        handler.server.closing.wait(0.05 if every else 0)
        handler.connection.shutdown(2)

    answer.pieces, answer.keep_alive = pieces, False


def declared(_: Handler, answer: Answer, by: int) -> None:
    """A Content-Length that is `by` bytes off."""
    answer.headers["Content-Length"] = str(len(answer.body) + by)
    answer.keep_alive = False


def replaced(_: Handler, answer: Answer, body: bytes, **headers: str) -> None:
    """Another body and other headers, with 200."""
    answer.code, answer.body = 200, body
    answer.headers = {**answer.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}


def corrupt(_: Handler, answer: Answer, at: int = -1) -> None:
    """One byte of the body is wrong; its length is right."""
    body = bytearray(answer.body)
    body[at] ^= 0xFF
    answer.body = bytes(body)


def header(_: Handler, answer: Answer, **headers: str) -> None:
    """Other headers; an empty value leaves one out."""
    answer.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    answer.keep_alive = "Content_Length" not in headers


def whole(handler: Handler, answer: Answer) -> None:
    """Range is ignored: all of the file, with 200."""
    path = handler._inside()
    answer.code, answer.body = 200, handler.server.files[path or ""].data
    answer.headers.pop("Content-Range", None)


def wrong_range(handler: Handler, answer: Answer, by: int = 1) -> None:
    """A 206 that starts `by` bytes too early, and says so."""
    data = handler.server.files[handler._inside() or ""].data
    start = len(data) - len(answer.body) - by
    answer.body, answer.headers["Content-Range"] = data[start:], f"bytes {start}-{len(data) - 1}/{len(data)}"


def shifted_range(handler: Handler, answer: Answer, by: int) -> None:
    """A 206 of as many bytes as asked for, but `by` bytes too early, and it says so."""
    data = handler.server.files[handler._inside() or ""].data
    start = len(data) - len(answer.body) - by
    answer.body = data[start : start + len(answer.body)]
    answer.headers["Content-Range"] = f"bytes {start}-{len(data) - by - 1}/{len(data)}"


def lying_range(handler: Handler, answer: Answer) -> None:
    """A 206 that says the right range but brings the file's beginning."""
    data = handler.server.files[handler._inside() or ""].data
    answer.body = data[: len(answer.body)]


def careless_range(handler: Handler, answer: Answer) -> None:
    """If-Range is ignored: a 206 of a file that has changed meanwhile."""
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    data = handler.server.files[handler._inside() or ""].data
    if wanted:
        start = int(wanted[1])
        answer.code, answer.body = 206, data[start:]
        answer.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"


def redirect(_: Handler, answer: Answer, to: str, code: int = 302) -> None:
    answer.code, answer.headers, answer.body = code, {"Location": to}, b""


def no_length(_: Handler, answer: Answer) -> None:
    """The body ends where the connection does."""
    answer.headers["Content-Length"], answer.keep_alive = "", False


def chunked(_: Handler, answer: Answer, more: bytes = b"") -> None:
    """In chunks, so without a declared length; `more` is added at the end."""

    def pieces(handler: Handler, body: bytes) -> None:
        for start in range(0, len(body), 10_000):
            piece = body[start : start + 10_000]
            handler.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        handler.write(b"0\r\n\r\n")

    answer.headers |= {"Content-Length": "", "Transfer-Encoding": "chunked"}
    answer.body += more
    answer.pieces = pieces


def drip(_: Handler, answer: Answer, pause: float = 0.05, after: int = 0) -> None:
    """The body byte by byte, so that a socket's time-out never comes; `after` so many at once."""

    def pieces(handler: Handler, body: bytes) -> None:
        handler.write(body[:after])
        for byte in body[after:]:
            if handler.server.closing.wait(pause):
                return
            handler.write(bytes([byte]))

    answer.pieces = pieces


def silent(handler: Handler, _: Answer) -> None:
    """No answer at all."""
    handler.server.closing.wait()
    raise ConnectionAbortedError


def held(handler: Handler, _: Answer) -> None:
    """The right answer, once the test lets it go."""
    handler.server.let_go.wait()


def hang_up(handler: Handler, _: Answer) -> None:
    """The connection ends before an answer."""
    handler.connection.shutdown(2)
    raise ConnectionAbortedError


def garbage(handler: Handler, _: Answer) -> None:
    """Something that is no HTTP."""
    handler.write(b"\x00\xff SMTP ready\r\n\r\n")
    handler.connection.shutdown(2)
    raise ConnectionAbortedError


def pace(_: Handler, answer: Answer, rate: float) -> None:
    """The body at `rate` bytes per second: time enough to kill somebody."""

    def pieces(handler: Handler, body: bytes) -> None:
        step = max(1, int(rate * 0.01))
        for start in range(0, len(body), step):
            handler.write(body[start : start + step])
            if handler.server.closing.wait(0.01):
                return

    answer.pieces = pieces


FAULTS: dict[str, Callable[..., None]] = {
    made.__name__: made
    for made in (
        *(
            status,
            cut,
            declared,
            replaced,
            corrupt,
            header,
            whole,
            wrong_range,
            shifted_range,
            lying_range,
            careless_range,
        ),
        *(redirect, no_length, chunked, drip, silent, held, hang_up, garbage, pace),
    )
}
