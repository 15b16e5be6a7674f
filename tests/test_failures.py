"""A failed or interrupted fit: the old state whole, or the last whole step, as promised."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import load_iris

import hotloop
from hotloop import backends, train
from state import state_of

X, y = load_iris(return_X_y=True)
NAMES = ("MLPClassifier", "MLPRegressor")
every_class = pytest.mark.parametrize("name", NAMES)
stochastic = pytest.mark.parametrize("solver", ["adam", "sgd"])
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def new(name, **parameters):
    parameters = {"hidden_layer_sizes": (9,), "max_iter": 8, "random_state": 0, **parameters}
    return getattr(hotloop, name)(**parameters)


def tampered():
    matrix = sp.csr_matrix(X)
    matrix.indices[3] = 99
    return matrix


FAILURES = {
    "NaN in X": lambda e: e.fit(np.where(X > 5, np.nan, X), y),
    "other lengths": lambda e: e.fit(X, y[:-1]),
    "no rows": lambda e: e.fit(X[:0], y[:0]),
    "strings": lambda e: e.fit(np.full((3, 2), "a"), [0, 1, 0]),
    "negative weights": lambda e: e.fit(X[:, :2], y, sample_weight=np.r_[-1.0, np.ones(149)]),
    "weights of zero": lambda e: e.fit(X[:, :2], y, sample_weight=np.zeros(150)),
    "bad parameter": lambda e: e.set_params(alpha=-1).fit(X[:, :2], y),
    "absurd size": lambda e: e.set_params(hidden_layer_sizes=(10**9,)).fit(X[:, :2], y),
    "malformed CSR": lambda e: e.fit(tampered(), y),
    "too few to validate": lambda e: e.set_params(early_stopping=True).fit(X[:4, :2], [0, 1, 0, 1]),
    "other columns in partial_fit": lambda e: e.partial_fit(X[:, :2], y),
    "NaN in partial_fit": lambda e: e.partial_fit(np.where(X > 5, np.nan, X), y),
    "diverged": lambda e: e.set_params(
        solver="sgd", learning_rate_init=1e9, activation="identity"
    ).fit(X[:, :2] * 1e150, y),
    "bfloat16 by L-BFGS": lambda e: e.set_params(precision="bfloat16", solver="lbfgs").fit(X, y),
    "early stopping in partial_fit": lambda e: e.set_params(early_stopping=True).partial_fit(X, y),
    "warm start on other columns": lambda e: e.set_params(warm_start=True).fit(X[:, :2], y),
    "warm start with another size": lambda e: e.set_params(
        warm_start=True, hidden_layer_sizes=(5,)
    ).fit(X, y),
}


def attributes(estimator):
    """Everything but the parameters, which a failing call may have set before."""
    parameters = estimator.get_params()
    return state_of({k: v for k, v in vars(estimator).items() if k not in parameters})


@pytest.mark.parametrize("failure", FAILURES)
@every_class
def test_a_failed_fit_leaves_every_attribute_as_it_was(name, failure):
    """Fitted before: the old state whole, bit for bit. Not fitted: still not fitted."""
    estimator = new(name).fit(X, y)
    before = attributes(estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((ValueError, MemoryError, NotImplementedError)):
            FAILURES[failure](estimator)
    assert attributes(estimator) == before
    estimator.set_params(precision="auto", activation="relu").predict(X)

    unfitted = new(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            FAILURES[failure](unfitted)
        except (ValueError, MemoryError, NotImplementedError):
            assert not [a for a in vars(unfitted) if a.endswith("_")]


@every_class
def test_classes_of_a_failed_partial_fit_are_forgotten(name):
    """A first partial_fit that fails does not decide what the next one may be given."""
    estimator = new(name)
    extra = {"classes": [0, 1]} if name == "MLPClassifier" else {}
    with pytest.raises(ValueError, match="NaN"):
        estimator.partial_fit(np.full((2, 3), np.nan), [0, 1], **extra)
    extra = {"classes": ["a", "b"]} if name == "MLPClassifier" else {}
    labels = np.array(["a", "b"])[y[:100] % 2] if name == "MLPClassifier" else y[:100]
    estimator.partial_fit(X[:100], labels, **extra)


# Interrupts.


@pytest.fixture
def interrupt_gradients(monkeypatch):
    """L-BFGS' third evaluation of the loss is interrupted."""
    calls = []
    original = backends.TableRunner.gradients

    def gradients(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(backends.TableRunner, "gradients", gradients)


@every_class
def test_an_interrupted_lbfgs_raises_and_keeps_the_old_state(name, interrupt_gradients):
    """KeyboardInterrupt comes out of fit; every attribute is as before."""
    estimator = new(name, solver="adam").fit(X, y)
    before = attributes(estimator)
    with pytest.raises(KeyboardInterrupt):
        estimator.set_params(solver="lbfgs").fit(X, y)
    assert attributes(estimator) == before


def interrupt_after(monkeypatch, n_calls):
    """The n-th call into the runner does its epoch and is then interrupted."""
    calls = []
    original = backends.TableRunner.run

    def run(self, *args, **kwargs):
        calls.append(1)
        result = original(self, *args, **kwargs)
        if len(calls) == n_calls:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(backends.TableRunner, "run", run)
    monkeypatch.setattr(train.EpochLoop, "_epochs_a_call", lambda self: 1)


@stochastic
@every_class
def test_an_interrupted_epoch_loop_warns_and_keeps_what_was_learnt(name, solver, monkeypatch):
    """As scikit-learn: a warning, the last whole step adopted, and training can go on."""
    straight = new(name, solver=solver, max_iter=3).fit(X, y)
    interrupt_after(monkeypatch, 3)
    estimator = new(name, solver=solver, max_iter=50)
    with pytest.warns(UserWarning, match="interrupted by user"):
        assert estimator.fit(X, y) is estimator
    assert attributes(estimator) == attributes(straight)
    assert np.isfinite(estimator.predict(X)).all()
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 3
    estimator.partial_fit(X, y)
    assert len(estimator.loss_curve_) == 4


CTRL_C = textwrap.dedent(
    """
    import os, signal, sys, threading, time, warnings
    import numpy as np
    import hotloop
    name, solver, units = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, units)).astype(np.float32)
    y = rng.integers(3, size=3000)
    estimator = getattr(hotloop, name)(
        hidden_layer_sizes=(units, units), solver=solver, max_iter=100_000, tol=0.0,
        n_iter_no_change=10**6, random_state=0, max_fun=10**9,
    )
    sent = []
    def interrupt():
        time.sleep(0.4)
        sent.append(time.perf_counter())
        signal.raise_signal(signal.SIGINT)
    threading.Thread(target=interrupt, daemon=True).start()
    raised = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(X, y)
        except KeyboardInterrupt:
            raised = True
    waited = time.perf_counter() - sent[0]
    if solver == "lbfgs":
        assert raised and not hasattr(estimator, "coefs_")
    else:
        assert not raised
        assert any("interrupted by user" in str(w.message) for w in caught)
        assert all(np.isfinite(c).all() for c in estimator.coefs_)
        assert estimator.predict(X).shape == (3000,)
        estimator.set_params(max_iter=1).partial_fit(X, y)
    print(waited)
    """
)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent in another way there")
@pytest.mark.parametrize("units", [30, 400])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_ctrl_c_answers_soon_and_leaves_a_usable_estimator(solver, units):
    """Promise C6, with small steps and large: within 100 ms (a busy machine gets 400)."""
    waits_s = []
    for _ in range(3):
        child = subprocess.run(
            [sys.executable, "-c", CTRL_C, "MLPClassifier", solver, str(units)],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert child.returncode == 0, child.stderr
        waits_s.append(float(child.stdout))
        if waits_s[-1] < 0.1:
            return
    assert min(waits_s) < 0.4, f"answered after {waits_s} s"


def test_an_interrupt_in_a_thread_that_does_not_train_is_left_to_it():
    """A fit in a worker thread ends normally; the main thread gets its own KeyboardInterrupt."""
    done = []
    worker = threading.Thread(
        target=lambda: done.append(new("MLPRegressor", max_iter=400, tol=0.0).fit(X, y))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        worker.start()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        worker.join()
    assert done
    assert done[0].n_iter_ == 400
