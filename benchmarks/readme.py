"""Runs every benchmark that README.md names beside its figures, one after the other.

    make bench BENCH=readme                                     all tables: about an hour
    make bench BENCH=readme ARGS="--only threads steps --data FOLDER"
    python benchmarks/readme.py --list                          what would be run

The commands are read from README.md. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def commands(text: str, data: str | None) -> list[tuple[str, list[str]]]:
    """Name and options of every benchmark in README's indented lines, in order.

    Where they take a data FOLDER it is `data`, or that option is left out.
    """
    found = []
    for line in re.findall(r"^    (?:make bench\b|\.venv/bin/python benchmarks/).*", text, re.M):
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            given = dict(word.split("=", 1) for word in words[2:])
            name, options = given.get("BENCH", "estimators"), shlex.split(given.get("ARGS", ""))
        else:
            name, options = Path(words[1]).stem, words[2:]
        if "FOLDER" in options:
            at = options.index("FOLDER")
            options[at - 1 : at + 1] = [options[at - 1], data] if data else []
        found.append((name, options))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="FOLDER", help="data sets, where a benchmark takes some")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="benchmarks by their file's name")
    parser.add_argument("--list", action="store_true", help="print the commands, run nothing")
    arguments = parser.parse_args()
    failed = 0
    for name, options in commands((HERE.parent / "README.md").read_text(), arguments.data):
        if arguments.only and name not in arguments.only:
            continue
        print(f"\n## {shlex.join(['benchmarks/' + name + '.py', *options])}\n", flush=True)
        if not arguments.list:
            failed += subprocess.call([sys.executable, HERE / f"{name}.py", *options]) != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
