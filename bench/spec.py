"""What speculation gains where it can, and that it costs nothing where it cannot.

    python bench/spec.py [--batches 1,4,16,32] [--tokens 96] [--rounds 9] [--workloads code,edit]

One engine takes the same requests with its speculation on and off in turn (two engines in one process were
found to differ by up to a quarter by themselves); each figure is the median over the rounds, the ratio that
of the medians, with the standard error that the rounds' own ratios tell of. There are more rounds, for some
time, where that is above half a hundredth. A round ends with its last request: where drafts help some and
not others, seats are empty before; `--waves 3` gives each seat three requests. The workloads, of prompt
lookup unless they say otherwise:

    code     the bundled model goes on, greedily, with source of the standard library that it was not trained
             on; what it says is its own.
    edit     a file, an instruction, and the file again with one name changed. No model at hand copies
             reliably, so what the model samples is replaced by that text, token by token; the forward
             passes, the sampling and the verification of drafts are what they always are, and so is their
             time. Random weights, 135 M.
    random   random prompts and sampled text of the same random weights: nothing repeats but by chance.
    misled   the same of sixteen tokens alone: any two of them have occurred before, and what followed
             them then is right once in sixteen times.
    draft    `code` by the bundled model with 192 layers instead of 4, all of which but 4 add nothing (see
             `deepened`): `tiny-draft` proposes to it. At temperature 0.
    head     the same with `tiny-eagle`, a head that reads the hidden states of the 4 layers.
    sampled, head-sampled
             the same two at temperature 0.7. Without speculation tokens are drawn as in an engine without a
             draft model, by other numbers; the text is compared before, with the same ones.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from checkpoint import make_checkpoint
from deepened import make_deepened
from quire import LLM, SamplingParams
from quire.scheduler.drafting import Drafting

AHEAD = 5
NGRAM = {"method": "ngram", "num_speculative_tokens": AHEAD}
DRAFT = {"model": "tiny-draft", "num_speculative_tokens": AHEAD}
HEAD = {"method": "eagle", "model": "tiny-eagle", "num_speculative_tokens": AHEAD}
_EXACT = 0.005
"""Standard error of a ratio that is good enough."""
FILES = (
    "bisect.py",
    "colorsys.py",
    "fnmatch.py",
    "heapq.py",
    "shlex.py",
    "textwrap.py",
    "cmd.py",
    "sched.py",
)


@dataclass(slots=True)
class Task:
    """One request.

    Attributes:
        prompt: token ids.
        params: how it samples.
        script: what it says whatever the model thinks; None for what the model says.
    """

    prompt: list[int]
    params: SamplingParams
    script: list[int] | None = None


@dataclass(slots=True)
class Side:
    """The rounds with speculation, or without.

    Attributes:
        drafting: what decides about drafts.
        coupled: whether tokens are drawn as beside a draft model.
        seconds: of each round.
    """

    drafting: Drafting
    coupled: bool = True
    seconds: list[float] = field(default_factory=list)


def source(name: str) -> str:
    """A file of the standard library."""
    return (Path(sysconfig.get_path("stdlib")) / name).read_text()


def code(llm: LLM, batch: int, tokens: int) -> Iterator[Task]:
    """Beginnings of files, some hundred tokens in."""
    for number in range(batch):
        ids = llm.get_tokenizer().encode(source(FILES[number % len(FILES)]))
        start = 64 * (number // len(FILES))
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        yield Task(ids[start : start + 256], params)


def sampled(llm: LLM, batch: int, tokens: int) -> Iterator[Task]:
    """The same, with some chance in it."""
    for number, task in enumerate(code(llm, batch, tokens)):
        yield Task(task.prompt, replace(task.params, temperature=0.7, seed=number))


def edit(llm: LLM, batch: int, tokens: int) -> Iterator[Task]:
    """A file, what to do, and the file with that done."""
    for number in range(batch):
        text = source(FILES[number % len(FILES)])[600 * (number // len(FILES)) :]
        encode = llm.get_tokenizer().encode
        before = encode(text)[: tokens + 32]
        after = encode(text.replace("self", "this").replace("None", "null"))[:tokens]
        prompt = [*before, *encode("\nRename self to this, and None to null:\n")]
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, seed=number)
        yield Task(prompt, params, after)


def chance(llm: LLM, batch: int, tokens: int) -> Iterator[Task]:
    """Nothing to look up."""
    choose = random.Random(batch)
    for number in range(batch):
        prompt = [choose.randrange(3, llm._engine.info.vocab_size) for _ in range(128)]
        yield Task(prompt, SamplingParams(temperature=1.0, seed=number, max_tokens=tokens, ignore_eos=True))


def misled(llm: LLM, batch: int, tokens: int) -> Iterator[Task]:
    """Much to look up, and hardly ever right."""
    few = list(range(1000, 1016))
    for task in chance(llm, batch, tokens):
        prompt = [few[token % len(few)] for token in task.prompt]
        yield Task(prompt, replace(task.params, allowed_token_ids=few))


WORKLOADS = {
    "code": ("tiny", NGRAM, code),
    "edit": ("135m", NGRAM, edit),
    "random": ("135m", NGRAM, chance),
    "misled": ("135m", NGRAM, misled),
    "draft": ("deepened", DRAFT, code),
    "sampled": ("deepened", DRAFT, sampled),
    "head": ("deepened", HEAD, code),
    "head-sampled": ("deepened", HEAD, sampled),
}
"""Model, speculation and requests."""


@contextmanager
def scripted(llm: LLM, tasks: Sequence[Task]) -> Iterator[None]:
    """Let the sampler draw, and say what is in the scripts."""
    core: Any = llm._engine.client.core  # type: ignore[attr-defined]
    sampler = core.executor.worker.sampler
    add, draw = sampler.add, sampler.draw
    seats: dict[int, Task] = {}

    def seat(slot: int, params: SamplingParams, *rest: Any) -> None:
        seats[slot] = tasks[params.seed or 0]
        add(slot, params, *rest)

    def say(distribution: Any, rows: Any) -> torch.Tensor:
        ids: torch.Tensor = draw(distribution, rows)
        for row, (slot, position) in enumerate(zip(rows.slots, rows.positions, strict=True)):
            task = seats[slot]
            assert task.script is not None
            at = position - len(task.prompt)
            ids[row] = task.script[at] if at < len(task.script) else 0
        return ids

    if tasks[0].script is None:
        yield
        return
    sampler.add, sampler.draw = seat, say
    try:
        yield
    finally:
        del sampler.add, sampler.draw


def run(llm: LLM, side: Side, tasks: Sequence[Task]) -> list[list[int]]:
    """One round; what was said."""
    prompts = [{"prompt_token_ids": task.prompt} for task in tasks]
    core: Any = llm._engine.client.core  # type: ignore[attr-defined]
    core.scheduler._drafting = side.drafting
    sampler = core.executor.worker.sampler
    sampler.init = replace(sampler.init, need=replace(sampler.init.need, coupled=side.coupled))
    with scripted(llm, tasks):
        start = time.perf_counter()
        outputs = llm.generate(prompts, [task.params for task in tasks], use_tqdm=False)
        side.seconds.append(time.perf_counter() - start)
    return [output.outputs[0].token_ids for output in outputs]


def uncertain(sides: Sequence[Side]) -> float:
    """Standard error of the median of the rounds' ratios, by their quartiles as if they were normal."""
    plain, other = (side.seconds for side in sides)
    ratios = [one / two for one, two in zip(plain, other, strict=True)]
    first, _, third = statistics.quantiles(ratios, n=4)
    return float(0.93 * (third - first) / math.sqrt(len(ratios)))


def measure(workload: str, batch: int, tokens: int, rounds: int, seconds: float, waves: int) -> str:
    """A row of the table."""
    shape, speculation, make = WORKLOADS[workload]
    settings: dict[str, Any] = {
        "dtype": "bfloat16",
        "max_num_seqs": batch,
        "max_model_len": 1024,
        "kv_cache_memory_bytes": "768MiB",
        "enable_prefix_caching": True,  # so that prompts are computed in the first round only
        "show_progress": False,
    }
    if shape == "deepened":
        model = str(make_deepened())
    else:
        model = shape if shape == "tiny" else str(make_checkpoint(shape))
    llm = LLM(model, speculative_config=speculation, **settings)
    coupled = "model" in speculation
    sides = [Side(Drafting(0), coupled), Side(Drafting(AHEAD), coupled)]
    tasks = list(make(llm, waves * batch, tokens))
    said = [run(llm, side, tasks) for side in sides]  # warms up
    same = said[0] == said[1]
    before = sides[1].drafting.stats()
    for side in sides:
        side.seconds.clear()
    sides[0].coupled = False
    end, done = time.perf_counter() + seconds, 0
    while done < rounds or (uncertain(sides) > _EXACT and time.perf_counter() < end):
        for side in sides if done % 2 else sides[::-1]:
            run(llm, side, tasks)
        done += 1
    after = sides[1].drafting.stats()
    plain, with_drafts = (statistics.median(side.seconds) for side in sides)
    drafted = after.num_draft_tokens - before.num_draft_tokens
    accepted = after.num_accepted_tokens - before.num_accepted_tokens
    rate = f"{accepted / drafted:.0%}" if drafted else "-"
    said_in_all = done * len(tasks) * tokens
    llm.shutdown()
    speeds = f"{len(tasks) * tokens / plain:.0f} | {len(tasks) * tokens / with_drafts:.0f}"
    cells = [
        workload,
        str(batch),
        rate,
        f"{accepted / said_in_all:.0%}",
        f"{said_in_all / (said_in_all - accepted):.2f}",
        speeds,
        f"{plain / with_drafts:.3f}",
        f"{uncertain(sides):.3f}",
        str(done),
        str(same).lower(),
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", default="1,4,16,32")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=9, help="at least")
    parser.add_argument(
        "--waves", type=int, default=1, help="requests for each seat, so that seats stay taken"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for further rounds of each row")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    args = parser.parse_args()
    titles = "workload | batch | drafts accepted | tokens from drafts | tokens per step | tokens/s without"
    print(f"| {titles} | with | ratio | +- | rounds | same text |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for workload in args.workloads.split(","):
        for batch in map(int, args.batches.split(",")):
            print(measure(workload, batch, args.tokens, args.rounds, args.seconds, args.waves), flush=True)


if __name__ == "__main__":
    main()
