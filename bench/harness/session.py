"""A run: peers are loaded, take turns on the workloads, and leave samples. The harness's main loop.

Knows peers only as processes that answer; knows no engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from harness.peers import Peer
from harness.process import OthersMeter
from harness.record import Sample
from harness.server_process import ServerProcess, online_load
from harness.turns import Repeated, rotated
from harness.worker_process import PeerFailed, WorkerProcess
from harness.workloads import OFFLINE, WrongCount, figures, make_requests, warm_up

OTHER_IDS = 1000  # between the rounds and their repetitions: no two have the same prompts


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        workloads: by name.
        rounds: of each, except online.
        online_rounds: of that; each of `online_requests` requests, `rate` a second.
        repeated: what is done about disturbance.
        rest: seconds that each peer gets after its warm-up, to end what it does in the background.
    """

    workloads: Sequence[str]
    rounds: int
    online_rounds: int
    online_requests: int
    rate: float
    repeated: Repeated
    rest: float = 5.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures, and how much others disturbed them."""

    figures: dict[str, float]
    others: float


@dataclass(slots=True)
class Session:
    """Measures peers on one model.

    Attributes:
        say: told what happens, a line at a time.
        failures: by peer, what it could not do; such a peer is measured no further.
    """

    model: str
    plan: Plan
    say: Callable[[str], object]
    failures: dict[str, str] = field(default_factory=dict)

    def measure(self, peers: Sequence[Peer], group: int) -> Iterator[Sample]:
        """Samples of all workloads of peers that fit the memory together."""
        yield from self._start(peers, group)
        yield from self._offline(peers, group)
        yield from self._online(peers, group)

    def _start(self, peers: Sequence[Peer], group: int) -> Iterator[Sample]:
        def once(attempt: int) -> Measurement:
            begin = time.perf_counter()
            worker = WorkerProcess(peer, self.model)
            try:
                with OthersMeter(worker) as meter:
                    worker.load()
                    seconds = time.perf_counter() - begin
            finally:
                worker.end()
            return Measurement({"start_s": seconds}, meter.share)

        for round_ in range(self.plan.rounds if "start" in self.plan.workloads else 0):
            for peer in rotated(peers, round_):
                if "start" not in peer.spec.skip:
                    yield from self._sample(peer.name, "start", group, round_, once)

    def _offline(self, peers: Sequence[Peer], group: int) -> Iterator[Sample]:
        chosen = [name for name in OFFLINE if name in self.plan.workloads]
        with ExitStack() as stack:
            loaded = [self._load_worker(peer, chosen, stack) for peer in (peers if chosen else ())]
            workers = [one for one in loaded if one is not None]

            def once(attempt: int) -> Measurement:
                requests = make_requests(workload, round_ + OTHER_IDS * attempt)
                with worker.awake(), OthersMeter(worker) as meter:
                    answer = worker.run(requests)
                return Measurement(figures(workload, requests, answer), meter.share)

            for workload in chosen:
                for round_ in range(self.plan.rounds):
                    for worker in rotated(workers, round_):
                        if workload not in worker.peer.spec.skip:
                            yield from self._sample(worker.peer.name, workload, group, round_, once)

    def _online(self, peers: Sequence[Peer], group: int) -> Iterator[Sample]:
        wanted = "online" in self.plan.workloads
        with ExitStack() as stack:
            loaded = [self._load_server(peer, stack) for peer in (peers if wanted else ())]
            servers = [one for one in loaded if one is not None]

            def once(attempt: int) -> Measurement:
                seed = round_ + OTHER_IDS * attempt
                settings = online_load(self.plan.rate, self.plan.online_requests, seed)
                with server.awake(), OthersMeter(server) as meter:
                    shown = server.load(settings)
                return Measurement(shown, meter.share)

            for round_ in range(self.plan.online_rounds):
                for server in rotated(servers, round_):
                    yield from self._sample(server.peer.name, "online", group, round_, once)

    def _sample(
        self, peer: str, workload: str, group: int, round_: int, once: Callable[[int], Measurement]
    ) -> Iterator[Sample]:
        if peer in self.failures:
            return
        try:
            measured = self.plan.repeated.measure(once)
        except (PeerFailed, WrongCount) as error:
            self._failed(peer, f"{workload}: {error}")
            return
        disturbed = measured.others > self.plan.repeated.bound
        shown = ", ".join(f"{name} {value:.4g}" for name, value in measured.figures.items())
        self.say(f"{self.model} {workload} #{round_} {peer}: {shown} (others {measured.others:.1%})")
        yield Sample(
            model=self.model,
            workload=workload,
            peer=peer,
            group=group,
            round=round_,
            others=measured.others,
            disturbed=disturbed,
            figures=measured.figures,
        )

    def _load_worker(self, peer: Peer, workloads: Sequence[str], stack: ExitStack) -> WorkerProcess | None:
        if peer.name in self.failures or set(workloads) <= set(peer.spec.skip):
            return None
        worker = WorkerProcess(peer, self.model)
        stack.callback(worker.end)
        begin = time.perf_counter()
        try:
            worker.load()
            for requests in warm_up(workloads):
                worker.run(requests)
        except PeerFailed as error:
            self._failed(peer.name, str(error))
            return None
        self.say(f"{self.model} {peer.name} is ready after {time.perf_counter() - begin:.1f} s")
        time.sleep(self.plan.rest)
        worker.stop()
        return worker

    def _load_server(self, peer: Peer, stack: ExitStack) -> ServerProcess | None:
        if peer.name in self.failures or not peer.spec.server or "online" in peer.spec.skip:
            return None
        server = ServerProcess(peer, self.model)
        stack.callback(server.end)
        begin = time.perf_counter()
        try:
            server.wait()
            server.load(online_load(self.plan.rate * 4, 8, -1))
        except (PeerFailed, WrongCount) as error:
            self._failed(peer.name, str(error))
            return None
        self.say(f"{self.model} {peer.name}: its server is ready after {time.perf_counter() - begin:.1f} s")
        time.sleep(self.plan.rest)
        server.stop()
        return server

    def _failed(self, peer: str, reason: str) -> None:
        self.failures[peer] = reason
        self.say(f"{self.model} {peer} failed: {reason}")
