from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from quire.contracts import Span, Weight, WeightMapping
from quire.errors import CheckpointError, PluginError
from quire.weights.checkpoint import Checkpoint
from quire.weights.loader import initialise_dummy, load, renamed_headers

PLAIN = WeightMapping()


def _weight(
    name: str,
    *shape: int,
    dtype: torch.dtype = torch.float32,
    take: tuple[Span, ...] | None = None,
    required: bool = True,
) -> Weight:
    take = take or tuple(Span.whole(n) for n in shape)
    target = torch.full([s.size for s in take], -1.0).to(dtype)
    return Weight(name=name, shape=shape, target=target, take=take, required=required)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.randn(4, 6), "a.bias": torch.randn(4), "b.weight": torch.randn(3)}


@pytest.fixture
def checkpoint(tensors: dict[str, torch.Tensor], tmp_path: Path) -> Checkpoint:
    names = sorted(tensors)
    save_file({n: tensors[n] for n in names[:1]}, tmp_path / "one.safetensors")
    save_file({n: tensors[n] for n in names[1:]}, tmp_path / "two.safetensors")
    return Checkpoint(tmp_path)


def _all() -> list[Weight]:
    return [_weight("b.weight", 3), _weight("a.weight", 4, 6), _weight("a.bias", 4)]


def test_fills_every_target(checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]) -> None:
    weights = _all()
    assert load(weights, checkpoint, PLAIN) == 4 * (24 + 4 + 3)
    for weight in weights:
        assert weight.loaded
        assert weight.target.equal(tensors[weight.name])


def test_converts_floats(checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]) -> None:
    weights = [_weight(w.name, *w.shape, dtype=torch.bfloat16) for w in _all()]
    load(weights, checkpoint, PLAIN)
    assert weights[1].target.equal(tensors["a.weight"].bfloat16())


def test_what_a_weight_fills_itself_is_given_to_it(
    checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]
) -> None:
    given: list[torch.Tensor] = []
    weight = _weight("b.weight", 3, dtype=torch.int8)
    weight.fill = given.append
    load([weight, *_all()[1:]], checkpoint, PLAIN)
    assert weight.loaded
    assert weight.target.tolist() == [-1] * 3
    assert given[0].equal(tensors["b.weight"])
    initialise_dummy([weight])
    assert given[1].dtype == torch.float32
    assert given[1].shape == (3,)


def test_reads_the_asked_part_and_twice_if_asked_twice(
    checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]
) -> None:
    left = _weight("a.weight", 4, 6, take=(Span(1, 3, 4), Span(0, 3, 6)))
    right = _weight("a.weight", 4, 6, take=(Span(1, 3, 4), Span(3, 6, 6)))
    load([left, right, _weight("a.bias", 4), _weight("b.weight", 3)], checkpoint, PLAIN)
    assert torch.cat((left.target, right.target), dim=1).equal(tensors["a.weight"][1:3])


def test_files_are_read_in_order(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[int, int]] = []
    read = checkpoint.read

    def recorded(name: str, spans: object = None) -> torch.Tensor:
        order.append(checkpoint.place(name))
        return read(name, spans)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "read", recorded)
    load(_all(), checkpoint, PLAIN)
    assert len(order) == 3
    assert order == sorted(order)


def test_absent_optional_weights_keep_their_target(checkpoint: Checkpoint) -> None:
    extra = _weight("c.weight", 2, required=False)
    load([*_all(), extra], checkpoint, PLAIN)
    assert not extra.loaded
    assert extra.target.tolist() == [-1, -1]


def test_a_tensor_may_be_known_and_not_wanted(checkpoint: Checkpoint) -> None:
    """As a tied head's own weight is: an empty span checks it and reads nothing of it."""
    unread = Weight(
        name="a.weight",
        shape=(4, 6),
        target=torch.empty(0, 6),
        take=(Span(0, 0, 4), Span.whole(6)),
        required=False,
    )
    assert load([unread, _weight("a.bias", 4), _weight("b.weight", 3)], checkpoint, PLAIN) == 28


def test_renames_and_ignored_suffixes(checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]) -> None:
    mapping = WeightMapping(renames=(("a.", "model.a."),), ignored=("b.weight",))
    weight = _weight("model.a.weight", 4, 6)
    load([weight, _weight("model.a.bias", 4)], checkpoint, mapping)
    assert weight.target.equal(tensors["a.weight"])


def test_renamed_headers_keep_the_checkpoints_names(checkpoint: Checkpoint) -> None:
    headers = renamed_headers(checkpoint, WeightMapping(renames=(("a.", "model.a."),)))
    assert headers["model.a.weight"].name == "a.weight"
    assert headers["b.weight"].name == ""


def test_renames_that_collide(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"both 'b\.weight'"):
        renamed_headers(checkpoint, WeightMapping(renames=(("a.weight", "b.weight"),)))


def test_all_problems_are_found_before_anything_is_read(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "read", lambda *_: pytest.fail("read too early"))
    wrong_dtype = _weight("b.weight", 3)
    wrong_dtype.dtypes = frozenset({"I32"})
    with pytest.raises(CheckpointError) as caught:
        load([_weight("a.weight", 6, 4), _weight("gone", 1), wrong_dtype], checkpoint, PLAIN)
    assert str(caught.value).splitlines()[1:] == [
        "  two.safetensors: tensor 'a.weight' has shape [4, 6], expected [6, 4]",
        "  missing tensor 'gone', expected shape [1]",
        "  two.safetensors: tensor 'b.weight' has dtype F32, expected one of I32",
        "  one.safetensors: unexpected tensor 'a.bias' of shape [4]",
    ]


def test_many_problems_are_counted(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"\.\.\. and 8 more"):
        load([_weight(f"w{i}", 1) for i in range(10)], checkpoint, PLAIN)


def test_a_weight_that_contradicts_itself_is_the_plugins_fault(checkpoint: Checkpoint) -> None:
    weight = _weight("b.weight", 3)
    weight.target = torch.empty(1)
    with pytest.raises(PluginError, match=r"\[3\] of tensor 'b\.weight' \[3\] into a target of \[1\]"):
        load([weight], checkpoint, PLAIN)


def test_spans_of_another_shape_are_the_plugins_fault(checkpoint: Checkpoint) -> None:
    weight = _weight("b.weight", 3, take=(Span(0, 2, 2),))
    with pytest.raises(PluginError, match=r"'b\.weight' \[3\]"):
        load([weight], checkpoint, PLAIN)


def test_progress_is_drawn_if_asked(checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    load(_all(), checkpoint, PLAIN)
    assert capsys.readouterr().err == ""
    load(_all(), checkpoint, PLAIN, progress=True)
    assert capsys.readouterr().err == ""  # it is no terminal


def test_progress_is_told_in_bytes_of_each_file(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    load(_all(), checkpoint, PLAIN, progress=True)
    shown = terminal.getvalue()
    assert "124/124" in shown
    assert "two.safetensors" in shown


class _Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what is copied into what, and the dtypes that the host makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.copied: list[tuple[str, torch.dtype, str]] = []
        self.made_on_host: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.copy_.default:
            self.copied.append((args[1].device.type, args[1].dtype, args[0].device.type))
        made = [one for one in tree_iter(result) if isinstance(one, torch.Tensor)]
        self.made_on_host |= {one.dtype for one in made if one.device.type == "cpu"}
        return result


def test_another_device_is_given_what_the_file_holds_and_converts_it(tmp_path: Path) -> None:
    dtypes = {"f16": torch.float16, "f32": torch.float32, "f64": torch.float64, "fill": torch.float32}
    tensors = {name: torch.randn(64, 32).to(dtype) for name, dtype in dtypes.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    weights = [_weight(name, 64, 32) for name in dtypes]
    given: list[torch.Tensor] = []
    for weight in weights:
        weight.target = torch.empty(64, 32, dtype=torch.bfloat16, device="meta")
    weights[3].fill = given.append
    with _Copies() as copies:
        load(weights, Checkpoint(tmp_path), PLAIN)
    assert set(copies.copied) == {("meta", dtypes[name], "meta") for name in ("f16", "f32", "f64")}
    assert copies.made_on_host == {torch.uint8, *dtypes.values()}  # bytes as read, and what they are
    assert (given[0].device.type, given[0].dtype) == ("meta", torch.float32)


def test_dummy_weights_are_finite_repeatable_and_different() -> None:
    def make(seed: int) -> list[Weight]:
        weights = [_weight("a", 64, 64), _weight("b", 64, 64), _weight("n", 64)]
        codes = _weight("codes", 8, dtype=torch.int32)
        small = _weight("small", 64, 64, dtype=torch.float8_e4m3fn)
        initialise_dummy([*weights, codes, small], seed)
        assert codes.target.ge(0).all()
        assert small.loaded
        assert small.target.float().std() > 0.1
        return weights

    first, again, other = make(1), make(1), make(2)
    for weight, same, different in zip(first, again, other, strict=True):
        assert weight.loaded
        assert weight.target.isfinite().all()
        assert weight.target.equal(same.target)
        assert not weight.target.equal(different.target)
    assert not first[0].target.equal(first[1].target)
    # Depth neither blows activations up nor lets them vanish.
    x = torch.randn(4, 64)
    for _ in range(20):
        x = x @ first[0].target.T
    assert 1e-3 < x.abs().mean() < 1e3
