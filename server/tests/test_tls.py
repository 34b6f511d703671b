"""TLS as configured: the server's certificate, and clients' where they are asked for."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.http.protocol import uvicorn_config
from quire_server.metrics import ServerMetrics
from quire_server.ops.front_end import front_end as ops
from quire_server.service import Service
from quire_server.testing import FakeEngine, LiveServer

openssl = shutil.which("openssl")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    assert openssl is not None
    command = (
        f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return certificate, key


def serve(**settings: Any) -> LiveServer:
    service = Service(FakeEngine(), ServeConfig(**settings), ServerMetrics())
    return LiveServer(build_app(service, [ops(service)]))


@pytest.mark.skipif(openssl is None, reason="openssl makes the certificate")
def test_https(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    with serve(ssl_certfile=certificate, ssl_keyfile=key) as server:
        url = server.url.replace("http:", "https:")
        context = ssl.create_default_context(cafile=str(certificate))
        assert httpx.get(f"{url}/health", verify=context).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")


@pytest.mark.skipif(openssl is None, reason="openssl makes the certificate")
def test_clients_must_show_a_certificate_where_authorities_are_named(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    with serve(ssl_certfile=certificate, ssl_keyfile=key, ssl_ca_certs=certificate) as server:
        url = server.url.replace("http:", "https:")
        context = ssl.create_default_context(cafile=str(certificate))
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{url}/health", verify=context)
        context.load_cert_chain(certificate, key)
        assert httpx.get(f"{url}/health", verify=context).status_code == 200


def test_uvicorn_is_told_what_the_settings_say() -> None:
    service = Service(FakeEngine(), ServeConfig(host="::1", port=1234, keep_alive=1.5), ServerMetrics())
    config = uvicorn_config(service.settings, build_app(service, []))
    assert (config.host, config.port, config.timeout_keep_alive) == ("::1", 1234, 2)
    assert not config.server_header
    assert config.root_path == ""
