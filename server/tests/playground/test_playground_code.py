"""The copies as curl and as Python make the request that the page makes."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
from typing import Any

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow  # runs a browser

AWKWARD = 'it\'s "quoted" $HOME `x` \\n \\\nnext line\ttab 😀 é \u2028 end'


def code(page: Page, language: str) -> str:
    if not page.locator("#code-dialog").is_visible():
        page.click("#code")
    page.click(f"label[for=code-{language}]")
    return page.locator("#code-text").evaluate("node => node.textContent") or ""


def sent(page: Page, site: Any, text: str) -> dict[str, Any]:
    """The body that the page itself sends."""
    page.click("#code-close")
    page.fill("#composer-text", text)
    page.press("#composer-text", "Enter")
    expect(page.locator(".turn .facts")).to_have_count(1)
    body: dict[str, Any] = site.bodies[-1]
    return body


def run_curl(text: str) -> list[str]:
    """The arguments that a shell would hand to curl."""
    shown = subprocess.run(
        ["bash", "-c", f"curl() {{ printf '%s\\0' \"$@\"; }}\n{text}"],
        capture_output=True,
        check=True,
        env={"OPENAI_API_KEY": "from-the-environment"},
    )
    return shown.stdout.decode().split("\0")[:-1]


def fill(page: Page) -> None:
    page.fill("#field-temperature", "0.5")
    page.fill("#field-top_k", "7")
    page.fill("#field-stop", "never\\nthis")
    page.click("summary:has-text('Tokens')")
    page.fill("#field-logit_bias", "65: -1.5\n66: 2")


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_curl_makes_the_same_request(page: Page, site: Any, mode: str) -> None:
    page.click(f"label[for=mode-{mode}]")
    fill(page)
    page.fill("#composer-text", AWKWARD)
    arguments = run_curl(code(page, "curl"))
    path = "chat/completions" if mode == "chat" else "completions"
    assert arguments[:2] == ["-N", f"{site.url}v1/{path}"]
    assert json.loads(arguments[arguments.index("-d") + 1]) == sent(page, site, AWKWARD)


@pytest.mark.parametrize(("mode", "stream"), [("chat", True), ("completion", False)])
def test_the_python_program_makes_the_same_request(page: Page, site: Any, mode: str, stream: bool) -> None:
    page.click(f"label[for=mode-{mode}]")
    fill(page)
    if not stream:
        page.click("summary:has-text('Request')")
        page.get_by_role("switch", name="Stream").uncheck()
    page.fill("#composer-text", AWKWARD)
    program = code(page, "python")
    printed = io.StringIO()
    scope: dict[str, Any] = {}
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "copied.py", "exec"), scope)
    scope["client"].close()
    assert printed.getvalue().strip()
    assert site.bodies.pop() == sent(page, site, AWKWARD)
    expect(page.locator(".answer-text")).to_have_text(printed.getvalue().removesuffix("\n"))


def test_the_key_itself_is_never_copied(context: Any, site: Any) -> None:
    site.key = "very-secret"
    page = context.new_page()
    page.goto("/")
    page.get_by_label("API key").fill(site.key)
    page.keyboard.press("Enter")
    expect(page.locator("#model option")).to_have_count(1)
    page.fill("#composer-text", "hello")
    curl, python = code(page, "curl"), code(page, "python")
    assert "very-secret" not in curl + python
    assert "Authorization: Bearer from-the-environment" in run_curl(curl)
    assert 'os.environ["OPENAI_API_KEY"]' in python


def test_the_code_can_be_copied(context: Any, page: Page) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.fill("#composer-text", "hello")
    shown = code(page, "python")
    page.click("#code-copy")
    expect(page.locator("#code-copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == shown
    page.keyboard.press("Escape")
    expect(page.locator("#code-dialog")).to_be_hidden()
