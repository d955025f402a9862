"""Requests to a file server over HTTP, with retries and limits; semg/download/file_transfer.py uses them to download
files.

A server is not trusted: it may be slow, break off, lie about lengths and ranges, answer with a web page, or redirect.
No more is read than was declared or fits on the disk, and no body may arrive more slowly than MIN_RATE.
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
MAX_TEXT = 8 << 20  # most bytes of a list of files; putEMG's are far below 1 MiB
MAX_WAIT = 120.0  # seconds between two attempts, even if the server asks for more
MIN_RATE = 1024.0  # bytes per second, over the length of a time-out; slower counts as stalled
PROGRESS = 1 << 20  # an attempt with this many bytes counts as progress, and the count of retries starts again
_BLOCK = 1 << 18
_REDIRECTS = (301, 302, 303, 307, 308)
_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
_NOTHING: MappingProxyType[str, str] = MappingProxyType({})
# Content-Encodings under which the bytes sent are the file's own; S3 keeps the last one for uploads in chunks
_AS_IT_IS = ("", "identity", "aws-chunked")
_UNPACKED = ("gzip", "x-gzip", "deflate")  # accepted for texts: some servers compress them even if asked not to


class NotFoundError(DataError):
    """The server does not have the file."""


class DiskFullError(DataError):
    """No space is left, so the other files cannot be downloaded either."""


class StoppedError(Exception):
    """The run is being stopped; files on disk stay as they are."""


class TemporaryError(Exception):
    """An error that may not occur again; `after`: seconds to wait, if the server said so."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True)
class Server:
    """A location of files: `root` ends with a slash; `user` signs in to a share without a password."""

    root: str
    user: str = ""
    lists: bool = False  # whether it answers PROPFIND with the files of a folder and their sizes


class Client:
    """Requests to one server, with retries and limits. Its methods can be called from several threads.

    timeout: seconds without an answer, or with less than MIN_RATE, after which an attempt ends.
    retries: further attempts after an attempt that failed for a temporary reason.
    wait: seconds before the first retry; doubled for each further one.
    say: called with a line about each failed attempt that is followed by another.
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
        """Make all threads raise StoppedError: waiting ones now, those that are reading with their next bytes."""
        self._stop.set()

    def text(self, path: str) -> str:
        """The contents of a small text file. NotFoundError if there is none; DataError if it cannot be read."""

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
        """A file's length and version from its headers, as far as the server states them."""
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
        """The bytes of a text, decompressed."""
        data = bytearray()
        for block in self.blocks(response, decoded=True):
            data += block
            if len(data) > MAX_TEXT:
                raise DataError(f"expected a list of at most {MAX_TEXT} bytes, found more")
        return bytes(data)

    def blocks(self, response: requests.Response, *, decoded: bool = False) -> Iterator[bytes]:
        """The body as it arrives. A server that keeps the connection alive with a few bytes is cut off, too."""
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
        """The response to a request, after redirects. TemporaryError or DataError for any status not in `allowed`."""
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
                # identity: lengths and ranges must be the file's; without the other header Nextcloud may answer 401
                headers={"Accept-Encoding": "identity", "X-Requested-With": "XMLHttpRequest", **headers},
                auth=(self.server.user, "") if self.server.user and ours else None,
                timeout=(min(self._timeout, 15.0), self._timeout),
                allow_redirects=False,
                stream=True,
            )
        except requests.RequestException:
            raise
        except ValueError as error:  # requests parses redirects even if it is not to follow them
            raise DataError(f"expected a file, found an answer that cannot be understood ({error})") from None

    def _session(self) -> requests.Session:
        """A separate session for each thread: requests does not guarantee that one can be shared."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session

    # --- patience ------------------------------------------------------------------------------------------

    def retried(self, path: str, attempt: Callable[[], T], size: Callable[[], int] = lambda: 0) -> T:
        """Call `attempt` until it succeeds. The count of retries starts again when `size`, bytes on disk, has grown by
        PROGRESS."""
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
    """DataError for a body whose bytes are not the file's own."""
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
    """The target of a redirect. Refused: from https to http, to another host unless both are https, other schemes."""
    new = urljoin(url, location)  # an address with invalid brackets does not get here, see _send
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
    """A plain line for errors that requests and urllib3 describe at length."""
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
    """The number of bytes that a response declares, if it does."""
    text = response.headers.get("content-length", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def refuse_page(response: requests.Response) -> None:
    """DataError for a response that declares itself a web page instead of a file."""
    page = "text/html" in response.headers.get("content-type", "").lower()
    if page and response.status_code in (200, 206):
        raise DataError("expected a file, found a web page; is the address right?")


def is_page(start: bytes) -> bool:
    """Whether a file starts like HTML, which servers send with a 200 when they mean an error."""
    return start[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html"))


def looks_like_page(path: Path) -> bool:
    """Whether the file at `path` starts like a web page."""
    with path.open("rb") as file:
        return is_page(file.read(512))


def validator(response: requests.Response) -> str:
    """The value for If-Range: a strong ETag, otherwise the time of the last change; empty if there is neither."""
    etag = response.headers.get("etag", "")
    strong = re.fullmatch(r'"[\x21\x23-\x7e]{1,200}"', etag) is not None
    return etag if strong else response.headers.get("last-modified", "")
