"""A fitted estimator is data: it pickles, copies and loads elsewhere, and trains on."""

import copy
import io
import multiprocessing
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris

import hotloop
from state import state_of

X, y = load_iris(return_X_y=True)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
every_class = pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
every_solver = pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])


def fitted(name, **parameters):
    parameters = {"hidden_layer_sizes": (9, 4), "max_iter": 5, "random_state": 0, **parameters}
    return getattr(hotloop, name)(**parameters).fit(X, y)


def assert_same(one, two):
    """Every attribute of two estimators is equal, bit for bit."""
    assert vars(one).keys() == vars(two).keys()
    for name, value in vars(one).items():
        assert state_of(value) == state_of(vars(two)[name]), name
    np.testing.assert_array_equal(one.predict(X), two.predict(X))


@every_solver
@every_class
def test_a_pickle_loads_in_another_process(name, solver, tmp_path):
    """The other process predicts the same bits, trains on, and sends back the same state."""
    estimator = fitted(name, solver=solver)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(estimator))
    np.savez(tmp_path / "data.npz", X=X, y=y, predictions=estimator.predict(X))
    code = (
        "import pickle, numpy as np\n"
        "data = np.load('data.npz')\n"
        "model = pickle.loads(open('model.pkl', 'rb').read())\n"
        "np.testing.assert_array_equal(model.predict(data['X']), data['predictions'])\n"
        "open('back.pkl', 'wb').write(pickle.dumps(model))\n"
        "if hasattr(model, 'partial_fit'):\n"
        "    model.partial_fit(data['X'], data['y'])\n"
        "open('trained.pkl', 'wb').write(pickle.dumps(model))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert child.returncode == 0, child.stderr
    assert_same(pickle.loads((tmp_path / "back.pkl").read_bytes()), estimator)
    if solver != "lbfgs":
        estimator.partial_fit(X, y)
    assert_same(pickle.loads((tmp_path / "trained.pkl").read_bytes()), estimator)


@every_solver
@every_class
def test_pickle_joblib_and_deepcopy_give_equal_estimators(name, solver, tmp_path):
    """Every attribute, and what it predicts."""
    estimator = fitted(name, solver=solver)
    joblib.dump(estimator, tmp_path / "model")
    for other in (
        pickle.loads(pickle.dumps(estimator)),
        pickle.loads(pickle.dumps(estimator, protocol=2)),
        joblib.load(tmp_path / "model"),
        copy.deepcopy(estimator),
    ):
        assert_same(estimator, other)


@every_class
def test_a_copy_shares_no_memory(name):
    """Training the copy on leaves the original."""
    estimator = fitted(name)
    before = state_of(estimator)
    for other in (copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))):
        other.partial_fit(X, y)
        other.coefs_[0][:] = 0
    assert state_of(estimator) == before


@every_class
def test_loading_restores_the_one_vector(name):
    """After unpickling, coefs_ and intercepts_ are writable views of one flat vector again."""
    loaded = pickle.loads(pickle.dumps(fitted(name)))
    arrays = [*loaded.coefs_, *loaded.intercepts_]
    starts = [a.__array_interface__["data"][0] for a in arrays]
    ends = [start + a.nbytes for start, a in zip(starts, arrays, strict=True)]
    assert starts[1:] == ends[:-1]
    assert all(a.flags.writeable for a in arrays)


def test_a_pickle_holds_each_array_once():
    """Weights and the optimizer's slots, nothing twice: no pointer, runner or plan."""
    sizes = {}
    for solver, copies in (("lbfgs", 1), ("sgd", 2), ("adam", 3)):
        estimator = fitted("MLPClassifier", solver=solver, hidden_layer_sizes=(500,))
        one = sum(a.nbytes for a in estimator.coefs_ + estimator.intercepts_)
        sizes[solver] = len(pickle.dumps(estimator)) / one
        assert sizes[solver] < copies + 0.25, sizes


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@every_class
def test_training_goes_on_after_a_pickle_as_if_nothing_had_happened(name, solver):
    """Four calls of partial_fit, with and without a pickle between: the same bits."""
    extra = {"classes": [0, 1, 2]} if name == "MLPClassifier" else {}
    straight = getattr(hotloop, name)(solver=solver, random_state=0)
    broken = getattr(hotloop, name)(solver=solver, random_state=0)
    for _ in range(4):
        straight.partial_fit(X, y, **extra)
        broken.partial_fit(X, y, **extra)
        broken = pickle.loads(pickle.dumps(broken))
    assert_same(straight, broken)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@every_class
def test_a_read_only_memory_map_predicts_and_trains_on(name, solver, tmp_path):
    """joblib's mmap_mode='r': predict reads it, partial_fit and warm_start copy it first."""
    estimator = fitted(name, solver=solver)
    joblib.dump(estimator, tmp_path / "model")
    before = (tmp_path / "model").read_bytes()
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    assert not mapped.coefs_[0].flags.writeable
    np.testing.assert_array_equal(mapped.predict(X), estimator.predict(X))
    mapped.partial_fit(X, y)
    estimator.partial_fit(X, y)
    np.testing.assert_array_equal(mapped.predict(X), estimator.predict(X))
    assert (tmp_path / "model").read_bytes() == before

    again = joblib.load(tmp_path / "model", mmap_mode="r").set_params(warm_start=True)
    again.fit(X, y)
    assert (tmp_path / "model").read_bytes() == before


@every_class
def test_an_estimator_goes_through_joblib_workers(name):
    """Fitted in a worker process, the same bits come back; and predict runs in threads."""
    alone = fitted(name)
    jobs = (joblib.delayed(fitted)(name) for _ in range(2))
    for other in joblib.Parallel(n_jobs=2)(jobs):
        assert_same(alone, other)
    calls = (joblib.delayed(alone.predict)(X) for _ in range(4))
    for got in joblib.Parallel(n_jobs=2, prefer="threads")(calls):
        np.testing.assert_array_equal(got, alone.predict(X))


def test_an_unfitted_estimator_pickles_too():
    """Parameters only."""
    stream = io.BytesIO()
    pickle.dump(hotloop.MLPRegressor(alpha=0.3), stream)
    stream.seek(0)
    assert pickle.load(stream).alpha == 0.3


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_both_kinds_train_as_the_parent_does(method):
    """Promise C5: after a fit here, forked and spawned children give the same bits."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{sys.platform} has no {method}")
    alone = fitted("MLPClassifier")
    with multiprocessing.get_context(method).Pool(2) as pool:
        for other in pool.map(fitted, ["MLPClassifier"] * 3):
            assert_same(alone, other)
    assert_same(alone, fitted("MLPClassifier"))
