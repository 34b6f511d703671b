"""How many threads to compute with on the CPU, and on which processors: read from the machine, as files.

One thread per physical core that this process may use, and no more than its control group's quota: a second
thread on a core shares its vector units and its caches, and threads beyond the quota are stopped in the
middle of a step, where the others wait for them. Knows no tensors; every fact can come from a directory tree
made up by a test.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Machine", "Threads", "choose_threads", "read_machine"]


@dataclass(frozen=True, slots=True)
class Machine:
    """The processors that this process may use.

    Attributes:
        cores: per physical core its hardware threads that are allowed, each in ascending order.
        installed: hardware threads of the whole machine.
        quota: processors' worth of time that the control group grants; None without a limit.
    """

    cores: tuple[tuple[int, ...], ...]
    installed: int
    quota: float | None

    @property
    def allowed(self) -> int:
        """Hardware threads that this process may use."""
        return sum(map(len, self.cores))


@dataclass(frozen=True, slots=True)
class Threads:
    """A choice.

    Attributes:
        count: compute threads.
        cpus: a hardware thread for each, for pinning; hyper-threads come after all cores have one.
        reason: what decided, in words.
    """

    count: int
    cpus: tuple[int, ...]
    reason: str

    def __str__(self) -> str:
        """The choice in one line."""
        return self.reason


def choose_threads(
    asked: int | Literal["auto"], machine: Machine, environ: Mapping[str, str] = os.environ
) -> Threads:
    """The setting if it is a number, else `OMP_NUM_THREADS` if it is set, else what suits the machine.

    Args:
        asked: the setting `threads`.
        machine: as `read_machine` gives it.
        environ: environment variables.
    """
    order = [core[i] for i in range(max(map(len, machine.cores))) for core in machine.cores if i < len(core)]
    named = _omp_threads(environ)
    if asked != "auto":
        count, why = asked, "as set by threads"
    elif named is not None:
        count, why = named, "as set by OMP_NUM_THREADS"
    else:
        count = len(machine.cores)
        facts = [_plural(count, "physical core")]
        if machine.allowed < machine.installed:
            facts.append(f"{machine.allowed} allowed by the affinity mask")
        if machine.quota is not None:
            count = max(1, min(count, math.floor(machine.quota)))
            facts.append(f"cgroup limit {machine.quota:.1f}")
        why = ", ".join(facts)
    reason = f"{count} of {_plural(machine.installed, 'hardware thread')}: {why}"
    return Threads(count, tuple(order[i % len(order)] for i in range(count)), reason)


def read_machine(
    sys: Path = Path("/sys"), proc: Path = Path("/proc"), allowed: Iterable[int] | None = None
) -> Machine:
    """Look at this machine.

    What cannot be read counts as absent: without a topology every processor is a core, without control
    groups there is no limit.

    Args:
        sys, proc: where these file systems are mounted.
        allowed: the affinity mask; this process's if None.
    """
    mask = sorted(_affinity() if allowed is None else allowed)
    cores: dict[str, list[int]] = {}
    for cpu in mask:
        cores.setdefault(_core_of(sys, cpu), []).append(cpu)
    installed = max(len(list((sys / "devices/system/cpu").glob("cpu[0-9]*"))), len(mask))
    return Machine(tuple(tuple(core) for core in cores.values()), installed, _quota(sys, proc))


def _affinity() -> Iterable[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)  # macOS and Windows have no mask to read


def _core_of(sys: Path, cpu: int) -> str:
    """Something that the hardware threads of one core have in common."""
    topology = sys / f"devices/system/cpu/cpu{cpu}/topology"
    for name in ("core_cpus_list", "thread_siblings_list"):  # the second is what kernels before 5.3 have
        if siblings := _read(topology / name):
            return siblings
    return f"cpu {cpu}"


def _quota(sys: Path, proc: Path) -> float | None:
    """The tightest limit of the control groups that this process is in, version 1 or 2.

    Inside a container the path in /proc may be the host's while only a part of the tree is mounted; the
    groups above are looked at as well, so the mount's own limit is found in either case.
    """
    limits = []
    for line in _read(proc / "self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            roots, read = ("fs/cgroup", "fs/cgroup/unified"), _quota_v2
        elif "cpu" in controllers.split(","):
            roots, read = (f"fs/cgroup/{controllers}", "fs/cgroup/cpu"), _quota_v1
        else:
            continue
        for root in roots:
            group = Path(path.lstrip("/"))
            limits += [read(sys / root / part) for part in (group, *group.parents)]
    return min((limit for limit in limits if limit is not None), default=None)


def _quota_v2(group: Path) -> float | None:
    """`cpu.max` holds "quota period" in microseconds, or "max period"."""
    return _ratio(*[*_read(group / "cpu.max").split(), "", ""][:2])


def _quota_v1(group: Path) -> float | None:
    """`cpu.cfs_quota_us` is -1 without a limit."""
    return _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    if not quota.isdigit() or not period.isdigit() or not int(quota) or not int(period):
        return None
    return int(quota) / int(period)


def _omp_threads(environ: Mapping[str, str]) -> int | None:
    """OpenMP's own variable: a number, or one per level of nesting."""
    first = environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None


def _plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
