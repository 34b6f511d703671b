"""The files of the page and how they are sent: no browser needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from quire_server.config import ServeConfig
from quire_server.metrics import ServerMetrics
from quire_server.playground.assets import load_assets
from quire_server.playground.front_end import front_end
from quire_server.service import Service
from quire_server.testing import FakeEngine


def service(**settings: Any) -> Service:
    return Service(FakeEngine(), ServeConfig(**settings), ServerMetrics())


def paths(one: Any) -> set[str]:
    return {route.path for route in one.router.routes}


def test_every_route_is_public_and_static() -> None:
    one = front_end(service(), None)
    assert one.public == paths(one)
    assert "/" in one.public
    assert not any("{" in path for path in one.public)


def test_turned_off_there_is_nothing() -> None:
    one = front_end(service(playground=False), None)
    assert paths(one) == set() == one.public


def test_the_page_and_its_files_are_sent(site: Any) -> None:
    client = httpx.Client(base_url=site.url)
    for asset in load_assets():
        url = "/" if asset.name == "index.html" else f"/playground/{asset.name}"
        answer = client.get(url)
        assert answer.status_code == 200
        assert answer.content == asset.content
        assert answer.headers["content-type"] == asset.media_type
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert client.head(url).headers["etag"] == answer.headers["etag"]
    client.close()


def test_what_a_browser_has_is_not_sent_again(site: Any) -> None:
    with httpx.Client(base_url=site.url) as client:
        etag = client.get("/").headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = client.get("/", headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == etag
            assert again.headers["cache-control"] == "no-cache"
        assert client.get("/", headers={"If-None-Match": '"other"'}).status_code == 200


def test_other_content_has_another_etag() -> None:
    etags = [asset.etag for asset in load_assets()]
    assert len(set(etags)) == len(etags)


def test_the_page_has_no_inline_code_or_style(static: Path) -> None:
    html = (static / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\ssrc=)", html) == []
    assert "<style" not in html
    assert re.findall(r"\s(?:on\w+|style)=", html) == []


def test_every_file_that_is_named_exists(static: Path) -> None:
    html = (static / "index.html").read_text()
    named = set(re.findall(r'(?:src|href)="playground/([^"]+)"', html))
    for script in static.glob("*.js"):
        named |= set(re.findall(r'from "\./([^"]+)"', script.read_text()))
    assert named | {"index.html"} == {file.name for file in static.iterdir()}


@pytest.mark.parametrize(
    "word", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "//cdn"]
)
def test_nothing_makes_markup_or_code_from_text(static: Path, word: str) -> None:
    assert [file.name for file in static.iterdir() if word in file.read_text()] == []


def test_nothing_is_fetched_from_elsewhere(static: Path) -> None:
    for file in static.iterdir():
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", file.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, which nobody fetches


def test_files_have_one_noun(static: Path) -> None:
    assert [file.name for file in static.iterdir() if len(file.read_text().splitlines()) > 400] == []
