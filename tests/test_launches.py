"""Launches of the CUDA backend that many models share: what each may take for its own.

On a GPU, or in numba's simulator (``NUMBA_ENABLE_CUDASIM=1``, as ``make test`` has it).
"""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import make_regression

import test_custom as custom
from hotloop import MLPRegressor, fit_many, plan, spec
from stacks import build, train
from state import state_of
from test_cuda import (
    REASON,
    iris,
    pytestmark,
    several,
    simulated_threads_take_turns_often,
    stack_of,
)

if REASON is None:
    from test_cuda import numba_cuda

__all__ = ["pytestmark", "simulated_threads_take_turns_often"]


def test_large_models_at_once_have_the_grid_one_after_another(monkeypatch):
    """A block each would leave most of a device idle; bits do not depend on it."""
    sizes = {}
    for name, width, rows in (("small", 32, 64), ("large", 512, 4096)):
        layers = spec.Dense(width, "relu"), spec.Dense(width, "relu"), spec.Dense(10)
        compiled = plan.compile_training(
            spec.Network((width,), layers, spec.LOSSES["log_loss"]), dtype=np.float32,
            batch_size=rows, optimizer=spec.Adam(), backend="cuda",
        )  # fmt: skip
        table = numba_cuda.table_of(compiled.ops, compiled, 0)[0]
        sizes[name] = table, rows, compiled.store_bytes
    for n in (2, 10):
        for name, (table, rows, n_bytes) in sizes.items():
            assert numba_cuda.in_blocks(table, n, rows, n_bytes) == (name == "small")
    X, y = iris()
    alone = [model.set_params(max_iter=2).fit(X, y) for model in several()[:2]]
    monkeypatch.setattr(numba_cuda, "in_blocks", lambda *sizes: False)
    kernels, start = set(), numba_cuda._start
    monkeypatch.setattr(
        numba_cuda, "_start", lambda k, *rest: kernels.add(k.__name__) or start(k, *rest)
    )
    together = fit_many([model.set_params(max_iter=2) for model in several()[:2]], X, y)
    assert kernels == {"run_grid"}
    assert state_of([m.coefs_ for m in alone]) == state_of([m.coefs_ for m in together])


def test_functions_of_one_model_are_not_those_of_another():
    """Whose plans are the same but for what the numbers of functions stand for."""
    X, y = make_regression(12, 3, random_state=0)

    def models():
        how = {"hidden_layer_sizes": 3, "max_iter": 2, "random_state": 0, "device": "cuda"}
        pairs = (custom.silu, custom.silu_slope), (custom.wave, custom.wave_slope)
        return [MLPRegressor(activation=pair, **how) for pair in pairs]

    alone = [model.fit(X, y).coefs_ for model in models()]
    assert state_of(alone[0]) != state_of(alone[1])
    assert state_of([m.coefs_ for m in fit_many(models(), X, y)]) == state_of(alone)


def test_who_joins_later_may_have_more_rows():
    """Than those that have run, in memory that they share."""
    meeting = numba_cuda.Meeting(2)
    with meeting.member():
        pass  # one is gone: the other need not wait
    stack = stack_of((5, 3, 2), ("relu",), n=6, sparse=True)
    problems = [build(stack), build(replace(stack, n=24))]
    alone = [train(problem, "adam", 6) for problem in problems]
    with meeting.member():
        together = [train(problem, "adam", 6) for problem in problems]
    assert len(meeting._pools) == 1
    assert state_of(alone) == state_of(together)


def test_matrices_that_share_a_part_are_told_apart():
    """An array is uploaded once, whoever has it, and never for another one."""
    values, starts = np.ones(4), np.array([0, 2, 4])
    one, two = (
        SimpleNamespace(data=values, indices=np.int32(columns), indptr=starts, shape=(2, 3))
        for columns in ([0, 1, 0, 1], [1, 2, 1, 2])
    )
    y = np.zeros(2)
    places = numba_cuda.Uploads("f8", [{"X": X, "y": y} for X in (one, two, one)]).places
    assert places[0] == places[2]
    same = [name for name in places[0] if places[0][name] == places[1][name]]
    assert same == ["targets"]
    square = np.arange(9.0).reshape(3, 3)
    uploads = numba_cuda.Uploads("f8", [{"X": square}, {"X": square.T}, {"X": square[:]}])
    assert [place["X"] for place in uploads.places] == [0, 9, 0]


def test_an_interrupt_of_many_is_answered_between_launches(monkeypatch):
    """By all of them, whoever launches; what was done counts."""
    meetings, launches, whole = [], [], numba_cuda.launch

    class Meeting(numba_cuda.Meeting):
        def __init__(self, n):
            super().__init__(n)
            meetings.append(self)

    def launch(*args):
        launches.append(1)
        if len(launches) == 4:
            interrupts = threading.Thread(target=meetings[0].interrupt)
            interrupts.start()
            interrupts.join(timeout=1)  # it waits for us in its turn
        return whole(*args)

    monkeypatch.setattr(numba_cuda, "Meeting", Meeting)
    monkeypatch.setattr(numba_cuda, "launch", launch)
    monkeypatch.setattr(numba_cuda, "next_most", lambda most, *rest: 1)
    X, y = iris()
    with pytest.warns(UserWarning, match="interrupted"):
        models = fit_many([m.set_params(max_iter=40) for m in several()[:2]], X, y)
    assert len(launches) == 4
    assert [model._optimizer.step for model in models] == [3, 3]  # and the end of an epoch


def test_threads_that_cannot_all_start_leave_none_waiting(monkeypatch):
    X, y = iris()
    before, start = threading.active_count(), threading.Thread.start

    def refuse(thread):
        if thread._target is not None and thread._args == (2,):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)

    def fit():
        with pytest.raises(RuntimeError, match="can't start"):
            fit_many(several()[:3], X, y)
        deadline = time.monotonic() + 30
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.01)

    with pytest.warns(UserWarning, match="interrupted"):
        fit()
    assert threading.active_count() == before


@pytest.mark.parametrize("kind", ["CUkernel", "CUfunction"])
def test_shared_memory_is_asked_for_where_it_takes_asking(kind, monkeypatch):
    """Also what is little enough but for what a block has of its own; by either sort of handle."""
    asked, refused = [], []

    class Driver:
        def cuKernelSetAttribute(self, attribute, n_bytes, kernel, device):
            asked.append(("CUkernel", attribute, n_bytes, kernel.value, device))
            return len(refused)

        def cuFuncSetAttribute(self, function, attribute, n_bytes):
            asked.append(("CUfunction", attribute, n_bytes, function.value, 5))
            return len(refused)

    handle = type(kind, (), {"__int__": lambda self: 77})()
    function = SimpleNamespace(handle=handle, device=SimpleNamespace(id=5))
    library = SimpleNamespace(get_cufunc=lambda: function)
    kernel = SimpleNamespace(compile=lambda types: SimpleNamespace(_codelibrary=library))
    monkeypatch.setattr(numba_cuda, "SIMULATED", False)
    monkeypatch.setattr(numba_cuda.ctypes, "CDLL", lambda name: Driver())
    assert numba_cuda._granted(kernel, (), 28 * 1024) == 28 * 1024
    assert not asked
    assert numba_cuda._granted(kernel, (), 40_000) == 40_000
    assert asked == [(kind, 8, 40_000, 77, 5)]
    refused.append(1)
    assert numba_cuda._granted(kernel, (), 60_000) == 0
