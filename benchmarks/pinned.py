"""Runs parts of a benchmark in fresh processes that have one thread and one processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys

THREAD_COUNTS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def in_fresh_process(script: str, request: dict) -> dict:
    """Run ``python script --child REQUEST`` and return the JSON on its last line.

    The environment is set before the interpreter starts, since BLAS and OpenMP read it once.
    The processor is the last one that is allowed: the first ones serve the system's interrupts.

    Raises
    ------
    RuntimeError
        If the process fails; its own message is on stderr by then.
    """
    environment = {**os.environ, **dict.fromkeys(THREAD_COUNTS, "1")}
    command = [sys.executable, script, "--child", json.dumps(request)]
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if answer.returncode != 0:
        raise RuntimeError(f"a benchmark process failed with exit status {answer.returncode}.")
    return json.loads(answer.stdout.splitlines()[-1])


def pin() -> None:
    """Bind this process, and what it starts, to one processor, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
