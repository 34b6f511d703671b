"""Peers: the tables, what is filled in, what is found to be missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.peers import Absent, Peer, PeerSpec, fill, places, read_specs, resolve, variable

SPEC = PeerSpec(adapter="/x/fake.py", distributions=("pip",), setup="bash bench/set_up.sh {work} fake")


@pytest.fixture
def values(tmp_path: Path) -> dict[str, str]:
    """Places under a folder, with a checkpoint that is there."""
    (tmp_path / "checkpoint").mkdir()
    return places(tmp_path, "135m", tmp_path / "checkpoint", 2)


def test_the_tables_are_sound() -> None:
    specs = read_specs()
    assert {"quire", "vllm", "openvino", "llamacpp", "transformers", "roofline"} <= set(specs)
    for spec in specs.values():
        assert Path(spec.adapter).is_file()
    for variant in {spec.variant for spec in specs.values()}:
        assert sum(spec.baseline for spec in specs.values() if spec.variant == variant) == 1


def test_everything_but_a_port_is_filled_in(values: dict[str, str]) -> None:
    known = {**values, "venv": "/venv", "model": "/model", "port": "1"}
    for spec in read_specs().values():
        texts = [spec.python, spec.model, spec.setup, *spec.files, *spec.server, *spec.env.values()]
        for text in texts:
            assert "{" not in fill(text, known)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="adaptor"):
        PeerSpec.model_validate({"adaptor": "x", "adapter": "y", "setup": "z"})


def test_a_peer_that_is_there(values: dict[str, str]) -> None:
    spec = SPEC.model_copy(
        update={"env": {"THREADS": "{threads}"}, "server": ("{python}", "{model}", "{port}")}
    )
    peer = resolve("fake", spec, values, {})
    assert isinstance(peer, Peer)
    assert peer.env["THREADS"] == "2"
    assert "pip" in peer.versions
    assert peer.spec.server == (sys.executable, values["checkpoint"], "{port}")
    assert peer.command[:2] == [sys.executable, "/x/fake.py"]


def test_what_is_missing_is_named_with_the_way_out(values: dict[str, str]) -> None:
    nowhere = resolve("fake", SPEC, values, {"fake": "/nowhere/python"})
    assert nowhere == Absent(
        "fake", "there is no /nowhere/python", f"bash bench/set_up.sh {values['work']} fake"
    )
    lacking = resolve("fake", SPEC.model_copy(update={"distributions": ("no-such",)}), values, {})
    assert isinstance(lacking, Absent)
    assert lacking.reason == f"{sys.executable} has no no-such"
    unconverted = resolve("fake", SPEC.model_copy(update={"model": "{work}/{name}.gguf"}), values, {})
    assert isinstance(unconverted, Absent)
    assert unconverted.reason.endswith("/135m.gguf")


def test_the_interpreter_can_be_named(values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable("fake-q8"), "/from/the/environment")
    absent = resolve("fake-q8", SPEC, values, {})
    assert isinstance(absent, Absent)
    assert "/from/the/environment" in absent.reason
    assert isinstance(resolve("fake-q8", SPEC, values, {"fake-q8": sys.executable}), Peer)


def test_libraries_that_are_not_there_are_not_preloaded(values: dict[str, str], tmp_path: Path) -> None:
    there = tmp_path / "libthere.so"
    there.touch()
    spec = SPEC.model_copy(update={"env": {"LD_PRELOAD": f"/no/lib.so:{there}"}})
    peer = resolve("fake", spec, values, {})
    assert isinstance(peer, Peer)
    assert peer.env["LD_PRELOAD"] == str(there)
