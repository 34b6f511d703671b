"""An EAGLE-3 head knows what it should of every request, changes no token, and keeps the books."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from quire import LLM, BeamSearchParams, EngineConfig, SamplingParams
from quire.contracts import DraftModel
from quire.engine.planning.forecast import forecast
from quire.errors import CheckpointError, UnsupportedModelError
from quire.layers import Tap
from quire.plan import SlotStart
from quire.runtime import worker as worker_module
from quire.runtime.batching import Rows
from quire.sampling import StructuredOutputsParams
from quire.testing.model import Reference, assert_logits_equal

from .eagle_heads import ReferenceHead, hidden_states, save_bigrams, save_head
from .played_device import PlayedDevice, play_graphs
from .test_draft_model import SETTINGS, alone, ask_about, core_of
from .test_verification import KINDS, assert_same, generate

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


def with_head(head: ReferenceHead, ahead: int = 3) -> dict[str, Any]:
    return {
        "speculative_config": {
            "method": "eagle3",
            "model": str(head.directory),
            "num_speculative_tokens": ahead,
        }
    }


@pytest.fixture(scope="session")
def make_head(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> MakeHead:
    made: dict[tuple[str, str], ReferenceHead] = {}

    def make(family: str, form: str = "some-tokens") -> ReferenceHead:
        if (family, form) not in made:
            directory = tmp_path_factory.mktemp("head")
            made[family, form] = save_head(directory, checkpoint(family), **FORMS[form])
        return made[family, form]

    return make


@pytest.fixture(scope="session")
def bigrams(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, ReferenceHead]:
    return save_bigrams(tmp_path_factory.mktemp("bigrams"))


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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_it_says_what_the_reference_says(
    form: str, settings: dict[str, Any], checkpoint: Checkpoint, make_head: MakeHead, open_llm: OpenLLM
) -> None:
    """Whatever was computed when, found in the cache, forked, preempted, rejected or past a table's end."""
    head = make_head("llama", form)
    llm = open_llm(checkpoint("llama"), max_num_seqs=7, **with_head(head), **settings)
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
        **with_head(make_head("llama", "leaving")),
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


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("family", ["llama", "bigrams"])
def test_no_token_changes(
    family: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint,
    make_head: MakeHead,
    bigrams: tuple[Reference, ReferenceHead],
    open_llm: OpenLLM,
) -> None:
    target, head = bigrams if family == "bigrams" else (checkpoint(family), make_head(family))
    llm = open_llm(target, max_num_seqs=7, **with_head(head, 4), **settings)
    plain = alone(llm)
    assert_same(generate(llm), plain)
    drafts = core_of(llm).stats().scheduler.drafts
    assert drafts.num_draft_tokens > 0
    if family == "bigrams":
        assert 0 < drafts.num_accepted_tokens < drafts.num_draft_tokens
    core_of(llm).scheduler._kv.check()


def test_greedy_tokens_are_those_of_an_engine_without_one(
    bigrams: tuple[Reference, ReferenceHead], open_llm: OpenLLM
) -> None:
    greedy = [kind for kind in KINDS if kind["temperature"] == 0]
    plain = generate(open_llm(bigrams[0]), greedy)
    assert_same(generate(ask_about(open_llm(bigrams[0], **with_head(bigrams[1]))), greedy), plain)


def test_what_is_right_is_accepted(bigrams: tuple[Reference, ReferenceHead], open_llm: OpenLLM) -> None:
    """A head that knows the token after the next from the state before it: right once each time."""
    target, head = bigrams
    llm = ask_about(open_llm(target, **with_head(head, 1)))
    kinds: list[dict[str, Any]] = [{"temperature": 0.0}, {"temperature": 0.5, "seed": 5}]
    generate(llm, kinds)
    drafts = core_of(llm).stats().scheduler.drafts
    assert drafts.num_accepted_tokens > 0.9 * drafts.num_draft_tokens


@pytest.mark.parametrize("settings", [{}, {"max_model_len": 80, "kv_cache_memory_bytes": "200KiB"}])
def test_on_a_device_that_works_by_itself_too(
    settings: dict[str, Any],
    bigrams: tuple[Reference, ReferenceHead],
    open_llm: OpenLLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Drafts are asked for while the others' next step has begun."""
    monkeypatch.setattr(worker_module, "open_device", lambda name: PlayedDevice())
    llm = open_llm(bigrams[0], max_num_seqs=7, **with_head(bigrams[1]), **settings)
    plain = alone(llm)
    checked = check(llm, None)
    ask_about(llm, lambda sequence: sequence.slot % 2 == 1)
    assert_same(generate(llm), plain)
    assert checked.checked > 0
    core_of(llm).scheduler._kv.check()


def test_requests_that_end_early_leave_the_others_alone(
    bigrams: tuple[Reference, ReferenceHead], open_llm: OpenLLM
) -> None:
    """Stop strings and tokens, an abort while drafts of it are under way, a grammar beside them."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0, "stop": ["a", "Z"]},
        {"temperature": 1.0, "seed": 3, "stop_token_ids": list(range(40, 70))},
        {"temperature": 0.0},
        {"temperature": 1.0, "seed": 4, "n": 2, "stop": ["q"], "include_stop_str_in_output": True},
        {"temperature": 0.7, "seed": 5, "structured_outputs": StructuredOutputsParams(regex="[a-h]{40}")},
    ]
    llm = open_llm(bigrams[0], max_num_seqs=7, **with_head(bigrams[1], 4))
    core = core_of(llm)
    plain = alone(llm, kinds)
    update, seen = core.scheduler.update, [0]

    def abort_the_third(*step: Any) -> Any:
        outputs = update(*step)
        seen[0] += 1
        if seen[0] == 4:
            live = sorted(core.scheduler._requests, key=int)
            outputs += core.scheduler.abort(next(name for name in live if int(name) % 5 == 2))
        return outputs

    core.scheduler.update = abort_the_third
    found = generate(llm, kinds)
    third = list(found.pop(2).outputs[0].token_ids)
    assert third == list(plain.pop(2).outputs[0].token_ids)[: len(third)]
    assert len(third) < 24
    assert_same(found, plain)
    assert core.stats().scheduler.drafts.num_accepted_tokens > 0
    core.scheduler._kv.check()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("grammar", [False, True], ids=["free", "grammar"])
def test_tokens_are_drawn_from_the_targets_distribution(
    temperature: float, grammar: bool, checkpoint: Checkpoint, make_head: MakeHead, open_llm: OpenLLM
) -> None:
    """Pearson's chi-square of the second token, which is drafted, with a penalty and biases.

    Biases leave six tokens, lest a head that knows nothing be never right; a grammar leaves five of them.
    """
    reference, head = checkpoint("llama"), make_head("llama", "all-tokens")
    llm = open_llm(reference, max_num_seqs=64, **with_head(head))
    tokenizer = llm.get_tokenizer()
    letters = {letter: tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "abcdef"}
    prompt, count = [5, 80, 31, 200], 900
    structured = StructuredOutputsParams(regex="[a-e]{3}") if grammar else None
    params = [
        SamplingParams(
            max_tokens=3,
            ignore_eos=True,
            seed=seed,
            temperature=temperature,
            presence_penalty=1.5,
            logit_bias=dict.fromkeys(letters.values(), 60.0),
            structured_outputs=structured,
        )
        for seed in range(count)
    ]
    ask_about(llm)
    outputs = llm.generate([{"prompt_token_ids": prompt}] * count, params, use_tqdm=False)
    drafts = core_of(llm).stats().scheduler.drafts
    assert 0.05 * drafts.num_draft_tokens < drafts.num_accepted_tokens < drafts.num_draft_tokens
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    first = Counter(one[0] for one in tokens).most_common(1)[0][0]
    logits = reference.logits([*prompt, first])[-1].double()
    logits[first] -= 1.5
    legal = [letters[letter] for letter in ("abcde" if grammar else "abcdef")]
    expected = (logits[legal] / temperature).softmax(-1).tolist()
    found = Counter(one[1] for one in tokens if one[0] == first)
    assert set(found) <= set(legal)
    total = sum(found.values())
    assert total > 150
    chi_square = sum(
        (found[token] - total * share) ** 2 / (total * share)
        for token, share in zip(legal, expected, strict=True)
    )
    assert chi_square < 20.5  # 5 degrees of freedom (or 4): exceeded once in a thousand


def test_for_nobody_nothing_runs(
    checkpoint: Checkpoint, make_head: MakeHead, open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operations of steps in an engine with a head, and with a head that is not asked: one and the same."""
    idle = open_llm(checkpoint("llama"), **with_head(make_head("llama")))
    ask_about(idle, lambda _: False)
    for _ in range(3):  # prompts are kept for a while, for somebody might have been asked
        generate(idle)
    head = core_of(idle).executor.worker.head
    for name in ("tap", "take", "keep", "_forward", "_own_features"):
        monkeypatch.setattr(head, name, lambda *_, name=name: pytest.fail(f"{name} is called for nobody"))
    plain = open_llm(checkpoint("llama"))
    generate(plain)
    counted = []
    for llm in (plain, idle):
        llm.reset_prefix_cache()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            llm.generate([{"prompt_token_ids": [5, 80, 31]}], GREEDY, use_tqdm=False)
        counted.append(Counter(event.key for event in profile.key_averages() for _ in range(event.count)))
    assert counted[0] == counted[1]


GREEDY = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)


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


def test_a_step_that_keeps_states_is_not_replayed(
    bigrams: tuple[Reference, ReferenceHead], open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A captured graph has no tap. All other decode steps are replayed as without a head."""
    device = play_graphs(monkeypatch)
    settings = {"attention_backend": "torch", "kernels": "reference", "max_num_seqs": 4}
    llm = open_llm(bigrams[0], **settings, **with_head(bigrams[1]))
    kinds: list[dict[str, Any]] = [{"temperature": 0.0}, {"temperature": 0.8, "seed": 4, "n": 2}]
    plain = alone(llm, kinds)
    assert device.replays
    late = [0]

    def asks(sequence: Any) -> bool:
        late[0] += 1
        return late[0] % 3 == 0

    ask_about(llm, asks)
    core = core_of(llm)
    submit, kept = core.executor.worker.submit, list[int]()

    def watch(plan: Any) -> None:
        device.replays.clear()
        submit(plan)
        if plan.keep_states:
            kept.append(len(device.replays))

    core.executor.worker.submit = watch
    assert_same(generate(llm, kinds), plain)
    assert kept
    assert not any(kept)
    assert core.stats().scheduler.drafts.num_accepted_tokens > 0


def test_beams_are_not_asked_about(bigrams: tuple[Reference, ReferenceHead], open_llm: OpenLLM) -> None:
    """They fork blocks that hold features all the same."""
    found = []
    for settings in ({}, with_head(bigrams[1])):
        llm = open_llm(bigrams[0], **settings)
        if settings:
            ask_about(llm)
            generate(llm, KINDS[:1])
        (output,) = llm.beam_search(
            [{"prompt_token_ids": list(range(30, 50))}], BeamSearchParams(beam_width=3, max_tokens=12)
        )
        found.append([sequence.tokens for sequence in output.sequences])
        core_of(llm).scheduler._kv.check()
    assert found[0] == found[1]


def test_weights_may_be_made_up(checkpoint: Checkpoint, make_head: MakeHead, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), load_format="dummy", **with_head(make_head("llama")))
    generate(ask_about(llm), KINDS[:1])
    assert core_of(llm).stats().scheduler.drafts.num_draft_tokens > 0


def test_a_misfit_is_named_before_anything_is_loaded(
    checkpoint: Checkpoint, open_llm: OpenLLM, tmp_path: Path
) -> None:
    """Of weights that fit another model, of a whole model, and of a head that is served by itself."""
    save_head(tmp_path / "other", checkpoint("llama"), hidden=40, embedding=True)
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"hidden_size": 56}))
    with pytest.raises(CheckpointError, match=r"model.safetensors: tensor 'fc.weight' of the head"):
        forecast(with_model(checkpoint("llama"), tmp_path / "other"))
    with pytest.raises(UnsupportedModelError, match=r"is no EAGLE-3 head .*by the method 'draft'"):
        forecast(with_model(checkpoint("llama"), checkpoint("llama-tied").directory))
    good = save_head(tmp_path / "good", checkpoint("llama")).directory
    with pytest.raises(UnsupportedModelError, match="only proposes to another model"):
        forecast(EngineConfig(model=str(good), dtype="float32"))
    with pytest.raises(UnsupportedModelError, match="only proposes to another model"):
        forecast(with_model(checkpoint("llama"), good, "draft"))


def with_model(target: Reference, head: Path, method: str = "eagle3") -> EngineConfig:
    asked = {"method": method, "model": str(head), "num_speculative_tokens": 2}
    return EngineConfig(model=str(target.directory), dtype="float32", speculative_config=asked)


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


def test_requests_may_allow_only_what_the_head_cannot_say(
    checkpoint: Checkpoint, make_head: MakeHead, open_llm: OpenLLM
) -> None:
    head = make_head("llama")
    offsets = head.tensors["d2t"]
    theirs = set((torch.arange(len(offsets)) + offsets).tolist())
    others = [token for token in range(2, 258) if token not in theirs][:5]
    kinds: list[dict[str, Any]] = [
        {"temperature": 1.0, "seed": 1, "allowed_token_ids": others},
        {"temperature": 0.0, "allowed_token_ids": others},
    ]
    llm = open_llm(checkpoint("llama"), **with_head(head))
    plain = alone(llm, kinds)
    assert_same(generate(llm, kinds), plain)
    assert core_of(llm).stats().scheduler.drafts.num_draft_tokens > 0


def test_memory_counts_the_features(checkpoint: Checkpoint, make_head: MakeHead, open_llm: OpenLLM) -> None:
    head = make_head("llama")
    alone, llm = open_llm(checkpoint("llama")), open_llm(checkpoint("llama"), **with_head(head, 20))
    one, both = core_of(alone).executor, core_of(llm).executor
    kv = 2 * 16 * 2 * 16 * 4  # K and V of a block: 16 tokens, 2 heads of 16
    assert both.worker.bytes_per_block == one.worker.bytes_per_block + kv + 16 * 56 * 4
    assert both.worker.draft.spare_bytes(16) == both.worker.config.max_num_seqs * (2 + 1) * kv
    assert both.profile().activations >= one.profile().activations + both.worker.draft.spare_bytes(16)
    settings: dict[str, Any] = {"dtype": "float32", "kv_cache_memory_bytes": "8MiB", "max_num_seqs": 8}
    found = forecast(
        EngineConfig(model=str(checkpoint("llama").directory), **settings, **with_head(head, 20))
    )
    assert found.problem is None
    assert found.profile.kv_bytes_per_block == both.worker.bytes_per_block
    assert found.profile.weights == pytest.approx(both.worker.weight_bytes, rel=0.06)  # kernels pad some
