"""Sessions on peers that answer at once, in processes of their own; and the whole harness on a tiny model."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from harness.markdown import report_text
from harness.peers import Peer, PeerSpec, places, resolve
from harness.process import OthersMeter, Process
from harness.record import Report, Run, this_machine
from harness.session import Plan, Session
from harness.turns import Repeated
from harness.worker_process import WorkerProcess
from quire.errors import ConfigError
from side_by_side import PEERS_FILE, arguments, chosen, measure, peers_file

HERE = Path(__file__).resolve().parent
FAKE = str(HERE / "fake_peer.py")
BURN = "import time; end = time.process_time() + 0.7\nwhile time.process_time() < end: pass"


def peer(name: str, tmp_path: Path, **options: Any) -> Peer:
    """A fake peer, with its server."""
    spec = PeerSpec(
        adapter=FAKE,
        baseline=name == "quire",
        options=options,
        server=(sys.executable, str(HERE / "fake_server.py"), "{port}"),
        setup="",
    )
    found = resolve(name, spec, places(tmp_path, "tiny", tmp_path, 1), {})
    assert isinstance(found, Peer)
    return found


def session(*workloads: str, max_others: float = 1.0) -> tuple[Session, list[str]]:
    """A session of two rounds, and what it says."""
    said: list[str] = []
    plan = Plan(
        workloads=workloads,
        rounds=2,
        online_rounds=1,
        online_requests=3,
        rate=100.0,
        repeated=Repeated(max_others, 2),
        rest=0.0,
    )
    return Session("tiny", plan, said.append), said


def test_peers_take_turns_in_rotated_order(tmp_path: Path) -> None:
    own, _ = session("single", "prefill")
    samples = list(own.measure([peer("quire", tmp_path), peer("rival", tmp_path)], 4))
    order = [(one.workload, one.round, one.peer) for one in samples]
    assert order == [
        ("single", 0, "quire"),
        ("single", 0, "rival"),
        ("single", 1, "rival"),
        ("single", 1, "quire"),
        ("prefill", 0, "quire"),
        ("prefill", 0, "rival"),
        ("prefill", 1, "rival"),
        ("prefill", 1, "quire"),
    ]
    assert {one.group for one in samples} == {4}
    assert samples[0].figures == pytest.approx({"decode_ms": 1.0, "ttft_ms": 1.0}, abs=0.5)


def test_start_and_online_are_measured(tmp_path: Path) -> None:
    own, _ = session("online", "start")
    samples = list(own.measure([peer("quire", tmp_path)], 0))
    assert [one.workload for one in samples] == ["start", "start", "online"]
    assert 0 < samples[0].figures["start_s"] < 30
    assert samples[2].figures["online_tok_s"] > 0
    assert own.failures == {}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("short", "asked for"),
        ("raises", "MemoryError: no room for the cache"),
        ("dies", "the process ended; its log is"),
    ],
)
def test_a_peer_that_breaks_is_left_out_and_the_others_go_on(fault: str, reason: str, tmp_path: Path) -> None:
    own, said = session("single")
    broken = peer("broken", tmp_path, fault=fault)
    samples = list(own.measure([broken, peer("quire", tmp_path)], 0))
    assert [one.peer for one in samples] == ["quire", "quire"]
    assert reason in own.failures["broken"]
    assert any("broken failed" in line for line in said)


def test_disturbed_rounds_are_marked(tmp_path: Path) -> None:
    own, _ = session("prefill", max_others=-1.0)  # a bound that nothing keeps
    samples = list(own.measure([peer("quire", tmp_path)], 0))
    assert [one.disturbed for one in samples] == [True, True]


def test_the_meter_sees_strangers_at_work(tmp_path: Path) -> None:
    worker = WorkerProcess(peer("quire", tmp_path), "tiny")
    try:
        worker.load()
        worker.stop()
        with OthersMeter(worker) as meter:
            subprocess.run([sys.executable, "-c", BURN], check=True)
    finally:
        worker.end()
    assert 0.3 / (psutil.cpu_count() or 1) < meter.share < 1.1
    assert not worker.running


def test_an_interrupted_end_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    script = f"import subprocess, sys; subprocess.Popen({sleeper}).wait()"
    process = Process("orphans", [sys.executable, "-c", script], dict(os.environ))
    child: list[psutil.Process] = []
    while not child:
        child = psutil.Process(process.pid).children()
    wait = psutil.wait_procs
    answers = iter([KeyboardInterrupt])

    def interrupted(*args: Any, **settings: Any) -> Any:
        for answer in answers:
            raise answer
        return wait(*args, **settings)

    monkeypatch.setattr(psutil, "wait_procs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        process.end()
    assert not process.running
    assert not child[0].is_running()


def test_unknown_names_are_refused() -> None:
    assert chosen("a,b", ["a", "b", "c"], "peer") == ["a", "b"]
    with pytest.raises(ConfigError, match=r"Unknown peer 'd'\. Choose of: a, b, c"):
        chosen("a,d", ["a", "b", "c"], "peer")


def test_the_file_of_peers_is_no_abbreviation() -> None:
    assert peers_file(["--peers", "quire", "--rounds", "1"]) == PEERS_FILE
    assert peers_file(["--peers", "quire", "--peers-file", "own.toml"]) == Path("own.toml")


@pytest.mark.slow
def test_the_whole_harness_on_a_tiny_model(tmp_path: Path) -> None:
    specs = {
        "quire": PeerSpec(
            adapter=str(HERE.parent.parent / "bench" / "harness" / "adapters" / "quire_llm.py"),
            baseline=True,
            distributions=("quire",),
            setup="",
        ),
        "fake": PeerSpec(adapter=FAKE, setup=""),
        "gone": PeerSpec(adapter=FAKE, distributions=("no-such",), setup="pip install no-such"),
    }
    args: argparse.Namespace = arguments(specs).parse_args(
        ["--models", "tiny", "--workloads", "single,prefix", "--rounds", "1", "--max-others", "1"]
    )
    threads = torch.get_num_threads()
    run: Run = measure(args, specs)
    assert torch.get_num_threads() == threads  # nothing ran in this process
    assert {(one.workload, one.peer) for one in run.samples} == {
        (workload, name) for workload in ("single", "prefix") for name in ("quire", "fake")
    }
    assert run.peers["gone"].state == "absent"
    text = report_text(Report(machine=this_machine(), runs=(run,)))
    assert "quire / best peer" in text
    assert "`pip install no-such`" in text
