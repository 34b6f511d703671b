"""What processes do while nobody asks anything of them: how often they wake, and what that takes.

On a virtual machine whose memory has gone cold a mere wake-up may take milliseconds, where it is microseconds
elsewhere. So a bare process wakes once a second beside those that are watched, and tells what one costs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_BARE = "import time; print(flush=True)\nwhile True: time.sleep(1)"


@dataclass(frozen=True, slots=True)
class Idleness:
    """Of some processes together.

    Attributes:
        seconds: they were watched for.
        wakes: times that one of their threads was given the processor after it had waited.
        processor: seconds of processor time that they took.
        bare: those of one wake-up of a process that does nothing else.
    """

    seconds: float
    wakes: int
    processor: float
    bare: float

    @property
    def share(self) -> float:
        """Of a processor, that they took beyond what their wake-ups would have cost anybody twice over."""
        return (self.processor - 2 * self.bare * self.wakes) / self.seconds


def at_rest(processes: Sequence[psutil.Process], share: float, within: float = 40.0) -> Idleness:
    """How they rest, once they take less than `share` of a processor, or when the time is up.

    An engine that has just started has its cache filled in while it rests, at the lowest priority.
    """
    end = time.monotonic() + within
    while (idleness := watch(processes, 3.0)).share >= share and time.monotonic() < end:
        pass
    return idleness


def watch(processes: Sequence[psutil.Process], seconds: float) -> Idleness:
    """Look on for so long."""
    with subprocess.Popen([sys.executable, "-c", _BARE], stdout=subprocess.PIPE) as bare:
        assert bare.stdout is not None
        bare.stdout.readline()
        each = [*processes, psutil.Process(bare.pid)]
        before, start = [_tasks(one) for one in each], time.monotonic()
        time.sleep(seconds)
        took = [_since(one, then) for one, then in zip(each, before, strict=True)]
        passed = time.monotonic() - start
        bare.kill()
    (bare_time, bare_wakes), watched = took.pop(), took
    return Idleness(
        seconds=passed,
        wakes=sum(wakes for _, wakes in watched),
        processor=sum(processor for processor, _ in watched),
        bare=bare_time / max(1, bare_wakes),
    )


def _since(process: psutil.Process, before: dict[str, tuple[float, int]]) -> tuple[float, int]:
    """Seconds of processor time, and wake-ups, of the threads that there are by now."""
    nothing = (0.0, 0)
    gone = [(now, before.get(task, nothing)) for task, now in _tasks(process).items()]
    return sum(now[0] - then[0] for now, then in gone), sum(now[1] - then[1] for now, then in gone)


def _tasks(process: psutil.Process) -> dict[str, tuple[float, int]]:
    """The same of each thread since it began, by the scheduler's account, which is finer than the usual."""
    found = {}
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        try:
            times, status = (task / "schedstat").read_text(), (task / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        wakes = status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]
        found[task.name] = int(times.split()[0]) / 1e9, int(wakes)
    return found
