"""What a run leaves behind, as JSON: the machine, versions, every sample. And how a later run is added to it.

Knows the file's form; knows neither how it is measured nor how it is shown.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quire.errors import ConfigError

NOTABLE_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
    "bf16",
)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(_Record):
    """Where it was measured.

    Attributes:
        processor: its name.
        cores: that the process may use.
        instructions: those of its instruction sets that matter here.
        memory_gib: of the machine.
    """

    processor: str
    cores: int
    instructions: tuple[str, ...]
    memory_gib: float


class PeerRecord(_Record):
    """A peer in a run.

    Attributes:
        holds: how it keeps the weights; empty where the variant says it all.
        state: "absent" could not be started here, "failed" was started and broke.
        note: why it is absent or failed, and how to get it.
    """

    variant: str
    baseline: bool
    state: Literal["measured", "absent", "failed"]
    versions: dict[str, str] = Field(default_factory=dict)
    holds: str = ""
    note: str = ""


class Sample(_Record):
    """One round of one workload on one peer.

    Attributes:
        group: peers of one group were loaded at the same time and took turns.
        others: share of the machine's processor time that went to others meanwhile, 0 to 1.
        disturbed: that share was above the bound, and so it was in all repetitions.
    """

    model: str
    workload: str
    peer: str
    group: int
    round: int
    others: float
    disturbed: bool
    figures: dict[str, float]


class Run(_Record):
    """One call of the harness.

    Attributes:
        started: local date and time, ISO 8601.
        command: arguments it was called with.
        max_others: bound of `Sample.others`.
    """

    started: str
    command: str
    python: str
    threads: int
    max_others: float
    peers: dict[str, PeerRecord]
    samples: tuple[Sample, ...]


class Report(_Record):
    """A file of results: runs on one machine, no model and workload of a variant in more than one of them."""

    format: Literal[1] = 1
    machine: Machine
    runs: tuple[Run, ...]

    def added(self, run: Run) -> Report:
        """With a run, whose rows take the place of the same rows in earlier ones.

        A row is a model, a workload and a variant. Ratios are made within a row, and what was measured at
        another time cannot be compared.
        """
        fresh = {_row(run, sample) for sample in run.samples}
        kept = []
        for old in self.runs:
            samples = tuple(one for one in old.samples if _row(old, one) not in fresh)
            if samples:
                kept.append(old.model_copy(update={"samples": samples}))
        return self.model_copy(update={"runs": (*kept, run)})


def _row(run: Run, sample: Sample) -> tuple[str, str, str]:
    return sample.model, sample.workload, run.peers[sample.peer].variant


def this_machine() -> Machine:
    """The machine this runs on."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    if (info := Path("/proc/cpuinfo")).exists():
        for line in info.read_text().splitlines():
            key, _, text = line.partition(":")
            if key.strip() == "model name":
                name = text.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(text.split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return Machine(
        processor=name,
        cores=cores,
        instructions=tuple(one for one in NOTABLE_FLAGS if one in flags),
        memory_gib=memory,
    )


def read_report(path: Path) -> Report:
    """The results in a file.

    Raises:
        ConfigError: it holds none, or such of another format.
    """
    try:
        return Report.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path} holds no results that this version reads: {error}") from None


def save(path: Path, run: Run, machine: Machine) -> Report:
    """Add a run to the file, which is made if it is not there.

    Raises:
        ConfigError: the file is of another machine, or no results.
    """
    report = Report(machine=machine, runs=())
    if path.exists():
        report = read_report(path)
        if report.machine != machine:
            raise ConfigError(
                f"{path} was measured on another machine ({report.machine}); name another file."
            )
    report = report.added(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report.model_dump_json(indent=1) + "\n")
    return report
