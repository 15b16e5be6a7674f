"""Trains hotloop's and scikit-learn's networks side by side, on the same data and seeds.

    python demo                       scikit-learn's bundled sets and one of 50,000 rows
    python demo --data DIR            and the sets of a folder with a manifest.json

Prints a table of scores and seconds, and writes a picture of loss curves and times. Both libraries
run on one thread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from threadpoolctl import threadpool_limits

import contest
import report
from contest import Result
from datasets import Source, bundled, from_folder


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder with a manifest.json")
    parser.add_argument("--rows", type=int, default=2000, help="rows of a folder's set (2000)")
    parser.add_argument("--out", type=Path, default=Path("demo.png"), help="picture (demo.png)")
    return parser.parse_args()


def run(sources: dict[str, Source], console: Console) -> list[Result]:
    """Hold every contest, with a progress display, and say how each one ended."""
    results = []
    steps = len(sources) * len(contest.WAYS) * len(contest.LIBRARIES)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        task = progress.add_task("", total=steps)
        for name, load in sources.items():
            progress.update(task, description=name)
            for result in _contests(name, load, progress, task):
                results.append(result)
                if result.error is None:
                    seconds = ", ".join(f"{k} {v:.2f} s" for k, v in result.seconds.items())
                    outcome = f"{seconds}: {result.times_faster:.1f}x"
                else:
                    outcome = f"[red]failed: {escape(result.error)}"
                console.print(f"{name}, {result.way}: {outcome}", soft_wrap=True)
    return results


def _contests(name: str, load: Source, progress: Progress, task: TaskID) -> Iterator[Result]:
    try:
        dataset = load()
    except Exception as error:  # reported like one that fails in training
        progress.advance(task, len(contest.WAYS) * len(contest.LIBRARIES))
        yield Result(name, "read", error=f"{type(error).__name__}: {error}")
        return
    for way in contest.WAYS:

        def before_each(library: str, way: str = way) -> None:
            progress.update(task, description=f"{name}, {way}, {library}")

        yield contest.hold(dataset, way, before_each)
        progress.advance(task, len(contest.LIBRARIES))


def main() -> int:
    arguments = parse_arguments()
    console = Console()
    sources = bundled()
    if arguments.data is not None:
        sources |= from_folder(arguments.data, arguments.rows)
    # BLAS with more threads waits on itself whenever anything else runs: 20 times slower was seen.
    with threadpool_limits(limits=1):
        contest.warm_up()
        results = run(sources, console)
    console.print(report.table(results))
    report.write_picture(results, arguments.out)
    total = {name: sum(r.seconds.get(name, 0.0) for r in results) for name in contest.LIBRARIES}
    console.print(" · ".join(f"{name} {seconds:.1f} s in all" for name, seconds in total.items()))
    console.print(f"loss curves and times: {arguments.out}")
    return 1 if any(result.error for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
