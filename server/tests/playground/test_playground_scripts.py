"""The scripts that know no page, called one by one in the browser."""

from __future__ import annotations

import random
from typing import Any

import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.slow  # runs a browser

CUT = """async (chunks) => {
  const { Cutter } = await import("/playground/tokens.js");
  const cutter = new Cutter();
  const pieces = chunks.flatMap(([text, tokens]) => cutter.add(text, tokens));
  return [...pieces, ...cutter.finish()].map(({ text, tokens }) => [text, tokens.map((token) => token.text)]);
}"""


def token(text: str, raw: bytes | None = None) -> dict[str, Any]:
    return {"text": text, "bytes": None if raw is None else list(raw), "logprob": -1, "top": []}


def cut(scripts: Page, *chunks: tuple[str, list[dict[str, Any]]]) -> list[list[Any]]:
    pieces: list[list[Any]] = scripts.evaluate(CUT, [list(one) for one in chunks])
    return pieces


def test_a_character_of_several_tokens_is_one_piece(scripts: Page) -> None:
    raw = "é".encode()
    first, second = token("\ufffd", raw[:1]), token("\ufffd", raw[1:])
    assert cut(scripts, ("", [first]), ("é", [second]), ("a", [token("a", b"a")])) == [
        ["é", ["\ufffd", "\ufffd"]],
        ["a", ["a"]],
    ]


def test_fragments_without_bytes_reach_to_the_next_token(scripts: Page) -> None:
    part = token("\ufffd")
    found = cut(scripts, ("", [token("<|bos|>"), part]), ("é(", [part, token("(")]), ("ö", [part, part]))
    assert found == [["é", ["\ufffd", "\ufffd"]], ["(", ["("]], ["ö", ["\ufffd", "\ufffd"]]]


def test_text_that_is_held_back_waits_for_its_token(scripts: Page) -> None:
    assert cut(scripts, ("a", [token("abc")]), ("", [token("d")]), ("bcd", [])) == [
        ["abc", ["abc"]],
        ["d", ["d"]],
    ]


def test_a_stop_string_that_is_cut_off_leaves_the_rest(scripts: Page) -> None:
    assert cut(scripts, ("so", [token("so")]), (" f", [token(" far")])) == [["so", ["so"]], [" f", [" far"]]]


def test_special_tokens_without_text_are_passed_over(scripts: Page) -> None:
    end = token("<|end|>")
    assert cut(scripts, ("", [end]), ("on", [token("on")]), ("", [end])) == [["on", ["on"]]]


def test_text_without_tokens_comes_as_it_is(scripts: Page) -> None:
    assert cut(scripts, ("all of it", [])) == [["all of it", []]]


def test_no_text_is_ever_lost(scripts: Page) -> None:
    rng = random.Random(0)
    alphabet = ["a", "ab", " b", "\n", "é", "<s>", "😀", "\ufffd"]
    cases: list[tuple[list[tuple[str, list[dict[str, Any]]]], str]] = []
    for _ in range(200):
        names = [rng.choice(alphabet) for _ in range(rng.randrange(40))]
        text = "".join(one for one in names if one != "<s>")
        ends = sorted(rng.randrange(len(text) + 1) for _ in names)
        starts = [0, *ends]
        chunks = [(text[a:b], [token(one)]) for a, b, one in zip(starts, ends, names, strict=False)]
        cases.append(([*chunks, (text[starts[-1] :], [])], text))
    found = scripts.evaluate(
        f"async (all) => {{ const cut = {CUT}; return Promise.all(all.map(cut)); }}",
        [case for case, _ in cases],
    )
    assert ["".join(piece for piece, _ in one) for one in found] == [text for _, text in cases]


BODY = """async ([values, mode]) => {
  const { FIELDS, preset, toBody } = await import("/playground/fields.js");
  const all = {};
  for (const field of FIELDS.values()) all[field.name] = preset(field, mode);
  try {
    return toBody({ ...all, ...values }, mode);
  } catch (error) {
    return `${error.param}: ${error.message}`;
  }
}"""


def body(scripts: Page, mode: str, **values: Any) -> Any:
    return scripts.evaluate(BODY, [values, mode])


def test_an_untouched_form_sends_little(scripts: Page) -> None:
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    assert body(scripts, "chat") == {"logprobs": True, "top_logprobs": 5} | usage
    assert body(scripts, "completion") == {"logprobs": 5, "max_tokens": 128} | usage


def test_every_field_reaches_the_request(scripts: Page) -> None:
    values = {
        "temperature": "0,5",
        "top_p": "0.9",
        "min_p": "0.05",
        "top_k": "40",
        "seed": "-3",
        "max_tokens": "10",
        "min_tokens": "2",
        "stop": "a\\nb\n\nc\\\\n",
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "presence_penalty": "1",
        "frequency_penalty": "-1",
        "repetition_penalty": "1.1",
        "logprobs": True,
        "top_logprobs": "",
        "n": "3",
        "best_of": "4",
        "echo": True,
        "logit_bias": "5: -100\n 6 : 1.5",
        "allowed_token_ids": "1, 2 3",
        "stop_token_ids": "4",
        "bad_words": "x\ny",
        "skip_special_tokens": False,
        "stream": False,
        "other": '{"priority": 1}',
    }
    assert body(scripts, "completion", **values) == {
        "temperature": 0.5,
        "top_p": 0.9,
        "min_p": 0.05,
        "top_k": 40,
        "seed": -3,
        "max_tokens": 10,
        "min_tokens": 2,
        "stop": ["a\nb", "c\\n"],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "repetition_penalty": 1.1,
        "logprobs": 0,
        "n": 3,
        "best_of": 4,
        "echo": True,
        "logit_bias": {"5": -100, "6": 1.5},
        "allowed_token_ids": [1, 2, 3],
        "stop_token_ids": [4],
        "bad_words": ["x", "y"],
        "skip_special_tokens": False,
        "priority": 1,
    }
    names = scripts.evaluate("async () => [...(await import('/playground/fields.js')).FIELDS.keys()]")
    assert sorted(names) == sorted([*values, "thinking_token_budget"])
    assert body(scripts, "chat", thinking_token_budget="0")["thinking_token_budget"] == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", "1.5"),
        ("seed", "12345678901234567890"),
        ("temperature", "hot"),
        ("logit_bias", "5"),
        ("allowed_token_ids", "1, b"),
        ("other", "[1]"),
        ("other", "{"),
    ],
)
def test_nonsense_is_named(scripts: Page, field: str, value: str) -> None:
    assert body(scripts, "chat", **{field: value}).startswith(f"{field}: ")


def test_figures(scripts: Page) -> None:
    found = scripts.evaluate(
        """async () => {
          const { bytes, count, duration, rate, share } = await import("/playground/figures.js");
          const { percent, visible } = await import("/playground/tokens.js");
          return [count(1234567), bytes(3 * 2 ** 29), bytes(12), rate(1234.4), rate(9.87), rate(0),
            share(1, 8), share(0, 0), duration(0.0123), duration(0.5), duration(2.34), duration(90),
            percent(0), percent(-1), percent(-9), percent(-30), visible(" a\\n"), visible("")];
        }"""
    )
    assert found == [
        "1\u202f234\u202f567", "1.5 GiB", "12 bytes", "1\u202f234", "9.9", "0", "12.5 %", "–",
        "12.3 ms", "500 ms", "2.3 s", "1.5 min",
        "100 %", "36.8 %", "0.01 %", "< 0.001 %", "␣a⏎", "∅",
    ]  # fmt: skip
