"""How long Quire takes to start: the import, the help text, the list of plugins.

    python bench/startup.py [--runs N]

Each time is that of a whole fresh interpreter, the median of several runs after one that warms the
file cache; a bare interpreter is the machine's limit. Aims: import under 0.2 s, the commands under 0.5 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import quire": ["-c", "import quire"],
    "quire --help": ["-m", "quire.cli", "--help"],
    "quire plugins": ["-m", "quire.cli", "plugins"],
}
AIMS = {"import quire": 0.2, "quire --help": 0.5, "quire plugins": 0.5}


def seconds(arguments: list[str]) -> float:
    """Wall time of one fresh interpreter."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Measure in turns, so that a busy moment of the machine hits all alike, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=9, help="measured runs of each (default: 9)")
    runs = parser.parse_args().runs
    if runs < 1:
        parser.error("--runs must be at least 1")
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(runs + 1):
        for name, arguments in COMMANDS.items():
            taken = seconds(arguments)
            if run:  # the first warms the file cache
                times[name].append(taken)
    print(f"{'median of ' + str(runs):<16}{'s':>8}{'above bare':>12}{'aim':>7}")
    bare = statistics.median(times["python -c pass"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:<16}{median:>8.3f}{median - bare:>12.3f}{AIMS.get(name, ''):>7}")


if __name__ == "__main__":
    main()
