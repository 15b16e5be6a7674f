"""Compares two files of benchmark records, base against head, and fails on a regression.

    python benchmarks/compare.py base.jsonl head.jsonl

Exit status 1 if a case is missing on either side (an outer join: a benchmark that vanished has
not passed), void or not a number, or if one of hotloop's is slower by more than 5 % and by more
than 3 standard errors. Times of other libraries are shown and do not count.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Verdict:
    """What the comparison says of one case."""

    key: str
    message: str
    failed: bool


def read_records(path: Path) -> dict[str, dict]:
    """Read records by case and implementation; of two with the same key the later one counts."""
    records = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return {f"{record['case']} / {record['implementation']}": record for record in records}


def compare(
    base: dict[str, dict], head: dict[str, dict], threshold: float = 0.05, sigmas: float = 3.0
) -> list[Verdict]:
    """Join the two sets of records outwards and judge each case.

    Parameters
    ----------
    base, head : dict of str to dict
        Records as :func:`read_records` gives them; smaller values are better.
    threshold : float, default=0.05
        Share of the base's value that a case may be slower by.
    sigmas : float, default=3.0
        A slower case fails only if the difference is also larger than so many standard errors.
    """
    verdicts = []
    for key in sorted(base | head):
        if key not in base or key not in head:
            side = "base" if key not in base else "head"
            verdicts.append(Verdict(key, f"missing in {side}", failed=True))
        else:
            verdicts.append(_judge(key, base[key], head[key], threshold, sigmas))
    return verdicts


def _judge(key: str, base: dict, head: dict, threshold: float, sigmas: float) -> Verdict:
    for side, record in (("base", base), ("head", head)):
        value = record["value"]
        if value is None or not math.isfinite(value) or value <= 0:
            reason = record.get("void") or value
            return Verdict(key, f"no valid time in {side}: {reason}", failed=True)
    difference = head["value"] - base["value"]
    noise = math.hypot(base["sigma"] or 0.0, head["sigma"] or 0.0)
    slower = difference > threshold * base["value"] and difference > sigmas * noise
    message = (
        f"{base['value']:.4g} -> {head['value']:.4g} {head['unit']}"
        f" ({100 * difference / base['value']:+.1f} %)"
    )
    failed = slower and head["implementation"] == "hotloop"
    return Verdict(key, message + (" SLOWER" if failed else ""), failed)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path)
    parser.add_argument("head", type=Path)
    parser.add_argument("--threshold", type=float, default=0.05, help="share slower (0.05)")
    parser.add_argument("--sigmas", type=float, default=3.0, help="standard errors (3)")
    arguments = parser.parse_args()
    verdicts = compare(
        read_records(arguments.base),
        read_records(arguments.head),
        arguments.threshold,
        arguments.sigmas,
    )
    for verdict in verdicts:
        print(f"{'FAIL' if verdict.failed else 'ok  '} {verdict.key}: {verdict.message}")
    if not verdicts:
        print("FAIL no cases on either side")
    return 1 if not verdicts or any(verdict.failed for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
