"""Promise C10: importing hotloop changes nothing in the process."""

import subprocess
import sys
import textwrap

CODE = """
    import ctypes, os, random, signal, sys, threading, warnings
    import numpy as np
    import sklearn.neural_network

    def state():
        tasks = "/proc/self/task"
        tiny = np.array([1e-40], np.float32)  # would be taken for zero in another mode
        return {
            "denormals": (tiny * np.float32(0.5)).tobytes(),
            "rounding": (np.float64(1) / 3).tobytes(),
            "signals": [signal.getsignal(s) for s in sorted(signal.valid_signals())],
            "environment": dict(os.environ),
            "random": random.getstate(),
            "numpy.random": np.random.get_state()[1].tobytes(),
            "np.errstate": np.geterr(),
            "threads": len(os.listdir(tasks)) if os.path.isdir(tasks) else threading.active_count(),
            "warning filters": list(warnings.filters),
            "recursion limit": sys.getrecursionlimit(),
        }

    before = state()
    import hotloop
    after = state()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, changed

    # and a fit leaves the mode that it computes in
    hotloop.MLPRegressor(max_iter=2).fit(np.eye(9), np.arange(9.0))
    assert state()["denormals"] == before["denormals"]
"""


def test_importing_changes_no_process_state():
    """Mode of the processor, signals, environment, random states, threads, warnings."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(CODE)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
