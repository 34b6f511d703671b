"""The playground's files and the headers they are sent with.

Knows files, media types and caching. Knows no service and no route.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

SECURITY_HEADERS = {
    # Nothing inline and nothing from elsewhere, and no string ever becomes markup or code.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page.

    Attributes:
        name: its file name.
        content: its bytes.
        media_type: what a browser takes it for.
        etag: strong validator, from the content.
    """

    name: str
    content: bytes
    media_type: str
    etag: str

    def response(self, request: Request) -> Response:
        """The file, or 304 if the client has it already (RFC 9110, 13.1.2)."""
        headers = SECURITY_HEADERS | {
            "ETag": self.etag,
            # Kept, and asked after each time: an upgraded server must never meet parts of an older page.
            "Cache-Control": "no-cache",
        }
        if _matches(request.headers.get("if-none-match", ""), self.etag):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def load_assets() -> Iterator[Asset]:
    """Every file of the page, by name."""
    folder = resources.files(__package__).joinpath("static")
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        content = file.read_bytes()
        yield Asset(
            name=file.name,
            content=content,
            media_type=MEDIA_TYPES["." + file.name.rpartition(".")[2]],
            etag=f'"{hashlib.sha256(content).hexdigest()[:32]}"',
        )


def _matches(header: str, etag: str) -> bool:
    given = {one.strip().removeprefix("W/") for one in header.split(",")}
    return etag in given or "*" in given
