"""API keys: who may ask for what.

Access is decided for the route that the router would choose, not for the text of the path, so there is no
second reading of a path that could differ from the first. Keys themselves are not kept, only their digests.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterator, Sequence

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from quire.errors import ConfigError
from quire_server.config import ServeConfig
from quire_server.errors import unauthorized
from quire_server.http.errors import ErrorForms
from quire_server.metrics import ServerMetrics


class KeyRing:
    """The keys that open the server. Empty: it is open to all."""

    def __init__(self, keys: Collection[str]) -> None:
        """Take in keys.

        Raises:
            ConfigError: one is empty or could not stand in a header.
        """
        for key in keys:
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise ConfigError(
                    "An API key is empty, or has characters that no header can carry. "
                    "Use printable ASCII without blanks, or leave the key out."
                )
        self._digests = [_digest(key.encode()) for key in keys]

    def __len__(self) -> int:
        return len(self._digests)

    @classmethod
    def from_settings(cls, settings: ServeConfig) -> KeyRing:
        """The keys of `api_keys` and of the file `api_key_file`.

        Raises:
            ConfigError: the file cannot be read or has no key, or a key is malformed.
        """
        keys = [key.get_secret_value() for key in settings.api_keys]
        path = settings.api_key_file
        if path is not None:
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"serve.api_key_file {str(path)!r} cannot be read: {type(error).__name__}."
                ) from error
            found = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
            if not found:
                raise ConfigError(f"serve.api_key_file {str(path)!r} has no key: write one a line.")
            keys += found
        return cls(keys)

    def opens(self, shown: bytes) -> bool:
        """Whether a key is one of these. Takes the same time whichever it is, and for a wrong one."""
        digest = _digest(shown)
        fits = False
        for one in self._digests:
            fits |= hmac.compare_digest(digest, one)
        return fits


class KeyMiddleware:
    """Refuses requests without a key, but for those to public routes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyRing,
        routes: Sequence[BaseRoute],
        public: frozenset[str],
        forms: ErrorForms,
        metrics: ServerMetrics,
    ) -> None:
        """Guard an application.

        Args:
            app: what is guarded.
            keys: those that open it.
            routes: the application's, in the order in which its router tries them.
            public: paths (as routes declare them) that need no key.
            forms: of errors.
            metrics: where refusals are counted.
        """
        self.app = app
        self._keys = keys
        self._routes = routes
        self._public = public
        self._forms = forms
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "lifespan" or not self._keys or self._opened(scope) or self._is_public(scope):
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        self._metrics.rejected("unauthorized")
        error = unauthorized(
            "A valid API key is needed: send it as 'Authorization: Bearer KEY', or as 'x-api-key: KEY'."
        )
        await self._forms.response(scope, error)(scope, receive, send)

    def _opened(self, scope: Scope) -> bool:
        return any(self._keys.opens(key) for key in _shown(scope))

    def _is_public(self, scope: Scope) -> bool:
        """Whether the router would choose a public route: the first match, else the first by path alone."""
        partial: BaseRoute | None = None
        for route in self._routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return getattr(route, "path", None) in self._public
            if match is Match.PARTIAL and partial is None:
                partial = route
        return partial is not None and getattr(partial, "path", None) in self._public


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _shown(scope: Scope) -> Iterator[bytes]:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield key.strip()
