"""A person at the page: chat and completion, streams, probabilities, keys, errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from quire_server.errors import bad_request, overloaded

pytestmark = pytest.mark.slow  # runs a browser

ANSWER = ".answer-text"


def send(page: Page, text: str) -> None:
    page.fill("#composer-text", text)
    page.press("#composer-text", "Enter")


def finished(page: Page, turns: int = 1) -> None:
    expect(page.locator(".turn .facts")).to_have_count(turns)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def complete(page: Page) -> None:
    page.get_by_text("Completion", exact=True).click()


def test_an_answer_streams_in_and_says_what_it_took(page: Page, site: Any) -> None:
    site.engine.delay = 0.03
    send(page, "hello")
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator(ANSWER)).to_contain_text("user: he")  # the fake engine echoes its prompt
    expect(page.locator(".answer[aria-busy]")).to_have_count(1)
    expect(page.locator(".facts")).to_have_count(0)
    finished(page)
    expect(page.locator(ANSWER)).to_have_text(("user: hello\nassistant: " * 3)[:64])
    for words in ("cut off at the token limit", "64 tokens for 23", "tokens/s", "first after"):
        expect(page.locator(".facts")).to_contain_text(words)
    expect(page.locator("#status")).to_contain_text("Answer complete")
    expect(page.locator("#composer-text")).to_have_value("")


def test_thinking_shows_while_it_lasts_and_can_be_opened_again(page: Page, site: Any) -> None:
    site.engine.use_parsers(reasoning_parser="think")
    site.engine.delay = 0.03
    site.engine.answer = "<think>\nSeven times thirteen.\n</think>\n\nNo."
    send(page, "Is 91 prime?")
    thinking = page.locator("details.thinking")
    expect(thinking.locator("div")).to_contain_text("Seven")
    expect(thinking).to_have_attribute("open", "")
    expect(page.locator(ANSWER)).to_have_text("")
    finished(page)
    expect(page.locator(ANSWER)).to_have_text("No.")
    expect(thinking).not_to_have_attribute("open", "")
    thinking.locator("summary").click()
    expect(thinking.locator("div")).to_have_text("Seven times thirteen.")
    expect(page.locator(".token")).to_have_count(3)


def test_stop_ends_the_request_in_the_engine_too(page: Page, site: Any) -> None:
    site.engine.delay = 0.05
    send(page, "hello")
    expect(page.locator(ANSWER)).to_contain_text("user")
    page.click("#stop")
    expect(page.locator(".facts")).to_contain_text("stopped")
    until(lambda: site.engine.aborted == 1 and site.engine.running == 0)
    assert len(page.locator(ANSWER).inner_text()) < 64
    expect(page.locator("#send")).to_be_visible()


def test_a_chat_sends_its_history_and_system_prompt(page: Page, site: Any) -> None:
    page.click(".system summary")
    page.fill("#system-text", "Be brief.")
    page.fill("#field-max_tokens", "4")
    send(page, "one")
    finished(page)
    send(page, "two")
    finished(page, 2)
    assert site.bodies[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "syst"},
        {"role": "user", "content": "two"},
    ]


def test_editing_asks_again_from_there(page: Page, site: Any) -> None:
    page.fill("#field-max_tokens", "4")
    for turn, text in enumerate(("one", "two"), 1):
        send(page, text)
        finished(page, turn)
    page.locator(".turn").first.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit and send again").fill("three")
    page.get_by_role("button", name="Send again").click()
    finished(page, 1)
    assert site.bodies[-1]["messages"] == [{"role": "user", "content": "three"}]
    expect(page.locator(".input-text")).to_have_text("three")


def test_regenerating_makes_the_same_request(page: Page, site: Any) -> None:
    send(page, "one")
    finished(page)
    page.get_by_role("button", name="Regenerate").click()
    until(lambda: len(site.bodies) == 2)
    finished(page)
    assert site.bodies[0] == site.bodies[1]
    expect(page.locator(".turn")).to_have_count(1)


def test_hovering_shows_what_a_token_could_have_been(page: Page, site: Any) -> None:
    send(page, "hello")
    finished(page)
    expect(page.locator(".token")).to_have_count(64)
    expect(page.locator(".word").first).to_have_attribute("data-surprise", "1")  # probability one half
    page.locator(".token").first.hover()
    tip = page.locator("#tooltip")
    expect(tip).to_be_visible()
    expect(tip.locator("tr")).to_have_count(5)
    expect(tip.locator("tr.taken")).to_contain_text("50.0 %")
    expect(tip.locator("tr").nth(1)).to_contain_text("v")  # the next byte after u
    expect(tip.locator("tr").nth(1)).to_contain_text("18.4 %")
    page.mouse.move(0, 0)
    expect(tip).to_be_hidden()


def test_completions_show_every_answer_with_its_probabilities(page: Page, site: Any) -> None:
    complete(page)
    page.click("summary:has-text('Completions')")
    page.fill("#field-n", "2")
    page.fill("#field-max_tokens", "6")
    send(page, "abc")
    finished(page)
    expect(page.locator(ANSWER)).to_have_text(["abcabc", "abcabc"])
    expect(page.locator(".token")).to_have_count(12)
    assert site.bodies[0]["prompt"] == "abc"
    assert (site.bodies[0]["n"], site.bodies[0]["logprobs"]) == (2, 5)
    expect(page.locator("#composer-text")).to_have_value("abc")


def test_without_streaming_the_answer_comes_whole(page: Page, site: Any) -> None:
    page.click("summary:has-text('Request')")
    page.get_by_role("switch", name="Stream").uncheck()
    send(page, "hello")
    finished(page)
    expect(page.locator(".token")).to_have_count(64)
    assert "stream" not in site.bodies[0]


def test_markup_stays_text(page: Page) -> None:
    text = "<img src=x onerror=alert(1)><b>bold</b>"
    complete(page)
    page.fill("#field-max_tokens", str(len(text)))
    send(page, text)
    finished(page)
    expect(page.locator(ANSWER)).to_have_text(text)
    expect(page.locator(".input-text")).to_have_text(text)
    expect(page.locator("#log :is(img, b)")).to_have_count(0)


def test_a_refusal_is_shown_in_words_and_points_at_the_field(page: Page, site: Any) -> None:
    site.error = bad_request("top_k is -7: it must be at least 1.", "top_k")
    page.fill("#field-top_k", "-7")
    send(page, "hello")
    expect(page.locator(".turn .alert")).to_contain_text("top_k is -7: it must be at least 1.")
    page.get_by_role("button", name="Show the field").click()
    expect(page.locator("#field-top_k")).to_be_focused()
    expect(page.locator("#field-top_k")).to_have_attribute("aria-invalid", "true")
    site.error = None
    page.fill("#field-top_k", "5")
    expect(page.locator("#field-top_k")).not_to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(ANSWER)).to_contain_text("user: hello")
    assert site.bodies[-1]["top_k"] == 5


def test_a_busy_server_says_when_to_come_back(page: Page, site: Any) -> None:
    site.error = overloaded("512 sequences wait already.")
    send(page, "hello")
    expect(page.locator(".turn .alert")).to_contain_text("512 sequences wait already. Try again in 1 s.")


def test_a_failure_within_the_stream_keeps_what_came(page: Page, site: Any) -> None:
    site.engine.fail_after = 9
    send(page, "hello")
    expect(page.locator(".turn .alert")).to_contain_text("on purpose")
    expect(page.locator(ANSWER)).to_have_text("user: hel")


def test_nonsense_in_a_field_is_not_sent(page: Page, site: Any) -> None:
    page.fill("#field-temperature", "warm")
    send(page, "hello")
    expect(page.locator(".turn .alert")).to_contain_text("Temperature: “warm” is not a number.")
    assert site.bodies == []


def test_a_server_that_is_gone_is_reported(page: Page, site: Any) -> None:
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    send(page, "hello")
    expect(page.locator(".turn .alert")).to_contain_text("The server answered 502")


def test_settings_are_kept_and_reset(page: Page) -> None:
    expect(page.locator("#field-temperature")).to_have_attribute(
        "placeholder", "0.6"
    )  # the model's own default
    page.fill("#field-temperature", "0.3")
    expect(page.locator("summary:has-text('Sampling') .count")).to_have_text("1 changed")
    page.reload()
    expect(page.locator("#field-temperature")).to_have_value("0.3")
    page.click("#reset")
    expect(page.locator("#field-temperature")).to_have_value("")
    expect(page.locator("#reset")).to_be_disabled()


@pytest.mark.parametrize("first", ["wrong", "right"])
def test_a_key_is_asked_for_once_and_kept_for_the_tab(context: Any, site: Any, first: str) -> None:
    site.key = "right"
    page = context.new_page()
    page.goto("/")
    dialog = page.locator("#key-dialog")
    expect(dialog).to_be_visible()
    page.get_by_label("API key").fill(first)
    page.keyboard.press("Enter")
    if first == "wrong":
        expect(page.locator("#key-refused")).to_be_visible()
        page.get_by_label("API key").fill("right")
        page.get_by_role("button", name="Use this key").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#model option")).to_have_count(1)
    assert page.evaluate("[sessionStorage['quire.key'], JSON.stringify(localStorage).includes('right')]") == [
        "right",
        False,
    ]
    page.reload()
    send(page, "hello")
    finished(page)
    expect(dialog).to_be_hidden()


def test_a_refused_key_dialog_can_be_left(context: Any, site: Any) -> None:
    site.key = "right"
    page = context.new_page()
    page.goto("/")
    expect(page.locator("#key-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#problem")).to_contain_text("A valid API key is needed.")
    expect(page.locator("#engine-body .alert")).to_be_visible()
    looks = site.looks
    page.wait_for_timeout(1200)
    assert site.looks == looks
    page.get_by_role("button", name="Give a key").click()
    page.get_by_label("API key").fill("right")
    page.keyboard.press("Enter")
    expect(page.locator("#model option")).to_have_count(1)
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#engine-body")).to_contain_text("Ready")


def test_a_server_that_comes_up_late_is_used_once_it_is_there(context: Any, site: Any) -> None:
    page = context.new_page()
    page.route(
        "**/v1/models", lambda route: route.fulfill(status=503, json={"error": {"message": "Loading."}})
    )
    page.goto("/")
    expect(page.locator("#problem")).to_have_text("Loading.")
    page.unroute("**/v1/models")
    send(page, "hello")
    finished(page)
    expect(page.locator("#problem")).to_be_hidden()
    assert site.bodies[0]["model"] == "fake"


def test_the_keyboard_is_enough(page: Page, site: Any) -> None:
    press = page.keyboard.press
    expect(page.locator("#composer-text")).to_be_focused()
    page.keyboard.type("a")
    press("Shift+Enter")
    page.keyboard.type("b")
    press("Enter")
    finished(page)
    assert site.bodies[0]["messages"][0]["content"] == "a\nb"
    press("Shift+Tab")  # Regenerate, Edit, Copy, then the text of the answer
    press("Shift+Tab")
    press("Shift+Tab")
    press("Shift+Tab")
    expect(page.locator(ANSWER)).to_be_focused()
    press("ArrowRight")
    press("ArrowRight")
    expect(page.locator(".token").nth(1)).to_be_focused()
    expect(page.locator(".token").nth(1)).to_have_attribute("aria-describedby", "tooltip")
    expect(page.locator("#tooltip")).to_be_visible()
    press("Escape")
    expect(page.locator("#tooltip")).to_be_hidden()
    press("/")
    expect(page.locator("#composer-text")).to_be_focused()
    site.engine.delay = 0.05
    page.keyboard.type("c/d")
    press("Enter")
    expect(page.locator(ANSWER).nth(1)).to_contain_text("user")
    press("Escape")
    expect(page.locator(".facts").nth(1)).to_contain_text("stopped")
    until(lambda: site.engine.aborted == 1)


def test_every_control_has_a_name_and_shows_focus(page: Page) -> None:
    for summary in page.locator("#settings summary").all():
        if not summary.evaluate("node => node.parentElement.open"):
            summary.click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea')]
             .filter((node) => !(node.labels?.length || node.ariaLabel || node.textContent.trim()))
             .map((node) => node.outerHTML)"""
    )
    assert nameless == []
    for selector in ("#theme", "#field-temperature", "#clear"):
        page.locator("#mode-chat").focus()
        page.keyboard.press("Tab")  # so that the browser takes the focus for one by keyboard
        page.locator(selector).evaluate("node => { node.disabled = false; node.focus(); }")
        assert page.locator(selector).evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
