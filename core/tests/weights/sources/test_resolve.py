"""Sources are asked in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from quire.contracts import ModelFiles, ModelRequest
from quire.errors import CheckpointError, ModelError, ModelNotFoundError
from quire.weights.sources.resolve import resolve_model

REQUEST = ModelRequest(model="m")


@dataclass
class FakeSource:
    """Knows the model, or not, or fails."""

    name: str
    knows: bool = False
    fails: ModelError | None = None
    asked: int = 0

    def resolve(self, request: ModelRequest) -> ModelFiles | None:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return ModelFiles(model=request.model, directory=Path(), source=self.name) if self.knows else None


def test_the_first_that_knows_wins() -> None:
    sources = [FakeSource("a"), FakeSource("b", knows=True), FakeSource("c", knows=True)]
    assert resolve_model(sources, REQUEST).source == "b"
    assert [source.asked for source in sources] == [1, 1, 0]


def test_nobody_knows() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'m'\. Asked: a, b\."):
        resolve_model([FakeSource("a"), FakeSource("b")], REQUEST)
    with pytest.raises(ModelNotFoundError, match="No model source is installed"):
        resolve_model([], REQUEST)


def test_not_found_is_final_and_lists_who_passed() -> None:
    last = FakeSource("c", knows=True)
    with pytest.raises(ModelNotFoundError, match=r"gone\. \(Not known to: a\.\)"):
        resolve_model([FakeSource("a"), FakeSource("b", fails=ModelNotFoundError("gone.")), last], REQUEST)
    assert last.asked == 0


def test_an_unusable_checkpoint_is_not_passed_on() -> None:
    last = FakeSource("b", knows=True)
    with pytest.raises(CheckpointError, match="broken"):
        resolve_model([FakeSource("a", fails=CheckpointError("broken")), last], REQUEST)
    assert last.asked == 0


class FakeHeaderSource(FakeSource):
    """Can also describe the model without its weights."""

    def resolve_headers(self, request: ModelRequest, directory: Path) -> ModelFiles | None:
        return ModelFiles(model=request.model, directory=directory, source=self.name)


def test_headers_are_asked_for_where_a_source_has_them(tmp_path: Path) -> None:
    sources = [FakeSource("local"), FakeHeaderSource("far", knows=True)]
    assert resolve_model(sources, REQUEST, headers_in=tmp_path).directory == tmp_path
    assert [source.asked for source in sources] == [1, 0]
    assert resolve_model(sources, REQUEST).directory == Path()
