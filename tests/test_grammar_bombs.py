"""Grammars of strangers: none takes longer than it may or holds up an event loop, and caches stay bounded."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from quire.contracts import GrammarNeed, GrammarSource
from quire.engine.grammars.compiler import GrammarCompiler
from quire.engine.grammars.plan import choose_grammars, grammar_plugins
from quire.engine.info import GrammarLimits
from quire.errors import InvalidRequestError
from quire.plugin_plan import PlanBuilder
from quire.plugins import discover
from quire.testing.grammar_bench import END, WIDTH, small_tokenizer
from quire.text.vocabulary import make_vocabulary

SECONDS = 2.0
LIMITS = GrammarLimits(seconds=SECONDS, cache_entries=50, cache_bytes=1 << 20)
BOMBS: dict[str, tuple[Any, str]] = {
    "nested groups": ("regex", "(" * 5000 + "a" + ")" * 5000),
    "counted counts": ("regex", "((((a{1,99}b){1,99}c){1,99}d){1,99}e){1,99}"),
    "many letters": ("regex", "(" + "|".join("ab" * i + "c" for i in range(300)) + "){1,500}"),
    "long strings": ("json_schema", '{"type":"string","maxLength":100000}'),
    "many items": (
        "json_schema",
        '{"type":"array","minItems":50000,"maxItems":90000,"items":{"type":"integer"}}',
    ),
    "itself": ("json_schema", '{"$ref":"#"}'),
    "itself twice": ("json_schema", '{"anyOf":[{"$ref":"#"},{"$ref":"#"}]}'),
    "many names": (
        "json_schema",
        '{"type":"object","properties":{'
        + ",".join(f'"k{i}":{{"type":"integer"}}' for i in range(3000))
        + "}}",
    ),
    "left recursion": ("grammar", 'root ::= root root | root "a" | ""'),
    "optional counts": ("grammar", 'root ::= (("a"?){9999} "b"?){9999}'),
}


@pytest.fixture(scope="module", params=["xgrammar", "llguidance"])
def compiler(request: pytest.FixtureRequest) -> Iterator[GrammarCompiler]:
    """A compiler whose process has started."""
    made = make_compiler(request.param)
    made.compile(GrammarSource(form="regex", text="start"))
    yield made
    made.close()


def make_compiler(backend: str) -> GrammarCompiler:
    """One whose processes have not started."""
    need = GrammarNeed(device="cpu", dtype="float32", vocab_size=WIDTH)
    builder = PlanBuilder(discover(), {})
    choose_grammars(builder, need, backend)
    return GrammarCompiler(
        grammar_plugins(builder.build()),
        need,
        lambda: make_vocabulary(small_tokenizer(), WIDTH, [END]),
        LIMITS,
    )


async def lag_of(work: asyncio.Future[Any]) -> float:
    """The longest that the event loop was held up while work was under way, in seconds."""
    longest = 0.0
    while not work.done():
        start = time.perf_counter()
        await asyncio.sleep(0.005)
        longest = max(longest, time.perf_counter() - start - 0.005)
    return longest


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_stopped(compiler: GrammarCompiler, name: str) -> None:
    form, text = BOMBS[name]
    compiler.compile(GrammarSource(form="regex", text=f"before {name}"))  # its process is up

    async def ask() -> tuple[float, float]:
        start = time.perf_counter()
        work = asyncio.ensure_future(
            asyncio.wrap_future(compiler.submit(GrammarSource(form=form, text=text)))
        )
        lag = await lag_of(work)
        if (error := work.exception()) is not None:
            assert isinstance(error, InvalidRequestError), error
        return time.perf_counter() - start, lag

    seconds, lag = asyncio.run(ask())
    assert seconds < SECONDS + 0.5
    assert lag < 0.1
    assert compiler.compile(GrammarSource(form="choice", text='["on it goes"]')).data


def test_a_flood_leaves_bounded_caches_and_memory(compiler: GrammarCompiler) -> None:
    own = psutil.Process()
    taken: list[int] = []
    for number in range(1500):
        compiler.compile(
            GrammarSource(
                form="json_schema",
                text=f'{{"type":"object","properties":{{"{number}":{{"const":"{number}"}}}}}}',
            )
        )
        if number in (500, 1499):  # the caches were full long before
            gc.collect()
            taken.append(sum(one.memory_info().rss for one in (own, *own.children(recursive=True))))
    entries, size = compiler.cached()
    assert 0 < entries <= LIMITS.cache_entries
    assert size <= LIMITS.cache_bytes
    assert taken[1] - taken[0] < 8 << 20  # kept, a thousand artefacts and what they stand for take more


def test_equal_sources_are_compiled_once(compiler: GrammarCompiler) -> None:
    before = compiler.stats.compiled
    source = GrammarSource(form="regex", text="once [0-9]+")
    futures = [compiler.submit(source) for _ in range(5)]
    first, *others = (future.result() for future in futures)
    assert all(one == first for one in others)
    assert compiler.stats.compiled == before + 1


def test_the_refused_is_remembered(compiler: GrammarCompiler) -> None:
    source = GrammarSource(form="regex", text="(")
    with pytest.raises(InvalidRequestError) as first:
        compiler.compile(source)
    before = compiler.stats.refused
    with pytest.raises(InvalidRequestError) as again:
        compiler.submit(source)
    assert str(again.value) == str(first.value)
    assert compiler.stats.refused == before


def test_sizes_are_bounded(compiler: GrammarCompiler) -> None:
    text = "".join(itertools.repeat("a", LIMITS.source_bytes + 1))
    with pytest.raises(InvalidRequestError, match="make it shorter"):
        compiler.submit(GrammarSource(form="regex", text=text))


def test_what_several_backends_say_are_sentences_and_none_twice() -> None:
    compiler = make_compiler("auto")
    try:
        with pytest.raises(InvalidRequestError, match=r"Unclosed '\['\. llguidance refuses .* class\.$"):
            compiler.compile(GrammarSource(form="regex", text="["))
        with pytest.raises(InvalidRequestError) as caught:
            compiler.compile(GrammarSource(form="json_schema", text="{bad"))
        assert str(caught.value).count("is no JSON") == 1
    finally:
        compiler.close()
