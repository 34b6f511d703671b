"""Every part of `bench/gpu.py` on a processor, at the size of a toy; and the command itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gpu_bench import attention, attention_kernels, decode, limits, products, serving, transformers_part
from gpu_bench.attention_cases import Case, cases
from gpu_bench.bench import Bench
from gpu_bench.engine import hollow, opened, worker_of
from gpu_bench.record import Report, Row
from gpu_bench.roofline import Limits
from gpu_bench.shapes import MODELS
from gpu_bench.transformers_side import in_batches
from quire import LLM

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "gpu.py"
TOY = MODELS["toy"]


@pytest.fixture
def rows() -> list[Row]:
    return []


@pytest.fixture
def bench(rows: list[Row]) -> Bench:
    known = Limits(copy_gb_s=10.0, gemm_tflop_s=0.1)
    made = Bench(device="cpu", toy=True, limits=known, budget=60.0, sink=rows.append)
    made.begin()
    return made


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with opened(TOY, "cpu", True) as engine:
        yield engine


def test_limits(bench: Bench, rows: list[Row]) -> None:
    limits.run(bench)
    found = limits.limits_of(rows)
    assert found is not None
    assert found.copy_gb_s > 0 < found.gemm_tflop_s


def test_attention(bench: Bench, rows: list[Row]) -> None:
    attention.run(bench)
    assert {"sdpa", "torch"} < {str(row.labels["kernel"]) for row in rows}
    assert not any(row.note for row in rows)
    for row in rows:
        decodes = str(row.labels["step"]).startswith("decode")
        assert set(row.figures) == ({"ms", "gb_s", "copy"} if decodes else {"ms", "tflop_s", "gemm"})


@pytest.mark.parametrize("case", cases(True))
def test_dense_attention_has_every_row(case: Case, bench: Bench) -> None:
    out = attention_kernels.dense(case, bench)[0]()
    assert isinstance(out, torch.Tensor)
    assert out.numel() == case.requests * case.rows * 4 * 16
    assert bool(out.isfinite().all())


def test_requests_share_no_block() -> None:
    batch = attention_kernels.step(Case(TOY, 3, 40, 2), "cpu")
    blocks = batch.block_table.flatten().tolist()
    assert sorted(blocks) == list(range(1, 10))
    slots = [batch.block_table[row, 2] * 16 + place for row in range(3) for place in (6, 7)]
    assert batch.slot_mapping.tolist() == slots


def test_a_kernel_that_breaks_costs_its_row(
    bench: Bench, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(attention_kernels, "dense", broken)
    with pytest.raises(RuntimeError, match="broke: sdpa at decode 2 x 48, sdpa at prefill"):
        attention.run(bench)
    notes = {str(row.labels["kernel"]): row.note for row in rows}
    assert notes["sdpa"] == "OutOfMemoryError: CUDA out of memory."
    assert notes["torch"] == ""


def test_products(bench: Bench, rows: list[Row]) -> None:
    products.run(bench)
    for plain, quantized in zip(rows[::2], rows[1::2], strict=True):
        assert (plain.labels["kernel"], quantized.labels["kernel"]) == ("bf16", "W4A16")
        assert plain.labels["rows"] == quantized.labels["rows"]
        assert quantized.figures["ahead"] == pytest.approx(plain.figures["ms"] / quantized.figures["ms"])
        assert "ahead" not in plain.figures
    assert [row.labels["rows"] for row in rows] == [1, 1, 16, 16]


def test_weights_take_turns_that_are_not_the_same(bench: Bench) -> None:
    found = products.nibbles(products.kernels("cpu"), 128, 32, bench)
    x = torch.randn(1, 128).bfloat16()
    one, other = (product(x) for product in found.products)
    assert not torch.equal(one, other)


def test_what_is_late_is_left_out(bench: Bench, rows: list[Row], llm: LLM) -> None:
    bench.budget = -1.0
    attention.run(bench)
    products.run(bench)
    decode.run(bench, llm, TOY)
    assert all(row.note.startswith("left out") and not row.figures for row in rows)


def test_decode(bench: Bench, rows: list[Row], llm: LLM) -> None:
    decode.run(bench, llm, TOY)
    small, larger, too_large = rows
    for row in (small, larger):
        batch, context = int(row.labels["batch"]), int(row.labels["context"])
        least = bench.limits.least_seconds(  # type: ignore[union-attr]
            TOY.decode_bytes(batch, context), TOY.decode_flops(batch, context)
        )
        assert row.figures["roofline"] == pytest.approx(1e3 * least / row.figures["ms"])
    assert "do not fit" in too_large.note


def test_prompts_are_cached_and_not_computed(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    model, computed = worker_of(llm).model, 0
    original = model.forward

    def forward(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        nonlocal computed
        computed += len(x)
        out: torch.Tensor = original(x, *rest)
        return out

    monkeypatch.setattr(model, "forward", forward)
    times = decode.decode(llm, TOY, 4, 64)
    assert [len(one) for one in times] == [decode.STEPS] * 4
    assert computed <= 4 * (16 + decode.STEPS)
    assert worker_of(llm).model is model
    assert all(bool(layer[name].std() > 0.5) for layer in worker_of(llm).kv.layers for name in layer)


def test_the_model_comes_back_when_something_breaks(llm: LLM) -> None:
    model = worker_of(llm).model
    with hollow(llm, TOY):
        assert worker_of(llm).model is not model
    with pytest.raises(ZeroDivisionError), hollow(llm, TOY):
        1 / 0  # noqa: B018
    assert worker_of(llm).model is model


def test_idle(bench: Bench, rows: list[Row], llm: LLM) -> None:
    decode.run_idle(bench, llm, TOY)
    assert 0 <= rows[0].figures["idle"] <= rows[0].figures["gaps"] <= 1


def test_prefill_and_workload(bench: Bench, rows: list[Row], llm: LLM) -> None:
    serving.run_prefill(bench, llm, TOY)
    serving.run_workload(bench, llm, TOY)
    assert [row.labels.get("tokens") for row in rows] == [32, 64, None]
    assert rows[-1].labels["output tokens"] == sum(new for _, new in serving.lengths(True))


def test_the_workload_is_nano_vllms() -> None:
    sizes = serving.lengths(False)
    assert len(sizes) == 256
    assert all(100 <= size <= 1024 for pair in sizes for size in pair)
    assert sizes == serving.lengths(False)


def test_transformers(bench: Bench, rows: list[Row]) -> None:
    transformers_part.run(bench, TOY)
    ours, *theirs = rows
    assert [row.labels["engine"] for row in theirs] == [
        f"transformers, {way}" for way in ("one by one", "continuous", "batches of 4", "batches of 2")
    ]
    for row in theirs:
        assert row.note == ""
        assert row.figures["ahead"] == pytest.approx(ours.figures["tok_s"] / row.figures["tok_s"])
        assert row.figures["same_first"] == 1.0  # the weights are the same


def test_a_peer_that_breaks_is_named(bench: Bench, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(transformers_part, "continuously", broken)
    with pytest.raises(RuntimeError, match="broke: continuous"):
        transformers_part.run(bench, TOY)
    assert [row.note for row in rows] == ["", "", "NotImplementedError: no message", "", ""]


def test_batches_stop_when_it_is_late() -> None:
    class Zeros:
        device = "cpu"

        def generate(self, input_ids: torch.Tensor, max_new_tokens: int, **_: object) -> torch.Tensor:
            return torch.cat((input_ids, torch.zeros(len(input_ids), max_new_tokens).long()), 1)

    requests = [([3, 4], 1), ([5], 9), ([6, 7, 8], 5)]
    assert in_batches(Zeros(), requests, 2, lambda: False).first == {0: 0, 1: 0, 2: 0}
    cut = in_batches(Zeros(), requests, 2, lambda: True)
    assert (cut.tokens, cut.cut, set(cut.first)) == (14, 1, {1, 2})


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    done = command(
        "--device", "cpu", "--toy", "--only", "prefill,wna16,attention", "--json", str(tmp_path / "r")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = Report.model_validate_json((tmp_path / "r").read_text())
    assert [one.part for one in report.parts] == ["limits", "attention", "wna16", "prefill"]
    assert "of GEMM rate" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = command()
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("bench/gpu.py needs a CUDA GPU, and PyTorch sees none")


def test_unknown_parts_are_refused() -> None:
    done = command("--only", "decode,sparse")
    assert done.returncode == 2
    assert "unknown part 'sparse'" in done.stderr
