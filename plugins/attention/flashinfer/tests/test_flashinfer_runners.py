"""What FlashInfer's wrappers are made and planned with, and that they are called as they are declared."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from quire.testing.attention_rig import AttentionRig, Shape
from quire_attn_flashinfer.runners import Geometry, Runner, workspace_bytes

FILES = {
    "BatchDecodeWithPagedKVCacheWrapper": "decode.py",
    "BatchPrefillWithPagedKVCacheWrapper": "prefill.py",
}
LLAMA = Geometry(32, 8, 128, 16, None, None, torch.bfloat16)


@pytest.mark.parametrize(("ratio", "used"), [(1, False), (3, False), (4, True), (7, True)])
def test_large_groups_are_decoded_on_tensor_cores(
    make_rig: Callable[..., AttentionRig], ratio: int, used: bool
) -> None:
    rig = make_rig(Shape(kv_heads=2, ratio=ratio))
    decode = vars(rig.backend)["_decode"]
    assert decode._wrapper.use_tensor_cores is used


def test_the_workspace_holds_the_partial_results() -> None:
    row = 32 * 129 * 4  # a partial result of each head, and its weight
    assert workspace_bytes(LLAMA, 256, 132) == 128 << 20
    assert workspace_bytes(LLAMA, 1024, 132) >= 1024 * 16 * row
    wide = Geometry(64, 2, 256, 16, None, None, torch.bfloat16)
    assert workspace_bytes(wide, 1, 132) >= 132 * 128 * 64 * 257 * 4


def test_a_plan_waits_until_the_device_has_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Event:
        def synchronize(self) -> None:
            order.append("wait")

        def record(self, stream: str) -> None:
            order.append(f"record on {stream}")

    class Wrapper:
        def plan(self) -> None:
            order.append("plan")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"{device}'s stream")
    runner = Runner(Wrapper(), torch.device("cuda:0"))
    for _ in range(2):
        runner._plan()
    assert order == ["wait", "plan", "record on cuda:0's stream"] * 2


def declared(source: Path, name: str) -> dict[str, tuple[list[str], set[str]]]:
    """A class's methods in a source file: positional parameters in order, and all names.

    What a method passes on by `**` is what `_plan_impl` declares.
    """
    tree = ast.parse(source.read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    methods: dict[str, tuple[list[str], set[str]]] = {}
    for node in found.body:
        if isinstance(node, ast.FunctionDef):  # the last of a name, which follows its overloads
            positional = [one.arg for one in node.args.args]
            methods[node.name] = (positional, {*positional, *(one.arg for one in node.args.kwonlyargs)})
    if "_plan_impl" in methods:
        methods["plan"][1].update(methods["_plan_impl"][1])
    return methods


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("method", ["__init__", "plan", "run"])
def test_the_stand_in_declares_what_flashinfer_does(name: str, method: str) -> None:
    spec = importlib.util.find_spec("flashinfer")
    if spec is None or spec.origin is None:
        pytest.skip("FlashInfer is not installed: there is nothing to compare with")
    real = declared(Path(spec.origin).with_name(FILES[name]), name)[method]
    stand_in = Path(__file__).with_name("played_flashinfer.py")
    positional, names = declared(stand_in, name)[method]
    assert names <= real[1]
    # What is passed by position stands in the same place.
    passed = {"__init__": 3, "run": 3, "plan": 9 if "Prefill" in name else 8}[method]
    assert positional[:passed] == real[0][:passed]
