"""The choice of threads, on machines made of files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.runtime.threads import Machine, choose_threads, read_machine


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


class Box:
    """A made-up machine below a directory."""

    def __init__(self, root: Path, cores: Iterable[str], siblings: str = "core_cpus_list") -> None:
        self.sys, self.proc = root / "sys", root / "proc"
        for line in cores:
            for cpu in line.split(","):
                write(self.sys / f"devices/system/cpu/cpu{cpu}/topology/{siblings}", line)

    def groups(self, text: str) -> None:
        write(self.proc / "self/cgroup", text)

    def limit(self, file: str, text: str) -> None:
        write(self.sys / "fs/cgroup" / file, text)

    def read(self, allowed: Iterable[int]) -> Machine:
        return read_machine(self.sys, self.proc, allowed)


@pytest.mark.parametrize("siblings", ["core_cpus_list", "thread_siblings_list"])
def test_hyper_threads_share_a_core(tmp_path: Path, siblings: str) -> None:
    machine = Box(tmp_path, ["0,2", "1,3"], siblings).read(range(4))
    assert machine == Machine(cores=((0, 2), (1, 3)), installed=4, quota=None)
    chosen = choose_threads("auto", machine, {})
    assert (chosen.count, chosen.cpus) == (2, (0, 1))
    assert str(chosen) == "2 of 4 hardware threads: 2 physical cores"


def test_the_affinity_mask_counts(tmp_path: Path) -> None:
    chosen = choose_threads("auto", Box(tmp_path, ["0,2", "1,3"]).read({2, 0, 3}), {})
    assert (chosen.count, chosen.cpus) == (2, (0, 3))
    assert str(chosen) == "2 of 4 hardware threads: 2 physical cores, 3 allowed by the affinity mask"
    assert choose_threads("auto", Box(tmp_path, []).read({3}), {}).cpus == (3,)


def test_without_a_topology_every_processor_is_a_core(tmp_path: Path) -> None:
    machine = read_machine(tmp_path / "sys", tmp_path / "proc", range(3))
    assert machine == Machine(cores=((0,), (1,), (2,)), installed=3, quota=None)


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a", {"a/cpu.max": "400000 100000", "cpu.max": "200000 100000"}, 2.0),
        ("0::/host/path/not/mounted/here", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/../other", {"cpu.max": "100000 100000"}, 1.0),
        (
            "4:memory:/x\n1:cpu,cpuacct:/x\n0::/",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            3.0,
        ),
        (
            "1:cpu:/x",
            {
                "cpu/x/cpu.cfs_quota_us": "-1",
                "cpu/x/cpu.cfs_period_us": "100000",
                "cpu/cpu.cfs_quota_us": "120000",
                "cpu/cpu.cfs_period_us": "50000",
            },
            2.4,
        ),
        ("1:cpu:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, None),
        ("3:cpuset:/x", {"cpuset/x/cpu.max": "1 1"}, None),
        ("0::/a", {"a/cpu.max": "rubbish"}, None),
        ("rubbish", {"cpu.max": "1 1"}, None),
        ("", {"cpu.max": "1 1"}, None),
    ],
)
def test_the_tightest_control_group_counts(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
) -> None:
    box = Box(tmp_path, ["0"])
    box.groups(groups)
    for file, text in files.items():
        box.limit(file, text)
    assert box.read([0]).quota == quota


EIGHT = Machine(cores=tuple((core,) for core in range(8)), installed=8, quota=None)


@pytest.mark.parametrize(("quota", "count"), [(2.0, 2), (2.9, 2), (0.5, 1), (64.0, 8)])
def test_no_more_threads_than_the_quota_runs_at_a_time(quota: float, count: int) -> None:
    chosen = choose_threads("auto", Machine(EIGHT.cores, 8, quota), {})
    assert chosen.count == len(chosen.cpus) == count
    assert f"cgroup limit {quota:.1f}" in str(chosen)


@pytest.mark.parametrize(
    ("value", "count"), [("3", 3), ("5,2", 5), ("0", 8), ("", 8), ("many", 8), ("-2", 8), (" 2 ", 2)]
)
def test_openmps_variable_is_the_users_choice(value: str, count: int) -> None:
    chosen = choose_threads("auto", EIGHT, {"OMP_NUM_THREADS": value})
    assert chosen.count == count
    assert ("OMP_NUM_THREADS" in str(chosen)) == (count != 8)


def test_the_setting_wins_over_everything() -> None:
    chosen = choose_threads(12, Machine(EIGHT.cores, 8, 1.0), {"OMP_NUM_THREADS": "3"})
    assert chosen.count == 12
    assert str(chosen) == "12 of 8 hardware threads: as set by threads"


@given(
    cores=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    asked=st.one_of(st.just("auto"), st.integers(1, 30)),
)
def test_each_core_gets_one_thread_before_any_gets_two(cores: list[int], asked: int | str) -> None:
    numbers = iter(range(99))
    machine = Machine(tuple(tuple(next(numbers) for _ in range(n)) for n in cores), sum(cores), None)
    chosen = choose_threads(asked, machine, {})  # type: ignore[arg-type]  # "auto" is the only text drawn
    assert len(chosen.cpus) == chosen.count
    first = chosen.cpus[: len(cores)]
    assert len({next(c for c, core in enumerate(machine.cores) if cpu in core) for cpu in first}) == len(
        first
    )
    assert len(set(chosen.cpus)) == min(chosen.count, machine.allowed)


def test_this_machine_can_be_read() -> None:
    machine = read_machine()
    assert 1 <= len(machine.cores) <= machine.allowed <= machine.installed
