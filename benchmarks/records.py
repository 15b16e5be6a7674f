"""What the benchmarks share: options, and records of what they measured."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable
from pathlib import Path

#: Probabilities by the same weights may differ by so much.
PROBABILITY_TOLERANCE = 1e-4
#: Final losses of the same training run may differ by such a share of the least.
LOSS_TOLERANCE = 1e-3


def new_parser(description: str, processes: int = 5) -> argparse.ArgumentParser:
    """Make a parser that knows ``--processes`` and ``--json``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--processes", type=int, default=processes, help=f"fresh processes ({processes})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="append records, one a line")
    return parser


def new_record(
    case: str, implementation: str, unit: str, values: list[float], void: str | None, **more: object
) -> dict:
    """Make a record as ``compare.py`` reads it, out of a value for each process.

    Returns
    -------
    dict
        `value` is the median of `values`, None if the case is void, in which case `void` says
        why; `sigma` is the standard error of the median. `more` is added as it is.
    """
    return {
        "case": case,
        "implementation": implementation,
        "unit": unit,
        "value": None if void else statistics.median(values),
        "sigma": standard_error(values),
        "values": values,
        "void": void,
        **more,
    }


def standard_error(values: list[float]) -> float | None:
    """Standard error of the median of normal values, None for a single one."""
    if len(values) < 2:
        return None
    return 1.253 * statistics.stdev(values) / len(values) ** 0.5


def why_losses_differ(answers: list[dict]) -> str | None:
    """Say which final losses of a process differ, or None if those of each process agree.

    Parameters
    ----------
    answers : list of dict
        Of the processes; ``loss`` maps each implementation to its own.
    """
    for losses in (answer["loss"] for answer in answers):
        least = min(losses.values())
        # Not a number is no agreement, wherever it stands.
        if not all(loss - least <= LOSS_TOLERANCE * least for loss in losses.values()):
            return f"final losses differ by more than {LOSS_TOLERANCE:g} of the least: {losses}"
    return None


def why_probabilities_differ(answers: list[dict]) -> str | None:
    """Say by how much those of a process differ (``differ``), None if those of each agree."""
    for differ in (answer["differ"] for answer in answers):
        if not differ <= PROBABILITY_TOLERANCE:
            return f"probabilities differ by {differ:.1e}"
    return None


def append(file: Path | None, records: list[dict]) -> None:
    """Write records to the end of a file, if there is one."""
    if file is not None:
        with file.open("a") as lines:
            lines.writelines(json.dumps(record) + "\n" for record in records)


def table_line(cells: Iterable[object]) -> str:
    """Format a line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def three_digits(value: float) -> str:
    """Format with three digits, and without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
