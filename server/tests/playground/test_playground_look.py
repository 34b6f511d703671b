"""The live view of the engine, and how the page looks: light, dark, on a phone, without motion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.slow  # runs a browser


def test_the_view_shows_the_engine_and_follows_it(page: Page, site: Any) -> None:
    body = page.locator("#engine-body")
    for words in (
        "Ready",
        "3 of 8",
        "32 used",
        "16 cached",
        "16 free",
        "25.0 %",
        "40.0 ms",
        "200 ms",
        "1\u202f234\u202f567",
    ):
        expect(body).to_contain_text(words)
    # 50 tokens in half a second, by the server's clock
    expect(body.locator(".big")).to_have_text("100tokens/s")
    expect(body.locator(".sparkline .line")).to_have_count(1)
    site.view["requests"]["running"] = 5
    site.view["health"] = "stalled"
    expect(body).to_contain_text("5 of 8")
    expect(body).to_contain_text("Does not respond")
    expect(body.locator(".blocks")).to_have_attribute(
        "aria-label", "32 used, 16 cached, 16 free, of 64 blocks"
    )
    widths = body.locator(".blocks span").evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect().width)"
    )
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.05)


def test_plugins_say_why_and_stay_open(page: Page, site: Any) -> None:
    page.locator(".plugins summary").click()
    for words in ("the only one that fits", "other:flash", "needs another device"):
        expect(page.locator(".plugins")).to_contain_text(words)
    looks = site.looks
    page.wait_for_timeout(1500)
    assert site.looks > looks
    expect(page.locator(".rejected")).to_be_visible()


def test_nobody_asks_while_nobody_looks(page: Page, site: Any) -> None:
    page.evaluate(
        """() => {
          Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
          document.dispatchEvent(new Event("visibilitychange"));
        }"""
    )
    page.wait_for_timeout(200)  # one may be under way
    looks = site.looks
    page.wait_for_timeout(1500)
    assert site.looks == looks
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(1500)
    assert looks + 2 <= site.looks <= looks + 3  # at once, and a second later
    page.click("#toggle-engine")
    page.wait_for_timeout(200)
    looks = site.looks
    page.wait_for_timeout(1300)
    assert site.looks == looks


def test_a_server_without_the_view_is_not_asked_again(context: Any, site: Any) -> None:
    page = context.new_page()
    asked: list[str] = []

    def missing(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(status=404, json={"error": {"message": "Not Found"}})

    page.route("**/quire/engine", missing)
    page.goto("/")
    expect(page.locator("#engine-body")).to_have_text("This server gives no view of its engine.")
    page.wait_for_timeout(1300)
    assert len(asked) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_system_until_told_otherwise(page: Page, scheme: Any) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    colours = {"light": "rgb(250, 249, 246)", "dark": "rgb(23, 24, 27)"}
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate(background) == colours[scheme]
    page.click("#theme")
    assert page.evaluate(background) == colours["light"]
    page.click("#theme")
    assert page.evaluate(background) == colours["dark"]
    page.reload()
    assert page.evaluate(background) == colours["dark"]
    expect(page.locator("#theme")).to_have_attribute("aria-label", "Theme: dark")


CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    const [r, g, b, a] = rgb(getComputedStyle(node).backgroundColor);
    if (a === 255 || !node.parentElement) return [r, g, b];
    const below = behind(node.parentElement);
    return [r, g, b].map((c, i) => (c * a + below[i] * (255 - a)) / 255);
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const words = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!words || node.closest(":disabled, .unseen") || !node.checkVisibility()) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(node.outerHTML.slice(0, 80));
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(page: Page, scheme: Any) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    page.emulate_media(color_scheme=scheme)
    page.fill("#composer-text", "hello")
    page.press("#composer-text", "Enter")
    expect(page.locator(".turn .facts")).to_have_count(1)
    page.locator(".plugins summary").click()
    page.evaluate("document.querySelectorAll('.word').forEach((word, i) => (word.dataset.surprise = i % 5))")
    assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_a_phone_shows_everything_without_scrolling_sideways(
    browser: Browser, site: Any, mode: str, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, base_url=site.url)
    page = context.new_page()
    page.goto("/")
    page.click(f"label[for=mode-{mode}]")
    expect(page.locator("#settings")).to_be_hidden()
    page.fill("#composer-text", "word " * 20 + "x" * 100)
    page.press("#composer-text", "Enter")
    expect(page.locator(".turn .facts")).to_have_count(1)
    page.locator(".token").first.tap()
    expect(page.locator("#tooltip")).to_be_visible()
    fits = (
        "document.documentElement.scrollWidth <= 390 && document.querySelector('.scroll').scrollWidth <= 390"
    )
    assert page.evaluate(fits)
    for panel in ("settings", "engine"):
        page.click(f"#toggle-{panel}")
        expect(page.locator(f"#{panel}")).to_be_visible()
        assert page.evaluate(f"document.getElementById('{panel}').scrollWidth <= 390")
        for selector in (f"#toggle-{panel}", f"#close-{panel}"):
            expect(page.locator(selector)).to_be_in_viewport()
    expect(page.locator("#settings")).to_be_hidden()  # one at a time
    page.keyboard.press("Escape")
    expect(page.locator("#engine")).to_be_hidden()
    assert len(page.screenshot(path=tmp_path / "phone.png")) > 10_000
    context.close()


def test_nothing_moves_for_those_who_want_no_motion(page: Page, site: Any) -> None:
    page.emulate_media(reduced_motion="reduce")
    site.engine.delay = 0.05
    page.fill("#composer-text", "hello")
    page.press("#composer-text", "Enter")
    expect(page.locator(".answer-text")).to_contain_text("user")
    assert page.evaluate("document.getAnimations().length") == 0
    page.keyboard.press("Escape")
