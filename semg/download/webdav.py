"""What a WebDAV server lists of a folder."""

import re
from dataclasses import dataclass
from urllib.parse import unquote
from xml.parsers import expat

from semg.common.errors import DataError


@dataclass(frozen=True)
class Listed:
    """What a server says of a file: its bytes, and its version (an ETag or a time of change); None, empty: nothing."""

    size: int | None = None
    version: str = ""


def read_listing(data: bytes) -> dict[str, Listed]:
    """Files by name from a WebDAV multistatus; document types, which can blow up, are refused."""
    files: dict[str, Listed] = {}
    href, length, etag, text = "", "", "", ""

    def begin(tag: str, _attributes: dict[str, str]) -> None:
        nonlocal href, length, etag, text
        text = ""
        if tag == "DAV: response":
            href = length = etag = ""

    def collect(more: str) -> None:
        nonlocal text
        text += more

    def end(tag: str) -> None:
        nonlocal href, length, etag
        if tag == "DAV: href":
            href = text.strip()
        elif tag == "DAV: getcontentlength":
            length = text.strip()
        elif tag == "DAV: getetag":
            etag = text.strip()
        elif tag == "DAV: response" and re.fullmatch(r"[0-9]{1,18}", length) and not href.endswith("/"):
            files[unquote(href.rpartition("/")[2])] = Listed(int(length), etag)

    def refuse(*_: object) -> None:
        raise DataError("expected a list of files, found a document type in it; refused")

    reader = expat.ParserCreate(namespace_separator=" ")
    reader.StartElementHandler, reader.EndElementHandler = begin, end
    reader.CharacterDataHandler, reader.StartDoctypeDeclHandler = collect, refuse
    try:
        reader.Parse(data, True)
    except expat.ExpatError as error:
        raise DataError(f"expected a list of files, found unreadable XML ({error})") from None
    return files
