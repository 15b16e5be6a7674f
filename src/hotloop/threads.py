"""How many threads a fit or a prediction may use, from `n_jobs` and what the machine allows."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from multiprocessing import current_process
from numbers import Integral
from typing import Any, NamedTuple

import joblib

#: What the pool of the kernels has room for.
MOST_THREADS = 256


class Threads(NamedTuple):
    """Attributes
    ----------
    wanted : int
        Threads to share the work, the caller's own counted in.
    limit : int
        Threads that may work in the whole process at a time; no matter where one is wanted.
    """

    wanted: int
    limit: int


def thread_count(n_jobs: Any) -> Threads:
    """Resolve `n_jobs`.

    Parameters
    ----------
    n_jobs : int or None
        A positive number is capped by the processors this process may use (affinity, cgroup
        quota). None and -1 mean all of these, or fewer if OMP_NUM_THREADS says so, which joblib
        sets in its workers, and one in a daemonic process (of a multiprocessing.Pool, which
        has as many as there are processors); -2 means all but one, and so on.
        HOTLOOP_NUM_THREADS stands in for all these caps.

    Returns
    -------
    Threads

    Raises
    ------
    ValueError
        If `n_jobs` or HOTLOOP_NUM_THREADS is no such number.
    """
    check_n_jobs(n_jobs)
    number: int | None = None if n_jobs is None else int(n_jobs)
    if number == 1:  # the commonest, and not worth asking the system for
        return Threads(1, 1)
    forced = _variable("HOTLOOP_NUM_THREADS")
    limit = min(forced or _processors(), MOST_THREADS)
    if number is not None and number > 0:
        return Threads(min(number, limit), limit)
    allowed = limit
    if not forced:
        allowed = min(limit, _variable("OMP_NUM_THREADS") or limit)
        allowed = 1 if current_process().daemon else allowed
    return Threads(max(1, allowed + 1 + number) if number else allowed, limit)


def check_n_jobs(n_jobs: Any) -> None:
    """Refuse what :func:`thread_count` would, without asking how many threads there are."""
    if n_jobs is not None and (
        isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral) or n_jobs == 0
    ):
        raise ValueError(f"n_jobs must be None or an int other than 0, got {n_jobs!r}.")


def _processors() -> int:
    """Processors that this process may use, as joblib counts them; for a cgroup's quota it reads
    files, so it is asked again only after the affinity or the environment has changed.
    """
    affinity = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return _counted(joblib.cpu_count, os.environ.get("LOKY_MAX_CPU_COUNT"), affinity)


@lru_cache(maxsize=1)
def _counted(count: Callable[[], int], *_seen: Any) -> int:
    return count()


def _variable(name: str) -> int | None:
    """A number of threads from the environment; OpenMP's may be a list by level of nesting."""
    text = os.environ.get(name, "").split(",")[0].strip()
    if not text:
        return None
    if not text.isdecimal() or len(text) > 9 or int(text) == 0:
        if name == "OMP_NUM_THREADS":  # OpenMP's own programs ignore what they cannot read, too
            return None
        raise ValueError(
            f"{name} must be a positive number of threads, got {os.environ[name]!r}; set it to one"
            " or unset it."
        )
    return int(text)
