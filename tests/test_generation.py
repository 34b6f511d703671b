"""What scripts see: `LLM` as vLLM's users know it, every way a request can end, streams, errors."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Sequence

import pytest

from quire import LLM, RequestOutput, SamplingParams
from quire.errors import (
    CapacityError,
    ConfigError,
    EngineError,
    InvalidRequestError,
    ModelNotFoundError,
    QuireError,
    UnsupportedModelError,
)
from quire.testing.model import Reference

from .conftest import VOCAB, random_prompt

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]


@pytest.fixture
def llm(checkpoint: Checkpoint, open_llm: OpenLLM) -> LLM:
    return open_llm(checkpoint("llama"))


def run(llm: LLM, prompt: object, **params: object) -> RequestOutput:
    sampling = SamplingParams(**{"max_tokens": 12, "ignore_eos": True, "seed": 7, **params})  # type: ignore[arg-type]
    return llm.generate(prompt, sampling, use_tqdm=False)[0]  # type: ignore[arg-type]


def test_a_script_written_for_vllm(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    model = open_llm(checkpoint("llama"), gpu_memory_utilization=0.5, max_model_len=128, enforce_eager=True)
    prompts = ["Hello, my name is", "The president of the United States is"]
    sampling_params = [
        SamplingParams(temperature=0.8, top_p=0.95, max_tokens=10),
        SamplingParams(temperature=0.8, max_tokens=5, stop=["</s>", "[INST]"]),
    ]
    outputs = model.generate(prompts, sampling_params)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert output.prompt == prompt
        assert isinstance(output.outputs[0].text, str)
        assert output.finished
    text = model.detokenize(outputs[0])
    assert text == outputs[0].outputs[0].text
    assert model.tokenize("abc") == model.get_tokenizer().encode("abc")
    defaults = model.get_default_sampling_params()
    defaults.max_tokens = 3
    assert len(model.generate("x", defaults)[0].outputs[0].token_ids) <= 3


def test_all_forms_of_a_prompt_are_the_same(llm: LLM) -> None:
    text = "def f(x):"
    ids = llm.tokenize(text)
    forms: list[object] = [text, ids, {"prompt_token_ids": ids}, {"prompt": text}, [text], [ids]]
    results = [run(llm, form).outputs[0].token_ids for form in forms]
    assert all(result == results[0] for result in results)
    named = llm.generate(
        prompt_token_ids=[ids], sampling_params=SamplingParams(seed=7, max_tokens=12), use_tqdm=False
    )
    assert named[0].prompt is None


def test_chat_uses_the_template(llm: LLM) -> None:
    out = llm.chat([{"role": "user", "content": "hi"}], SamplingParams(max_tokens=3), use_tqdm=False)[0]
    assert out.prompt == "<s>[user]hi\n[assistant]"
    assert out.prompt_token_ids[0] == 0
    assert out.prompt_token_ids.count(0) == 1


def test_chat_uses_the_template_that_a_script_brings(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    out = llm.chat(
        messages, SamplingParams(max_tokens=3), False, chat_template="Q: {{ messages[0].content }}\nA:"
    )
    assert out[0].prompt == "Q: hi\nA:"


def test_several_completions_equal_those_of_their_own(llm: LLM) -> None:
    prompt = random_prompt(33, seed=3)
    many = run(llm, prompt, n=4, temperature=1.0)
    assert [one.index for one in many.outputs] == [0, 1, 2, 3]
    assert len({tuple(one.token_ids) for one in many.outputs}) > 1
    alone = run(llm, prompt, n=1, temperature=1.0)
    assert alone.outputs[0].token_ids == many.outputs[0].token_ids


@pytest.mark.parametrize("length", [1, 15, 16, 17, 32])
def test_greedy_completions_of_one_prompt_are_equal(llm: LLM, length: int) -> None:
    prompt = random_prompt(length, seed=length)
    expected = run(llm, prompt, temperature=0.0).outputs[0].token_ids
    llm.reset_prefix_cache()
    forked = run(llm, prompt, top_k=1, n=3)
    assert [one.token_ids for one in forked.outputs] == [expected] * 3


def test_metrics_tell_when_each_token_came(llm: LLM) -> None:
    prompts = [random_prompt(length, seed=length) for length in (5, 40)]
    params = SamplingParams(max_tokens=9, ignore_eos=True)
    for output in llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False):
        metrics = output.metrics
        assert metrics is not None
        times = metrics.token_times
        assert len(times) == 9
        assert list(times) == sorted(set(times))
        assert (times[0], times[-1]) == (metrics.first_token_time, metrics.finished_time)
    *running, last = llm.stream({"prompt_token_ids": prompts[0]}, params)
    assert [one.metrics.token_times for one in running if one.metrics] == [()] * 8
    assert last.metrics is not None
    assert len(last.metrics.token_times) == 9


def test_best_of_returns_the_likeliest(llm: LLM) -> None:
    prompt = random_prompt(20, seed=5)
    every = run(llm, prompt, n=6, logprobs=0)
    best = run(llm, prompt, n=2, best_of=6)
    ranked = sorted(every.outputs, key=lambda one: -(one.cumulative_logprob or 0.0))
    assert [one.token_ids for one in best.outputs] == [one.token_ids for one in ranked[:2]]
    assert [one.index for one in best.outputs] == [0, 1]
    assert best.outputs[0].logprobs is None


def test_same_seed_same_tokens_whatever_the_batch(llm: LLM) -> None:
    prompt = random_prompt(21, seed=9)
    alone = run(llm, prompt, temperature=1.0).outputs[0].token_ids
    others = [random_prompt(length, seed=length) for length in (3, 50, 9)]
    params = [
        SamplingParams(temperature=1.0, seed=seed, max_tokens=12, ignore_eos=True) for seed in (1, 2, 3, 7)
    ]
    batched = llm.generate([*others, prompt], params, use_tqdm=False)
    assert batched[-1].outputs[0].token_ids == alone


def test_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    prompt = random_prompt(12, seed=11)
    free = run(llm, prompt, temperature=0.0, max_tokens=24).outputs[0]
    stop = free.text[6:8]
    cut = free.text.index(stop)
    out = run(llm, prompt, temperature=0.0, max_tokens=24, stop=[stop]).outputs[0]
    assert (out.text, out.finish_reason, out.stop_reason) == (free.text[:cut], "stop", stop)
    kept = run(llm, prompt, temperature=0.0, max_tokens=24, stop=stop, include_stop_str_in_output=True)
    assert kept.outputs[0].text == free.text[: cut + len(stop)]
    assert llm.get_metrics().num_running == 0


def test_a_stop_string_ends_one_completion_and_not_its_siblings(llm: LLM) -> None:
    prompt = random_prompt(12, seed=12)
    free = run(llm, prompt, n=3, temperature=1.0, max_tokens=24)
    stop = free.outputs[1].text[4:7]
    out = run(llm, prompt, n=3, temperature=1.0, max_tokens=24, stop=[stop])
    for before, after in zip(free.outputs, out.outputs, strict=True):
        where = before.text.find(stop)
        assert after.text == (before.text if where < 0 else before.text[:where])
        assert after.finish_reason == ("length" if where < 0 else "stop")


def test_stop_token_and_min_tokens(llm: LLM) -> None:
    prompt = random_prompt(12, seed=13)
    free = run(llm, prompt, temperature=0.0).outputs[0].token_ids
    stop = free[4]
    first = free.index(stop)
    out = run(llm, prompt, temperature=0.0, stop_token_ids=[stop]).outputs[0]
    assert out.token_ids == free[: first + 1]
    assert (out.finish_reason, out.stop_reason) == ("stop", stop)
    later = run(llm, prompt, temperature=0.0, stop_token_ids=[stop], min_tokens=first + 2).outputs[0]
    assert len(later.token_ids) >= first + 2


def test_end_token_ends_and_is_not_in_the_text(llm: LLM) -> None:
    biased = {1: 100.0}
    out = run(llm, "abc", ignore_eos=False, logit_bias=biased).outputs[0]
    assert (out.token_ids, out.text, out.finish_reason, out.stop_reason) == ([1], "", "stop", None)
    ignored = run(llm, "abc", ignore_eos=True, logit_bias=biased, max_tokens=3).outputs[0]
    assert (ignored.token_ids, ignored.finish_reason) == ([1, 1, 1], "length")


def test_context_ends_a_request_with_length(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), max_model_len=32)
    out = run(llm, random_prompt(28, seed=1), max_tokens=None).outputs[0]
    assert (len(out.token_ids), out.finish_reason) == (4, "length")
    with pytest.raises(InvalidRequestError, match="maximum context length is 32"):
        run(llm, random_prompt(32, seed=1))


def test_stream_grows_to_the_whole_and_early_exit_aborts(llm: LLM) -> None:
    prompt = random_prompt(12, seed=14)
    params = SamplingParams(temperature=1.0, seed=3, max_tokens=10, ignore_eos=True)
    whole = llm.generate(prompt, params, use_tqdm=False)[0].outputs[0]
    snapshots = list(llm.stream(prompt, params))
    texts = [snapshot.outputs[0].text for snapshot in snapshots]
    assert all(after.startswith(before) for before, after in itertools.pairwise(texts))
    assert texts[-1] == whole.text
    assert [len(s.outputs[0].token_ids) for s in snapshots] == list(range(1, 11))
    stream = llm.stream(prompt, params)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    stats = llm.get_metrics()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert all(group.used == 0 for group in stats.kv)


def test_metrics_of_a_request_are_in_order(llm: LLM) -> None:
    metrics = run(llm, "abc").metrics
    assert metrics is not None
    assert metrics.first_scheduled_time is not None
    assert metrics.first_token_time is not None
    assert metrics.finished_time is not None
    assert (
        metrics.arrival_time
        <= metrics.first_scheduled_time
        <= metrics.first_token_time
        <= metrics.finished_time
    )


def test_cache_salt_separates_prefixes(llm: LLM) -> None:
    prompt = random_prompt(40, seed=15)

    def cached(salt: str | None) -> int:
        form = (
            {"prompt_token_ids": prompt} if salt is None else {"prompt_token_ids": prompt, "cache_salt": salt}
        )
        return run(llm, form).num_cached_tokens

    assert [cached(salt) for salt in (None, None, "a", "b", "a", "b", None)] == [0, 32, 0, 0, 32, 32, 32]


def test_what_reaches_the_engine_passes_its_checks_again(llm: LLM) -> None:
    """The room that a prompt leaves bounds both limits: an engine in another process checks them together."""
    asked = SamplingParams(max_tokens=None, min_tokens=10**6)
    params = llm._engine.inputs.prepare([3] * 4, asked).engine.params
    assert params.validated().min_tokens == params.max_tokens


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "prompt"),
        ([VOCAB], {}, f"Token id {VOCAB} .* 0 to {VOCAB - 1}"),
        ([-1], {}, "Token id -1"),
        ([2**31], {}, "Token id 2147483648"),
        ([2**64], {}, "Token id 18446744073709551616"),
        ([3, "x"], {}, "must be integers"),
        ({"prompt_token_ids": [3], "speed": 1}, {}, "Unknown key 'speed'"),
        ({"prompt": "x", "cache_salt": 3}, {}, "cache_salt"),
        ("x", {"logit_bias": {VOCAB: 1.0}}, "logit_bias"),
        ("x", {"allowed_token_ids": [2**31]}, "allowed_token_ids"),
        ("x", {"stop_token_ids": [-1]}, "stop_token_ids"),
        ("x", {"logprobs": 21}, "max_logprobs"),
    ],
)
def test_what_can_never_run_is_refused_and_nothing_is_left(
    llm: LLM, prompt: object, params: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        llm.generate(["fine", prompt], SamplingParams(**params), use_tqdm=False)  # type: ignore[arg-type]
    assert llm.get_metrics().num_waiting == 0
    assert len(run(llm, "still here").outputs[0].token_ids) == 12


def test_one_parameter_set_per_prompt_or_one_for_all(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="2 prompts, but 3 sampling_params"):
        llm.generate(["a", "b"], [SamplingParams()] * 3, use_tqdm=False)


def test_shutdown_frees_and_says_so(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    with open_llm(checkpoint("llama")) as llm:
        run(llm, "x")
    llm.shutdown()
    with pytest.raises(EngineError, match="shut down"):
        run(llm, "x")


def test_shutdown_leaves_nothing_of_the_model(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"))
    run(llm, "x")
    worker = llm._engine.client.core.executor.worker  # type: ignore[attr-defined]
    held = [weakref.ref(one) for one in (worker, worker.model, worker.sampler, worker.kv)]
    del worker
    llm.shutdown()
    gc.collect()
    assert [ref() for ref in held] == [None] * 4


def test_memory_that_does_not_suffice_names_what_would(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    reference = checkpoint("llama")
    memory = open_llm(reference).startup_report.memory
    per_block = memory.kv // memory.num_blocks
    with pytest.raises(CapacityError, match="largest max_model_len that works is 64"):
        open_llm(reference, max_model_len=200, kv_cache_memory_bytes=5 * per_block)
    fitted = open_llm(reference, kv_cache_memory_bytes=5 * per_block)
    assert fitted.startup_report.memory.max_model_len == 64


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": "./nowhere"}, ModelNotFoundError, "nowhere"),
        ({"attention_backend": "warp"}, QuireError, "Unknown attention 'warp'"),
        ({"quantization": "awk"}, QuireError, "Unknown quantization 'awk'"),
        ({"quantization": "awq"}, QuireError, "the checkpoint is not quantized"),
        ({"max_model_len": 4096}, ConfigError, "4096 is more than the 256"),
        (
            {"hf_overrides": {"architectures": ["MambaForCausalLM"]}},
            UnsupportedModelError,
            "LlamaForCausalLM",
        ),
        ({"device": "cuda"}, ConfigError, "sees no CUDA"),
        ({"max_num_sequences": 3}, ConfigError, "max_num_seqs"),
    ],
)
def test_start_up_errors_name_the_way_out(
    checkpoint: Checkpoint, settings: dict[str, object], error: type[Exception], message: str
) -> None:
    settings = {"model": str(checkpoint("llama").directory), **settings}
    with pytest.raises(error, match=message):
        LLM(**settings, show_progress=False)  # type: ignore[arg-type]


def test_priority_policy_runs_lower_values_first(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), scheduling_policy="priority", max_num_seqs=1)
    ids: Sequence[list[int]] = [random_prompt(5, seed=s) for s in range(3)]
    outs = llm.generate(list(ids), SamplingParams(max_tokens=4), use_tqdm=False, priority=[5, 1, 3])
    order = sorted(range(3), key=lambda i: outs[i].metrics.finished_time or 0.0)  # type: ignore[union-attr]
    assert order == [1, 2, 0]
