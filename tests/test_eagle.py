"""An EAGLE-3 head in the engine changes no token, and keeps the books."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quire import LLM, BeamSearchParams, EngineConfig, SamplingParams
from quire.engine.planning.forecast import forecast
from quire.errors import CheckpointError, UnsupportedModelError
from quire.runtime import worker as worker_module
from quire.sampling_params import StructuredOutputsParams
from quire.testing.model import Reference

from .chi_square import assert_drawn_from, second_tokens
from .eagle_heads import ReferenceHead, save_head, with_head
from .played_device import PlayedDevice, play_graphs
from .test_draft_model import SETTINGS, alone, ask_about, core_of
from .test_eagle_reference import check
from .test_verification import KINDS, assert_same, generate

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]
MakeHead = Callable[..., ReferenceHead]


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
    reference, head = checkpoint("llama"), make_head("llama", draft_vocab=320, kv_heads=4)
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
    first, found = second_tokens(outputs)
    logits = reference.logits([*prompt, first])[-1].double()
    logits[first] -= 1.5
    legal = [letters[letter] for letter in ("abcde" if grammar else "abcdef")]
    expected = (logits[legal] / temperature).softmax(-1).tolist()
    assert_drawn_from(found, dict(zip(legal, expected, strict=True)))


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
    with pytest.raises(UnsupportedModelError, match=r"^No plugin .*only proposes to another model"):
        forecast(EngineConfig(model=str(good), dtype="float32"))
    with pytest.raises(UnsupportedModelError, match="only proposes to another model"):
        forecast(with_model(checkpoint("llama"), good, "draft"))


class Canary:
    """Opens a file for writing when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self._mark), "w")


def test_a_torch_file_is_described_and_never_run(
    checkpoint: Checkpoint, open_llm: OpenLLM, tmp_path: Path
) -> None:
    target = checkpoint("llama")
    head = save_head(tmp_path / "head", target, file="pytorch_model.bin").directory
    assert forecast(with_model(target, head)).problem is None
    only = {"load_format": "safetensors"}
    with pytest.raises(CheckpointError, match="runs whatever code is in it"):
        forecast(EngineConfig(**{**with_model(target, head).model_dump(exclude_unset=True), **only}))
    with pytest.raises(CheckpointError, match="runs whatever code is in it"):
        forecast(with_model(target, head, "draft"))
    torch.save({"fc.weight": Canary(tmp_path / "mark")}, head / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin asks for '\w+\.open'"):
        open_llm(target, speculative_config=with_model(target, head).speculative_config)
    assert not (tmp_path / "mark").exists()


def with_model(target: Reference, head: Path, method: str = "eagle3") -> EngineConfig:
    asked = {"method": method, "model": str(head), "num_speculative_tokens": 2}
    return EngineConfig(model=str(target.directory), dtype="float32", speculative_config=asked)


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
