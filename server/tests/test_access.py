"""Who may ask for what: every route of every front end, odd paths, keys from settings and files."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from quire.errors import ConfigError
from quire.testing import HOOKS
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.http import keys
from quire_server.http.keys import KeyRing
from quire_server.metrics import ServerMetrics
from quire_server.ops.front_end import front_end as ops
from quire_server.service import Service
from quire_server.testing import FakeEngine, LiveServer, echo
