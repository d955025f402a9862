"""Folder listings of a WebDAV server."""

import re
from dataclasses import dataclass
from urllib.parse import unquote
from xml.etree import ElementTree

from semg.common.errors import DataError


@dataclass(frozen=True)
class Listed:
    """What a server says about a file: its size in bytes, and its version (an ETag or a modification time); None or
    empty if unknown."""

    size: int | None = None
    version: str = ""


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, *_: object) -> None:
        """Refuse document types: only these can declare entities, which can expand without limit."""
        raise DataError("expected a list of files, found a document type in it; refused")


def read_listing(data: bytes) -> dict[str, Listed]:
    """Files by name from a WebDAV multistatus. DataError for anything else, and for a document with a document type."""
    parser = ElementTree.XMLParser(target=_Builder())  # noqa: S314  the builder refuses what makes XML dangerous
    try:
        parser.feed(data)
        responses = parser.close().iter("{DAV:}response")
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: encodings that expat cannot read
        raise DataError(f"expected a list of files, found unreadable XML ({error})") from None
    files: dict[str, Listed] = {}
    for response in responses:
        href, length, etag = (
            next((one.text.strip() for one in response.iter(f"{{DAV:}}{name}") if one.text), "")
            for name in ("href", "getcontentlength", "getetag")
        )
        if re.fullmatch(r"[0-9]{1,18}", length) and not href.endswith("/"):
            files[unquote(href.rpartition("/")[2])] = Listed(int(length), etag)
    return files
