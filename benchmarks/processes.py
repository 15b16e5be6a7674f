"""Runs parts of a benchmark in fresh processes: pinned to one thread and processor, or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

THREAD_COUNTS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "HOTLOOP_NUM_THREADS",
)


def in_fresh_process(script: str, request: dict, *, pinned: bool = True) -> dict:
    """Run ``python script --child REQUEST`` and return the JSON on its last line.

    The environment is set before the interpreter starts, since BLAS and OpenMP read it once.

    Parameters
    ----------
    script : str
        Calls :func:`serve` before anything else.
    request : dict
        What is passed to the function that is served.
    pinned : bool, default=True
        Whether the process has one thread and one processor. Otherwise nobody sets a number.

    Raises
    ------
    RuntimeError
        If the process fails; its own message is on stderr by then.
    """
    environment = {k: v for k, v in os.environ.items() if k not in THREAD_COUNTS}
    if pinned:
        environment |= dict.fromkeys(THREAD_COUNTS, "1")
    command = [sys.executable, script, "--child", json.dumps([pinned, request])]
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if answer.returncode != 0:
        raise RuntimeError(f"a benchmark process failed with exit status {answer.returncode}.")
    return json.loads(answer.stdout.splitlines()[-1])


def answers(script: str, request: dict, n: int, *, pinned: bool = True) -> list[dict]:
    """Put the same request to so many fresh processes, one after the other."""
    return [in_fresh_process(script, request, pinned=pinned) for _ in range(n)]


def serve(measure: Callable[[dict], dict]) -> None:
    """In a process that :func:`in_fresh_process` started: answer its request, and exit."""
    if sys.argv[1:2] == ["--child"]:
        pinned, request = json.loads(sys.argv[2])
        if pinned:
            _pin()
        print(json.dumps(measure(request)))
        sys.exit()


def _pin() -> None:
    """Bind this process, and what it starts, to one processor, where the system can.

    It is the last one that is allowed: the first ones serve the system's interrupts.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
