"""Writes what was measured into docs/benchmarks.md: peers side by side with their plot, cost against size.

    python bench/page.py [--peers RESULTS.json] [--sizes SIZES.json] [--check]

Each part stands between two markers; the rest of the page is written by hand. With `--check` nothing is
written, and the exit status says whether the page is what would be written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from harness.markdown import page_part, replaced
from harness.plot import to_svg
from harness.record import read_report
from harness.sizes import SizeReport, sizes_text
from harness.table import tables
from quire.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
PLOT = "side-by-side.svg"


def written(page: Path, peers: Path | None, sizes: Path | None) -> dict[Path, str]:
    """Files and what is to stand in them.

    Raises:
        ConfigError, ValidationError: a file holds no results.
        ValueError: the page lacks the markers.
    """
    text, files = page.read_text(), dict[Path, str]()
    if peers is not None:
        report = read_report(peers)
        text = replaced(text, "side by side", page_part(report, PLOT))
        files[page.parent / PLOT] = to_svg(tables(report))
    if sizes is not None:
        text = replaced(
            text, "cost against size", sizes_text(SizeReport.model_validate_json(sizes.read_text()))
        )
    return {page: text, **files}


def main() -> int:
    """Write, or compare; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=Path, help="results of bench/side_by_side.py")
    parser.add_argument("--sizes", type=Path, help="results of bench/sizes.py")
    parser.add_argument("--page", type=Path, default=PAGE, help="docs/benchmarks.md unless given")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.peers is None and args.sizes is None:
        parser.error("there is nothing to write: give --peers, --sizes or both")
    try:
        files = written(args.page, args.peers, args.sizes)
    except (ConfigError, ValidationError, ValueError, OSError) as error:
        parser.error(str(error))
    if args.check:
        stale = [path.name for path, text in files.items() if not path.exists() or path.read_text() != text]
        if stale:
            print(f"Not what the results give: {', '.join(stale)}", file=sys.stderr)
        return int(bool(stale))
    for path, text in files.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
