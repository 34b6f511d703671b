"""The process of a group: runs its parts, and writes down at once what each gives.

A kernel that reads where it must not takes the whole process's device with it, so every group has a process
of its own, and what was measured before lies in a file.
"""

from __future__ import annotations

import json
import time
import traceback
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from gpu_bench.bench import Bench
from gpu_bench.groups import Group, runners
from gpu_bench.record import Row
from gpu_bench.roofline import Limits


class Task(BaseModel):
    """What a process is to do.

    Attributes:
        model, parts, seconds: of its `Group`.
        file: where its lines go.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    parts: tuple[str, ...]
    seconds: float
    device: str
    toy: bool
    limits: Limits | None
    file: Path


def main(task: Task) -> None:
    """Run the parts. Lines of the file: a part begins, a row, a part ends with its error or without."""
    group = Group(task.model, task.parts, task.seconds)
    with task.file.open("a") as file:

        def say(**line: Any) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        def sink(row: Row) -> None:
            say(row=row.model_dump())

        bench = Bench(device=task.device, toy=task.toy, limits=task.limits, budget=0.0, sink=sink)
        with runners(group, bench) as parts:
            for name in group.parts:
                say(begin=name)
                bench.budget = group.soft_seconds(name)
                bench.begin()
                begun = time.perf_counter()
                error = ""
                try:
                    parts[name](bench)
                except Exception as caught:
                    traceback.print_exc()
                    bench.synchronize()  # raises where the device is lost: then this process is, too
                    error = f"{type(caught).__name__}: {caught}"
                say(end=name, error=error, seconds=time.perf_counter() - begun)
