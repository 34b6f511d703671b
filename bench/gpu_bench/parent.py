"""Runs groups in processes of their own, bounds their time, and collects what they wrote, broken or not.

Never touches the device itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_bench.child import Task
from gpu_bench.groups import Group
from gpu_bench.record import PartRecord, Row
from gpu_bench.roofline import Limits

LAST_LINES = 3
"""Of a process that died, in its error."""


@dataclass(slots=True)
class Told:
    """What a process wrote.

    Attributes:
        parts: those that ended.
        begun: one that began and did not end.
        rows: of that one.
    """

    parts: list[PartRecord] = field(default_factory=list)
    begun: str = ""
    rows: list[Row] = field(default_factory=list)


def read_lines(text: str, model: str) -> Told:
    """The lines that `child.main` writes; a last one that was cut off is nothing."""
    told = Told()
    for line in text.splitlines():
        try:
            said: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            break
        if "begin" in said:
            told.begun, told.rows = said["begin"], []
        elif "row" in said:
            told.rows.append(Row.model_validate(said["row"]))
        else:
            told.parts.append(
                PartRecord(
                    part=told.begun,
                    model=model,
                    state="failed" if said["error"] else "measured",
                    error=said["error"],
                    seconds=said["seconds"],
                    rows=tuple(told.rows),
                )
            )
            told.begun, told.rows = "", []
    return told


Start = Callable[[Task], str]
"""Runs a task in a process, and says why it ended early, "" if it did not."""


def run_group(
    group: Group, *, device: str, toy: bool, limits: Limits | None, folder: Path, start: Start
) -> list[PartRecord]:
    """All parts of a group; where one takes its process with it, the others get a new one.

    Args:
        group: what to run; its seconds are for all processes together.
        device, toy, limits: see `Bench`.
        folder: for files of the processes.
        start: starts them.
    """
    found: list[PartRecord] = []
    end = time.monotonic() + group.seconds
    left = group.parts
    while left:
        file = folder / f"{group.model}-{len(found)}-{'-'.join(left)}.jsonl"
        seconds = end - time.monotonic()
        if seconds <= 0:
            return found + [_failed(part, group.model, "there was no time left", 0.0) for part in left]
        begun = time.monotonic()
        reason = start(
            Task(
                model=group.model,
                parts=left,
                seconds=seconds,
                device=device,
                toy=toy,
                limits=limits,
                file=file,
            )
        )
        told = read_lines(file.read_text() if file.exists() else "", group.model)
        found += told.parts
        if told.begun:
            taken = time.monotonic() - begun
            found.append(_failed(told.begun, group.model, reason, taken, told.rows))
        known = {one.part for one in found}
        rest = tuple(part for part in left if part not in known)
        if rest == left:  # it did not come to the first part
            taken = time.monotonic() - begun
            return found + [_failed(part, group.model, reason, taken) for part in left]
        left = rest
    return found


def _failed(part: str, model: str, error: str, seconds: float, rows: list[Row] | None = None) -> PartRecord:
    return PartRecord(
        part=part, model=model, state="failed", error=error, seconds=seconds, rows=tuple(rows or ())
    )


def start_process(script: Path) -> Start:
    """Starts `script --child TASK` in this Python."""

    def start(task: Task) -> str:
        log = task.file.with_suffix(".log")
        command = [sys.executable, str(script), "--child", task.model_dump_json()]
        with log.open("w") as output:
            try:
                done = subprocess.run(
                    command,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    # transformers would look for compiled kernels on the hub
                    env={**os.environ, "HF_HUB_OFFLINE": "1"},
                    timeout=task.seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return f"was ended after {task.seconds:.0f} s"
        if done.returncode == 0:
            return ""
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return f"its process ended with {done.returncode}: " + " | ".join(lines[-LAST_LINES:])

    return start
