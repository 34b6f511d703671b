"""A plan crosses a process boundary as plain data, and is loaded there without any discovery."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest

from quire import EngineConfig
from quire.engine.planning.plan import make_plan
from quire.plan import SlotStart, StepPlan
from quire.plugin_plan import PluginPlan
from quire.request import EngineRequest
from quire.sampling_params import SamplingParams
from quire.testing.model import Reference

LOAD = """
import sys, msgspec
from quire.plugin_plan import PluginPlan
plan = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=PluginPlan)
for role, plugin in sorted(plan.plugins.items()):
    print(role, plugin.load().__name__)
assert "quire.plugins" not in sys.modules
"""


def test_another_process_loads_exactly_the_plan(checkpoint: Callable[[str], Reference]) -> None:
    named = {"kernels": "torch-cpu", "attention_backend": "torch"}  # by default the machine decides
    config = EngineConfig(model=str(checkpoint("mistral").directory), **named)
    plan = make_plan(config, show_progress=False).plugins
    data = msgspec.msgpack.encode(plan)
    assert msgspec.msgpack.decode(data, type=PluginPlan) == plan
    run = subprocess.run([sys.executable, "-c", LOAD], input=data, capture_output=True, check=True)
    assert run.stdout.decode().splitlines() == [
        "attention/0 TorchAttention",
        "grammar/0 XGrammar",
        "grammar/1 LLGuidance",
        "kernels TorchCpuKernels",
        "model LlamaFamily",
        "quantization Unquantized",
        "sampler StandardSampler",
    ]


def test_requests_and_step_plans_are_plain_data() -> None:
    params = SamplingParams(temperature=0.5, stop=["x"], logit_bias={3: 1.5})
    start = SlotStart(0, 1, "r", params, 7, [1, 2], 2, 0, ([1], [2]))
    step = StepPlan(3, starts=[start], slots=[0], generations=[1], counts=[2])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(step), type=StepPlan) == step
    request = EngineRequest(request_id="r", prompt_ids=[1], params=params, seed=2**63 - 1, cache_salt="s")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=EngineRequest) == request


@pytest.mark.parametrize(
    ("asked", "reasons"),
    [
        ("auto", ["highest priority, tried first", "gets what those before it refuse"]),
        ("guidance", ["asked for by name"]),
    ],
)
def test_grammars_say_why_they_are_used(asked: str, reasons: list[str]) -> None:
    config = EngineConfig(model="tiny", structured_outputs={"backend": asked})
    plan = make_plan(config, show_progress=False).plugins
    found = [one for one in plan.explanations if one.role.startswith("grammar/")]
    assert [one.reason for one in found] == reasons
    assert [bool(one.rejected) for one in found] == [asked != "auto"] * len(reasons)
