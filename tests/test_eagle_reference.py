"""A head says what plain PyTorch says, of every form that heads are published in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch

from quire import LLM, SamplingParams
from quire.contracts import DraftModel
from quire.layers import Tap
from quire.plan import BlockCopy, SlotStart
from quire.runtime.batching import Rows
from quire.testing.model import Reference, assert_logits_equal

from .eagle_heads import ReferenceHead, hidden_states, with_head
from .test_draft_model import SETTINGS, ask_about, core_of
from .test_verification import assert_same, generate

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]
MakeHead = Callable[..., ReferenceHead]

FORMS: dict[str, dict[str, Any]] = {
    "some-tokens": {},
    "all-tokens": {"draft_vocab": 320, "kv_heads": 4},
    "one-kv-head": {"kv_heads": 1, "prefix": "layers.0.", "embedding": True},
    "leaving": {
        "depths": (1, 3),
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 2], "use_aux_hidden_state": True},
        "prefix": "model.midlayer.",
    },
    "smaller": {"hidden": 40, "embedding": True, "target_hidden_size": 56, "norm_before_residual": True},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "torch-file": {"file": "pytorch_model.bin", "num_hidden_layers": 40},
    "normed-together": {"norm_before_fc": True, "norm_before_residual": True, "norm_output": True},
    "normed-each": {"eagle_config": {"fc_norm": True, "norm_output": True}},
    "tied": {"draft_vocab": 320, "embedding": True, "tie_word_embeddings": True},
    "window": {"layer_types": ["sliding_attention"], "sliding_window": 5, "prefix": "layers.0."},
}


class Checked(DraftModel):
    """Holds each of a head's answers against the reference; without one it counts them."""

    def __init__(self, inner: Any, reference: ReferenceHead | None) -> None:
        self.max_len = inner.max_len
        self.inner, self._reference = inner, reference
        self._contexts: list[tuple[list[int], int]] = []
        self.problems: list[str] = []
        self.checked = 0

    def begin(self, slots: Sequence[int]) -> torch.Tensor:
        contexts = [self.inner._table.context(slot).tolist() for slot in slots]
        self._contexts = [(context, len(context)) for context in contexts]
        return self._check(self.inner.begin(slots))

    def extend(self, ids: torch.Tensor) -> torch.Tensor:
        self._contexts = [
            ([*context, token], known)
            for (context, known), token in zip(self._contexts, ids.tolist(), strict=False)
        ]
        return self._check(self.inner.extend(ids))

    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        ids: torch.Tensor = self.inner.sample(logits)
        return ids

    def _check(self, logits: torch.Tensor) -> torch.Tensor:
        for row, (context, known) in zip(logits, self._contexts, strict=True):
            self.checked += 1
            if self._reference is None:
                continue
            expected = self._reference.logits(context, known)
            try:
                assert row.isfinite().equal(expected.isfinite())
                there = expected.isfinite()
                assert_logits_equal(row[there], expected[there])
            except AssertionError as error:  # whoever asked would take it for a failure of the head
                self.problems.append(f"{known} + {len(context) - known} tokens: {error}")
        return logits


def check(llm: LLM, reference: ReferenceHead | None) -> Checked:
    worker = core_of(llm).executor.worker
    checked = Checked(worker.draft, reference)
    worker.speculator._model = checked
    return checked


@pytest.mark.parametrize(
    ("form", "settings"),
    [*product(FORMS, SETTINGS), *product(VARIANTS, ["roomy"])],
)
def test_it_says_what_the_reference_says(
    form: str, settings: str, checkpoint: Checkpoint, make_head: MakeHead, open_llm: OpenLLM
) -> None:
    """Whatever was computed when, found in the cache, forked, preempted, rejected or past a table's end."""
    head = make_head("llama", **{**FORMS, **VARIANTS}[form])
    llm = open_llm(checkpoint("llama"), max_num_seqs=7, **with_head(head), **SETTINGS[settings])
    checked = check(llm, head)
    found = generate(ask_about(llm))
    assert_same(generate(llm), found)  # and once more, with all prompts in the cache
    assert not checked.problems, checked.problems[0]
    assert checked.checked > 200
    core_of(llm).scheduler._kv.check()


@pytest.mark.parametrize("family", ["mistral", "qwen2-window", "qwen3", "llama-tied"])
def test_it_says_so_to_any_model(
    family: str, checkpoint: Checkpoint, make_head: MakeHead, open_llm: OpenLLM
) -> None:
    """With windows in all groups, in some, in none."""
    head = make_head(family)
    llm = open_llm(checkpoint(family), max_num_seqs=7, **with_head(head), max_num_batched_tokens=16)
    checked = check(llm, head)
    generate(ask_about(llm))
    assert not checked.problems, checked.problems[0]
    assert checked.checked > 100


def test_requests_that_share_a_prefix_have_ends_of_their_own(
    checkpoint: Checkpoint, make_head: MakeHead, open_llm: OpenLLM
) -> None:
    """The last row of a shared block speaks of the token behind it, which differs."""
    head = make_head("llama")
    llm = open_llm(checkpoint("llama"), **with_head(head))
    checked = check(llm, head)
    ask_about(llm)
    prefix = list(range(40, 72))  # two blocks
    prompts = [{"prompt_token_ids": [*prefix, 5 + i, 9, 30]} for i in range(4)]
    params = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)
    for some in (prompts[:1], prompts, [prompts[2], prompts[0]]):
        llm.generate(some, params, use_tqdm=False)
    assert (core_of(llm).executor.worker.draft._branch >= 0).any()
    assert not checked.problems, checked.problems[0]


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_states_are_those_of_transformers(
    kernels: str,
    checkpoint: Checkpoint,
    make_head: MakeHead,
    open_llm: OpenLLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through layers one by one and through all of them in one call, in chunks and token by token."""
    reference = checkpoint("llama")
    attention = "torch" if kernels == "reference" else "cpu"
    llm = open_llm(
        reference,
        kernels=kernels,
        attention_backend=attention,
        max_num_batched_tokens=16,
        **with_head(make_head("llama", **FORMS["leaving"])),
    )
    worker = core_of(llm).executor.worker
    assert (worker.model.layers.fused is not None) == (kernels == "cpu")
    taken: list[tuple[dict[int, torch.Tensor], list[int]]] = []
    take = worker.head.take

    def keep(tap: Any, rows: Any) -> Any:
        taken.append((dict(tap.states), list(rows.computed)))
        return take(tap, rows)

    monkeypatch.setattr(worker.head, "take", keep)
    ask_about(llm)
    prompt = list(range(30, 70))
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    (output,) = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
    expected = hidden_states(reference, prompt + list(output.outputs[0].token_ids))
    assert len(taken) > 3
    for states, (end,) in taken[:3]:  # the prompt's
        for depth in (1, 3):
            start = end - len(states[depth])
            torch.testing.assert_close(states[depth], expected[depth][start:end], rtol=1e-4, atol=1e-4)
    for states, (end,) in taken[3:]:  # the first row is a token that counts; others are drafts
        start = end - len(states[1])
        for depth in (1, 3):
            torch.testing.assert_close(states[depth][0], expected[depth][start], rtol=1e-4, atol=1e-4)


def test_what_was_not_kept_is_nothing_of_an_earlier_owner(
    checkpoint: Checkpoint, make_head: MakeHead, open_llm: OpenLLM
) -> None:
    """Asked about late, a head knows the last state alone; the tokens before it speak for themselves."""
    reference, head = checkpoint("llama"), make_head("llama")
    llm = open_llm(reference, enable_prefix_caching=False, kv_cache_memory_bytes="150KiB", **with_head(head))
    generate(ask_about(llm))  # every block has had an owner
    ask_about(llm, lambda _: False)
    for _ in range(4):
        generate(llm)
    late = ask_about(llm, lambda sequence: len(sequence.token_ids) + sequence.num_pending >= 27)
    worker = core_of(llm).executor.worker
    seen: list[torch.Tensor] = []
    inputs = worker.head._inputs

    def look(x: torch.Tensor, chunk: Any, *, drafts: bool) -> torch.Tensor:
        out: torch.Tensor = inputs(x, chunk, drafts=drafts)
        if not drafts:
            seen.append(out[1].clone())
        return out

    worker.head._inputs = look
    core_of(llm).scheduler._drafting.keeping._quiet = 1000
    prompt = list(range(30, 50))
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
    (output,) = late.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
    tokens = prompt + list(output.outputs[0].token_ids)
    first = seen[0]
    known = len(first) + 1
    assert known >= 27
    assert not first[:-1].any()
    torch.testing.assert_close(first[-1], head.features(tokens[:known])[known - 2], rtol=1e-4, atol=1e-4)


def test_what_comes_too_late_is_not_kept(
    checkpoint: Checkpoint, make_head: MakeHead, open_llm: OpenLLM
) -> None:
    """A block that was given to another request while the step was under way is that one's."""
    worker = core_of(open_llm(checkpoint("llama"), **with_head(make_head("llama")))).executor.worker
    head, tokens = worker.head, list(range(20))
    worker.slots.seat(SlotStart(0, 1, "a", SamplingParams(), 0, tokens, 20, 0, ([3, 4],)))
    rows = Rows([0], [20], [0], [20], [0], [20], None, whole=False)
    states = {depth: torch.ones(20, 56) for depth in (0, 1, 2)}
    left = head.take(Tap((2, 1, 0), states), rows)
    head.given([4])
    head.keep(left, {})
    assert head._features[3].any()
    assert not head._features[4].any()
    head.keep(head.take(Tap((2, 1, 0), states), rows), {0: 2})
    assert head._features[4][:2].any(-1).all()
    assert not head._features[4][2:].any()


def test_a_fork_has_features_of_the_tokens_that_it_shares(
    checkpoint: Checkpoint, make_head: MakeHead, open_llm: OpenLLM
) -> None:
    """Of what the other sequence says behind them it has none, nor of an earlier owner of its block."""
    worker = core_of(open_llm(checkpoint("llama"), **with_head(make_head("llama")))).executor.worker
    head, tokens = worker.head, list(range(20))
    worker.slots.seat(SlotStart(0, 1, "a", SamplingParams(), 0, tokens, 20, 0, ([3, 4],)))
    worker.slots.seat(SlotStart(1, 1, "b", SamplingParams(), 0, [*range(16), 50, 60], 18, 0, ([5, 6],)))
    states = {depth: torch.ones(38, 56) for depth in (0, 1, 2)}
    rows = Rows([0, 1], [20, 18], [0, 20], [20, 18], [0, 1], [20, 18], None, whole=False)
    head.keep(head.take(Tap((2, 1, 0), states), rows), {})
    head.given([6])
    head.copy([BlockCopy(head.group, 4, 6, num_tokens=2)])
    assert head._features[4][:4].any(-1).all()
    assert head._features[6][:2].equal(head._features[4][:2])
    assert not head._features[6][2:].any()
    head.given([6])
    head.copy([BlockCopy(head.group, 7, 6, num_tokens=2)])
    head._own_features([6])
    assert not head._features[6].any(), "there was nothing to take along"
