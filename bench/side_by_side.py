"""Quire and other engines side by side: one table of peers and workloads, and the machine's limit.

    python bench/side_by_side.py [--peers quire,vllm] [--workloads single,ragged] [--models 135m,1b]

Each peer lives in a process and an environment of its own. Those that fit the memory together are loaded
before the first round and take turns, in another order each round, the others stopped (SIGSTOP); `roofline`,
the machine's limit, is one of them. Runs during which others took more than `--max-others` of the machine's
processor time are repeated. Peers that are not installed are listed with how to get them
(`bench/set_up.sh`). With `--json FILE` results are added to the file, row by row; `bench/page.py` writes the
documentation's page from it.

Absolute figures drift with the machine, memory bandwidth most of all: quote the ratios of one run.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import signal
import sys
import tempfile
from pathlib import Path

import psutil

from checkpoint import SHAPES, make_checkpoint
from harness.markdown import report_text
from harness.peers import Absent, Peer, PeerSpec, places, read_specs, resolve
from harness.record import PeerRecord, Report, Run, Sample, save, this_machine
from harness.session import Plan, Session
from harness.table import LIMIT
from harness.turns import Repeated, groups
from harness.workloads import WORKLOADS
from quire.errors import ConfigError

PEERS_FILE = Path(__file__).resolve().parent / "peers.toml"
ROOM = 0.8  # of the available memory that peers may take together
WEIGHT_COPIES = 3  # a peer may hold the checkpoint, a packed copy, and pages of its file


def arguments(specs: dict[str, PeerSpec]) -> argparse.ArgumentParser:
    """What can be said on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    folder = os.environ.get("BENCH_WORK") or str(Path(tempfile.gettempdir()) / "quire-bench")
    add("--peers", default=",".join(specs), help=f"of {', '.join(specs)} (all that are there)")
    add("--workloads", default=",".join(WORKLOADS), help=f"of {', '.join(WORKLOADS)} (all)")
    add("--models", default="135m", help=f"of {', '.join(SHAPES)} (135m)")
    add("--rounds", type=int, default=3, help="of each workload (3)")
    add("--online-rounds", type=int, default=2, help="of the online workload (2)")
    add("--online-requests", type=int, default=64, help="of an online round (64)")
    add("--rate", type=float, default=3.0, help="requests per second, online (3)")
    add("--threads", type=int, default=this_machine().cores, help="for peers that can be told (all cores)")
    add("--max-others", type=float, default=0.05, help="share of the processors that others may take (0.05)")
    add("--attempts", type=int, default=3, help="most measurements of a disturbed round (3)")
    add("--together", type=int, default=0, help="most peers loaded at once, quire and roofline aside")
    add("--work", type=Path, default=Path(folder), help="folder of the peers' environments; BENCH_WORK")
    add("--python", action="append", default=[], metavar="PEER=PATH", help="interpreter of a peer")
    add("--peers-file", type=Path, default=PEERS_FILE, help="tables of the peers")
    add("--json", type=Path, help="add the results to this file")
    return parser


def chosen(text: str, known: list[str], what: str) -> list[str]:
    """Names of a comma-separated list.

    Raises:
        ConfigError: one is not known.
    """
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            raise ConfigError(f"Unknown {what} {name!r}. Choose of: {', '.join(known)}.")
    return names


def split(peers: list[Peer], forms: dict[str, Path], together: int) -> list[list[Peer]]:
    """Peers in groups to be loaded at once, given the checkpoint in each form."""
    weights = {
        form: sum(path.stat().st_size for path in checkpoint.glob("*.safetensors")) / 2**30
        for form, checkpoint in forms.items()
    }
    needs = {peer.name: peer.spec.memory_gib + WEIGHT_COPIES * weights[peer.spec.form] for peer in peers}
    always = [peer.name for peer in peers if peer.spec.baseline or peer.name.startswith(LIMIT)]
    room = ROOM * psutil.virtual_memory().available / 2**30
    if together:
        needs = dict.fromkeys(needs, 1.0)
        room = float(together + len(always))
    by_name = {peer.name: peer for peer in peers}
    return [[by_name[name] for name in names] for names in groups(needs, always, room)]


def anonymous(text: str, work: Path) -> str:
    """The text without this machine's folders: results are shown to others."""
    own = {str(work.absolute()): "WORK", str(work): "WORK", sys.executable: "python"}
    for path, name in own.items():
        text = text.replace(path, name)
    return text


def say(line: str) -> None:
    """Progress, to standard error: standard output has the table alone."""
    print(line, file=sys.stderr, flush=True)


def measure(args: argparse.Namespace, specs: dict[str, PeerSpec]) -> Run:
    """Everything that was asked for."""
    names = chosen(args.peers, list(specs), "peer")
    pythons = dict(pair.split("=", 1) for pair in args.python)
    chosen(",".join(pythons), list(specs), "peer")
    plan = Plan(
        workloads=chosen(args.workloads, list(WORKLOADS), "workload"),
        rounds=args.rounds,
        online_rounds=args.online_rounds,
        online_requests=args.online_requests,
        rate=args.rate,
        repeated=Repeated(args.max_others, args.attempts),
    )
    started = datetime.datetime.now().isoformat(timespec="seconds")
    records: dict[str, PeerRecord] = {}
    samples: list[Sample] = []
    for model in chosen(args.models, list(SHAPES), "model"):
        forms = {form: make_checkpoint(model, form) for form in {specs[name].form for name in names}}
        found = [
            resolve(
                name,
                specs[name],
                places(args.work.absolute(), model, forms[specs[name].form], args.threads),
                pythons,
            )
            for name in names
        ]
        session = Session(model, plan, say)
        for one in found:
            spec = specs[one.name]
            state = {"variant": spec.variant, "baseline": spec.baseline, "holds": spec.holds}
            if isinstance(one, Absent):
                say(f"{one.name} is absent: {one.reason}. To get it: {one.setup}")
                note = anonymous(f"{one.reason}; to get it: `{one.setup}`", args.work)
                records.setdefault(one.name, PeerRecord(state="absent", note=note, **state))
            else:
                records[one.name] = PeerRecord(state="measured", versions=one.versions, **state)
        present = [one for one in found if isinstance(one, Peer)]
        try:
            for number, group in enumerate(split(present, forms, args.together)):
                for sample in session.measure(group, number):
                    samples.append(sample)  # noqa: PERF402 - what there is, is kept when this is interrupted
        except KeyboardInterrupt:
            say("Interrupted: what was measured until now is kept.")
            break
        for name, reason in session.failures.items():
            note = f"{model}, {', '.join(plan.workloads)}: {reason}"  # other runs may have it measured
            records[name] = records[name].model_copy(update={"state": "failed", "note": note})
    return Run(
        started=started,
        command=anonymous(shlex.join(sys.argv[1:]), args.work),
        python=platform.python_version(),
        threads=args.threads,
        max_others=args.max_others,
        peers=records,
        samples=tuple(samples),
    )


def peers_file(given: list[str]) -> Path:
    """The file of peers, which has the names that other arguments may take: read before them."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--peers-file", type=Path, default=PEERS_FILE)
    path: Path = first.parse_known_args(given)[0].peers_file
    return path


def main() -> None:
    """Measure, save, print the tables."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that peers are ended, and results kept
    specs = read_specs(peers_file(sys.argv[1:]))
    parser = arguments(specs)
    args = parser.parse_args()
    if any("=" not in pair for pair in args.python):
        parser.error("--python takes PEER=PATH")
    try:
        run = measure(args, specs)
        machine = this_machine()
        report = Report(machine=machine, runs=(run,))
        print(report_text(report))
        if args.json:
            save(args.json, run, machine)
    except ConfigError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
