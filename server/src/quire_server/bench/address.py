"""Where a server is: a base URL taken apart, written with or without `/v1`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from quire.errors import ConfigError

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address.

    Attributes:
        scheme: "http" or "https".
        host: name or address, without brackets.
        port: TCP port.
        prefix: path in front of `/v1`, "" or "/something".
    """

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """An address from `http://host:8000`, with `/v1` behind it or not.

        Raises:
            ConfigError: it is not an http or https URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"The URL {url!r} cannot be read: {error}.") from None
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ConfigError(f"The URL {url!r} is not one of a server: write http://HOST:PORT.")
        if parts.username or parts.query or parts.fragment:
            raise ConfigError(
                f"The URL of {parts.hostname!r} has more than host, port and path: leave it out."
            )
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], prefix)

    @property
    def netloc(self) -> str:
        """Host and port as the `Host` header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL, without `/v1`."""
        return f"{self.scheme}://{self.netloc}{self.prefix}"
