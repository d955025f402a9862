"""Requests to a file server over HTTP, retried and bounded; semg/download/file_transfer.py brings files by them.

A server is not trusted: it may be slow, cut off, lie about lengths and ranges, answer with a web page, or
redirect. Nothing reads more than was declared or than the disk holds, and no body may come slower than MIN_RATE.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import quote, urljoin, urlsplit

import requests
import urllib3

from semg.common.errors import DataError
from semg.download.webdav import Listed, read_listing

T = TypeVar("T")

MAX_REDIRECTS = 5
MAX_TEXT = 8 << 20  # bytes of a list of files; putEMG's are far below 1 MiB
MAX_WAIT = 120.0  # seconds between two attempts, even if the server asks for more
MIN_RATE = 1024.0  # bytes per second, over a time-out's length; slower counts as stalled
PROGRESS = 1 << 20  # bytes that make an attempt count as progress, so that the retries start anew
_BLOCK = 1 << 18
_REDIRECTS = (301, 302, 303, 307, 308)
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_NOTHING: MappingProxyType[str, str] = MappingProxyType({})
# Content-Encodings under which the bytes sent are the file's own; S3 stores the last with what was uploaded in chunks
_AS_IT_IS = ("", "identity", "aws-chunked")
_UNPACKED = ("gzip", "x-gzip", "deflate")  # taken for texts: some servers compress them though asked not to


class NotFoundError(DataError):
    """The server has no such file."""


class DiskFullError(DataError):
    """No space is left: there is no use in going on with other files."""


class StoppedError(Exception):
    """The run is being stopped; whatever is on disk stays as it is."""


class TemporaryError(Exception):
    """Something that may go well another time, `after` seconds if the server said so."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True)
class Server:
    """A place that files lie under: `root` ends with a slash; `user` signs in to a share with no password."""

    root: str
    user: str = ""
    lists: bool = False  # answers PROPFIND with the files of a folder and their sizes


class Client:
    """Requests to one server, retried and bounded. Its methods can be called from several threads.

    timeout: seconds without an answer, or with less than MIN_RATE, after which an attempt ends.
    retries: further attempts after a first one that failed for a reason that may pass.
    wait: seconds before the first retry; doubles with each.
    say: is given a line about each attempt that failed and is followed by another.
    """

    def __init__(
        self, server: Server, *, timeout: float, retries: int, wait: float, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.server = server
        self._timeout, self._retries, self._wait, self._say = timeout, retries, wait, say
        self._local = threading.local()
        self._stop = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Let all threads raise StoppedError: waiting ones now, those that read with their next bytes."""
        self._stop.set()

    def text(self, path: str) -> str:
        """A small text file. NotFoundError if there is none; DataError if it cannot be had."""

        def attempt() -> str:
            with self.open("GET", path) as response:
                refuse_page(response)
                refuse_encoded(response, _AS_IT_IS + _UNPACKED)
                data = self._all(response)
            if is_page(data):
                raise DataError("expected a text file, found a web page")
            return data.decode("utf-8-sig", errors="replace")

        return self.retried(path, attempt)

    def facts(self, path: str) -> Listed:
        """A file's length and version by its headers, each as far as the server says it."""
        try:
            with self.open("HEAD", path) as response:
                page = "text/html" in response.headers.get("content-type", "").lower()
                if page or response.headers.get("content-encoding", "") not in _AS_IT_IS:
                    return Listed()
                return Listed(declared_length(response) or None, validator(response))
        except (TemporaryError, DataError):
            return Listed()

    def listing(self, folder: str) -> dict[str, Listed] | None:
        """The files in a folder of the share by name; None if the server does not list them."""

        def attempt() -> dict[str, Listed] | None:
            with self.open("PROPFIND", folder + "/", {"Depth": "1"}, allowed=(200, 207)) as response:
                return read_listing(self._all(response))

        try:
            return self.retried(folder, attempt)
        except DataError:
            return None

    def _all(self, response: requests.Response) -> bytes:
        """A text's bytes, unpacked."""
        data = bytearray()
        for block in self.blocks(response, decoded=True):
            data += block
            if len(data) > MAX_TEXT:
                raise DataError(f"expected a list of at most {MAX_TEXT} bytes, found more")
        return bytes(data)

    def blocks(self, response: requests.Response, *, decoded: bool = False) -> Iterator[bytes]:
        """The body as it comes. A server that keeps the connection alive with a few bytes is cut off too."""
        received, end = 0, time.monotonic() + self._timeout
        while True:
            try:
                block: bytes = response.raw.read1(_BLOCK, decode_content=decoded) or b""
            except urllib3.exceptions.DecodeError as error:
                raise DataError(f"expected a text, found one that cannot be unpacked ({error})") from None
            self._check_stop()
            if not block:
                return
            received += len(block)
            yield block
            if time.monotonic() < end:
                continue
            if received < MIN_RATE * self._timeout:
                raise TemporaryError(f"expected {MIN_RATE:g} bytes/s, found {received} bytes in {self._timeout:g} s")
            received, end = 0, time.monotonic() + self._timeout

    # --- one request ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        path: str,
        headers: "dict[str, str] | MappingProxyType[str, str]" = _NOTHING,
        allowed: tuple[int, ...] = (200,),
    ) -> Iterator[requests.Response]:
        """The answer to a request, after redirects. TemporaryError or DataError for every other than `allowed`."""
        try:
            with self._followed(method, self.server.root + quote(path), dict(headers)) as response:
                _refuse_status(response, allowed)
                yield response
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise DataError(f"expected a web address, found {error}") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            self._check_stop()
            raise _network_error(error, self._timeout) from None

    def _followed(self, method: str, url: str, headers: dict[str, str]) -> requests.Response:
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(method, url, headers)
            if response.status_code not in _REDIRECTS:
                return response
            location = response.headers.get("location", "")
            response.close()
            url = _redirected(url, location)
        raise DataError(f"expected a file, found more than {MAX_REDIRECTS} redirects")

    def _send(self, method: str, url: str, headers: dict[str, str]) -> requests.Response:
        self._check_stop()
        ours = urlsplit(url).netloc == urlsplit(self.server.root).netloc
        try:
            return self._session().request(
                method,
                url,
                # identity, or lengths and ranges would be of other bytes; without the other Nextcloud may answer 401
                headers={"Accept-Encoding": "identity", "X-Requested-With": "XMLHttpRequest", **headers},
                auth=(self.server.user, "") if self.server.user and ours else None,
                timeout=(min(self._timeout, 15.0), self._timeout),
                allow_redirects=False,
                stream=True,
            )
        except requests.RequestException:
            raise
        except ValueError as error:  # requests takes redirects apart even where it is not to follow them
            raise DataError(f"expected a file, found an answer that cannot be understood ({error})") from None

    def _session(self) -> requests.Session:
        """A session for each thread: requests does not promise that one can be shared."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session

    # --- patience ------------------------------------------------------------------------------------------

    def retried(self, path: str, attempt: Callable[[], T], size: Callable[[], int] = lambda: 0) -> T:
        """Call `attempt` until it goes well. Retries start anew when `size`, bytes on disk, has grown well."""
        failures, best = 0, size()
        while True:
            try:
                return attempt()
            except TemporaryError as error:
                if size() >= best + PROGRESS:
                    failures, best = 0, size()
                failures += 1
                if failures > self._retries:
                    times = "1 attempt" if failures == 1 else f"{failures} attempts"
                    raise DataError(f"{error}; gave up after {times}") from None
                pause = self._wait * 2.0 ** (failures - 1) if error.after is None else error.after
                pause = min(pause, MAX_WAIT)
                self._say(f"{path}: {error}; attempt {failures + 1} of {self._retries + 1} in {pause:.0f} s")
                self._stop.wait(pause)

    def _check_stop(self) -> None:
        if self.stopped:
            raise StoppedError


# --- what answers say ------------------------------------------------------------------------------------


def _refuse_status(response: requests.Response, allowed: tuple[int, ...]) -> None:
    code = response.status_code
    if code in _TEMPORARY:
        raise TemporaryError(f"the server answered {code}", _retry_after(response))
    if code in (404, 410):
        raise NotFoundError(f"expected a file on the server, found none ({code})")
    if code not in allowed:
        raise DataError(f"expected a file from the server, found the answer {code}")


def refuse_encoded(response: requests.Response, allowed: tuple[str, ...] = _AS_IT_IS) -> None:
    """DataError for bytes that are not the file's own."""
    encoding = response.headers.get("content-encoding", "")
    if encoding not in allowed:
        raise DataError(f"expected the file's own bytes, found them sent as {encoding!r}: their length says nothing")


def _retry_after(response: requests.Response) -> float | None:
    """Seconds to wait, from a number or a date; None if the server does not say."""
    text = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads. Refused: from https to http, another host unless both are https, other schemes."""
    new = urljoin(url, location)  # an address with wrong brackets does not get here: see _send
    old_parts, new_parts = urlsplit(url), urlsplit(new)
    encrypts = (old_parts.scheme, new_parts.scheme) == ("http", "https") and new_parts.hostname == old_parts.hostname
    if encrypts:
        return new
    if not location or new_parts.scheme != old_parts.scheme:
        raise DataError(f"expected a file, found a redirect from {old_parts.scheme} to {location!r}; refused")
    if new_parts.scheme != "https" and new_parts.hostname != old_parts.hostname:
        raise DataError(f"expected a file, found an unencrypted redirect to {new_parts.hostname}; refused")
    return new


def _network_error(error: Exception, timeout: float) -> TemporaryError | DataError:
    """One plain line for what requests and urllib3 report at length."""
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)) or "timed out" in str(error):
        return TemporaryError(f"no answer for {timeout:g} s")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return DataError("expected a valid certificate of the server, found another")
    innermost: BaseException = error
    while innermost.args and isinstance(innermost.args[-1], BaseException):
        innermost = innermost.args[-1]
    reason = getattr(innermost, "reason", None) or innermost
    return TemporaryError(f"no connection ({str(reason).rpartition(': ')[2] or type(reason).__name__})")


def declared_length(response: requests.Response) -> int | None:
    """Bytes that an answer says it has, if it says it."""
    text = response.headers.get("content-length", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def refuse_page(response: requests.Response) -> None:
    """DataError for what says that it is a web page, in place of a file."""
    page = "text/html" in response.headers.get("content-type", "").lower()
    if page and response.status_code in (200, 206):
        raise DataError("expected a file, found a web page; is the address right?")


def is_page(start: bytes) -> bool:
    """Whether a file starts like HTML: what servers send with a 200 when they mean an error."""
    return start[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html"))


def looks_like_page(path: Path) -> bool:
    """Whether the file at `path` starts like a web page."""
    with path.open("rb") as file:
        return is_page(file.read(512))


def validator(response: requests.Response) -> str:
    """What If-Range takes: a strong ETag, else the time of the last change; empty if there is neither."""
    etag = response.headers.get("etag", "")
    strong = re.fullmatch(r'"[\x21\x23-\x7e]{1,200}"', etag) is not None
    return etag if strong else response.headers.get("last-modified", "")
