"""Part `transformers`: Quire beside Hugging Face transformers on one checkpoint and the same requests."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gpu_bench.bench import Bench, first_line
from gpu_bench.engine import draw_prompt, settings
from gpu_bench.record import Label
from gpu_bench.shapes import Shape
from gpu_bench.transformers_side import Request, Timed, continuously, in_batches, make_model
from quire import LLM, SamplingParams

BATCHES = (128, 64, 32)
WARM_REQUESTS, WARM_TOKENS = 32, 8
"""Of a run before the clock, in which kernels are compiled."""

ALONE = 3
"""Requests that are taken one by one: their rate is all that is wanted."""

TOY_BOUNDS = {"num_blocks": 16, "max_batch_tokens": 64, "max_requests_per_batch": 8}
"""Else it takes most of the machine's memory."""


def make_requests(toy: bool, vocab: int) -> list[Request]:
    """128 prompts of 100 to 1024 tokens that want 32 to 256; the same in every run."""
    draw = random.Random("transformers")
    count, prompts, outputs = (6, (4, 16), (2, 6)) if toy else (128, (100, 1024), (32, 256))
    sizes = [(draw.randint(*prompts), draw.randint(*outputs)) for _ in range(count)]
    return [(draw_prompt(draw, size, vocab), new) for size, new in sizes]


def run(bench: Bench, shape: Shape) -> None:
    """Quire, then each way of transformers with how many times faster Quire was.

    Raises:
        RuntimeError: ways of transformers broke, after all were tried; their rows say how.
    """
    requests = make_requests(bench.toy, shape.vocab)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        model = make_model(shape.config, shape.dtype, bench.device, directory)
        ours = quire(bench, shape, directory, requests)
    bench.row({"model": shape.name, "engine": "quire"}, {"ms": 1e3 * ours.seconds, "tok_s": ours.rate})
    in_batches(model, [(prompt, WARM_TOKENS) for prompt, _ in requests[:4]], 4, lambda: False)
    ways: dict[str, Callable[[], Timed]] = {
        "one by one": lambda: in_batches(model, requests[:ALONE], 1, lambda: bench.late)
    }
    bounds = TOY_BOUNDS if bench.toy else {}
    ways["continuous"] = lambda: continuously(model, requests, lambda: bench.late, bounds)
    for size in (4, 2) if bench.toy else BATCHES:
        ways[f"batches of {size}"] = partial(in_batches, model, requests, size, lambda: bench.late)
    broken = [
        way
        for way, call in ways.items()
        if not _compare(bench, {"model": shape.name, "engine": f"transformers, {way}"}, call, ours)
    ]
    if broken:
        raise RuntimeError(f"broke: {', '.join(broken)}")


def _compare(bench: Bench, labels: dict[str, Label], call: Callable[[], Timed], ours: Timed) -> bool:
    """Time it, and hand its row over; False if it broke."""
    if bench.late:
        bench.row(labels, note="left out: no time")
        return True
    try:
        timed = call()
    except Exception as error:  # whatever another project raises
        bench.synchronize()
        bench.row(labels, note=first_line(error))
        return False
    same = [token == ours.first[number] for number, token in timed.first.items()]
    bench.row(
        labels,
        {
            "ms": 1e3 * timed.seconds,
            "tok_s": timed.rate,
            "ahead": ours.rate / timed.rate,
            "same_first": sum(same) / len(same),
        },
        note=f"no time for {timed.cut} requests" if timed.cut else "",
    )
    return True


def quire(bench: Bench, shape: Shape, directory: Path, requests: Sequence[Request]) -> Timed:
    """All requests at once."""
    params = [
        SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True, detokenize=False)
        for _, new in requests
    ]
    bounds = {"kv_cache_memory_bytes": "16GiB", **settings(shape, bench.device, bench.toy)}
    with LLM(str(directory), **bounds, show_progress=False) as llm:
        warm = SamplingParams(temperature=0.0, max_tokens=WARM_TOKENS, ignore_eos=True)
        llm.generate([prompt for prompt, _ in requests[:WARM_REQUESTS]], warm, use_tqdm=False)
        llm.reset_prefix_cache()
        begin = time.perf_counter()
        outputs = llm.generate([prompt for prompt, _ in requests], params, use_tqdm=False)
        seconds = time.perf_counter() - begin
    ids = [output.outputs[0].token_ids for output in outputs]
    return Timed(sum(len(one) for one in ids), seconds, {number: one[0] for number, one in enumerate(ids)})
