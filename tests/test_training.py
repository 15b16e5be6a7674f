"""Training from the estimators: determinism, verbose output, weights of zero, warm starts."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy
import scipy.sparse as sp
import sklearn.neural_network
from sklearn.datasets import load_iris, make_regression
from sklearn.utils.fixes import parse_version

import hotloop
from hotloop import backends
from state import state_of

X, y = load_iris(return_X_y=True)
NAMES = ("MLPClassifier", "MLPRegressor")
every_class = pytest.mark.parametrize("name", NAMES)
every_solver = pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
stochastic = pytest.mark.parametrize("solver", ["adam", "sgd"])
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def new(name, module=hotloop, **parameters):
    parameters = {"hidden_layer_sizes": (9,), "max_iter": 8, "random_state": 0, **parameters}
    return getattr(module, name)(**parameters)


def weights(estimator):
    return [*estimator.coefs_, *estimator.intercepts_]


def assert_close(ours, theirs, tolerance=1e-9):
    for got, expected in zip(weights(ours), weights(theirs), strict=True):
        assert np.linalg.norm(got - expected) <= tolerance * np.linalg.norm(expected)


# The same seed.


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_solver
@every_class
def test_the_same_seed_gives_the_same_bits(name, solver, dtype, early_stopping):
    """Twice, and in four threads at once: the whole state."""

    def fit(_=None):
        estimator = new(name, solver=solver, early_stopping=early_stopping)
        return state_of(estimator.fit(X.astype(dtype), y))

    first = fit()
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("ignore")
        assert all(state == first for state in pool.map(fit, range(6)))


@every_class
def test_another_seed_gives_another_fit(name):
    """random_state matters; None draws from NumPy's global generator, as in scikit-learn."""
    one, two = (new(name, random_state=s).fit(X, y) for s in (0, 1))
    assert not np.array_equal(one.coefs_[0], two.coefs_[0])
    fits = []
    for _ in range(2):
        np.random.seed(3)  # noqa: NPY002
        fits.append(new(name, random_state=None).fit(X, y))
    np.testing.assert_array_equal(fits[0].coefs_[0], fits[1].coefs_[0])


@every_solver
@every_class
def test_sparse_and_dense_input_train_alike(name, solver):
    """CSR, CSC and dense: the same weights up to rounding."""
    data = np.where(X > 1.5, X, 0)
    dense = new(name, solver=solver).fit(data, y)
    for container in (sp.csr_matrix, sp.csc_matrix, sp.csr_array):
        assert_close(new(name, solver=solver).fit(container(data), y), dense, 1e-7)


@every_class
def test_unit_weights_are_no_weights(name):
    """sample_weight of ones changes no result beyond rounding."""
    plain = new(name).fit(X, y)
    weighted = new(name).fit(X, y, sample_weight=np.ones(150))
    assert_close(weighted, plain, 1e-12)


@every_class
def test_integer_weights_are_repetitions(name):
    """With one batch of all rows: a row of weight 2 counts as two rows, of weight 0 as none."""
    w = np.arange(150) % 3
    rows = np.repeat(np.arange(150), w)
    weighted = new(name, batch_size=150, shuffle=False).fit(X, y, sample_weight=w)
    repeated = new(name, batch_size=len(rows), shuffle=False).fit(X[rows], y[rows])
    assert_close(weighted, repeated)


# Batches of zero weight.


@stochastic
@every_class
def test_a_batch_of_zero_weight_is_skipped(name, solver):
    """scikit-learn divides by zero; here training goes on as if the batch were not there."""
    order = np.random.default_rng(0).permutation(150)
    data, target = X[order], y[order]
    w = np.ones(150)
    w[30:60] = 0
    how = {"solver": solver, "batch_size": 30, "shuffle": False, "max_iter": 4}
    ours = new(name, **how).fit(data, target, sample_weight=w)
    kept = w > 0
    theirs = new(name, sklearn.neural_network, **how).fit(data[kept], target[kept])
    assert_close(ours, theirs)
    np.testing.assert_allclose(np.multiply(ours.loss_curve_, 150 / 120), theirs.loss_curve_)
    assert ours.n_iter_ == theirs.n_iter_
    ours.partial_fit(data, target, sample_weight=w)
    theirs.partial_fit(data[kept], target[kept])
    assert_close(ours, theirs)


@stochastic
def test_single_rows_of_zero_weight_leave_no_trace(solver):
    """Batches of one row with zeros among the weights, shuffled: finite, and all steps counted."""
    w = np.ones(150)
    w[::3] = 0
    estimator = new("MLPRegressor", solver=solver, batch_size=1).fit(X, y, sample_weight=w)
    assert all(np.isfinite(a).all() for a in weights(estimator))
    moved = X.copy()
    moved[::3] += 1000.0
    other = new("MLPRegressor", solver=solver, batch_size=1).fit(moved, y, sample_weight=w)
    assert_close(other, estimator, 1e-12)


# What is printed.

needs_printing_in_c = pytest.mark.skipif(
    parse_version(scipy.__version__) < parse_version("1.15"),
    reason=f"L-BFGS-B of SciPy {scipy.__version__} prints from Fortran, when the process ends",
)


@pytest.mark.parametrize(
    "how",
    [
        {"solver": "adam"},
        {"solver": "adam", "early_stopping": True, "n_iter_no_change": 2, "tol": 0.1},
        {"solver": "sgd", "tol": 0.5, "n_iter_no_change": 2},
        {"solver": "sgd", "tol": 0.5, "n_iter_no_change": 1, "learning_rate": "adaptive"},
        pytest.param({"solver": "lbfgs"}, marks=needs_printing_in_c),
    ],
    ids=str,
)
@every_class
def test_verbose_prints_what_sklearn_prints(name, how, capfd):
    """The same lines, in fit and partial_fit, also those about stopping."""
    printed = []
    for module in (hotloop, sklearn.neural_network):
        estimator = new(name, module, max_iter=30, verbose=True, **how).fit(X, y)
        if how["solver"] != "lbfgs" and not how.get("early_stopping"):
            estimator.partial_fit(X, y)
        printed.append(capfd.readouterr().out)
    assert printed[0] == printed[1]


@every_class
def test_nothing_is_printed_by_default(name, capfd):
    """Neither to stdout nor to stderr, by Python or by C."""
    new(name).fit(X, y).predict(X)
    assert capfd.readouterr() == ("", "")


# Warnings.


@pytest.mark.parametrize(
    "how",
    [
        {"max_iter": 3},
        {"max_iter": 3, "batch_size": 500},
        {"max_iter": 3, "solver": "lbfgs"},
        {"max_iter": 50, "max_fun": 5, "solver": "lbfgs"},
        {"max_iter": 400, "tol": 1.0},
    ],
    ids=str,
)
@every_class
def test_warnings_are_sklearns(name, how):
    """The same categories and texts, and none where scikit-learn is silent."""
    told = []
    for module in (hotloop, sklearn.neural_network):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            new(name, module, **how).fit(X, y)
        told.append([(w.category, str(w.message)) for w in caught])
    assert told[0] == told[1]


def test_a_warning_points_at_the_callers_line():
    """Not into the library."""
    with pytest.warns(sklearn.exceptions.ConvergenceWarning) as caught:
        new("MLPClassifier", max_iter=2).fit(X, y)
    assert not caught[0].filename.endswith("train.py")


# Going on.


@pytest.mark.parametrize("learning_rate", ["constant", "invscaling", "adaptive"])
@stochastic
@every_class
def test_partial_fit_is_sklearns_call_by_call(name, solver, learning_rate):
    """Twelve calls on other rows each: weights, loss_curve_, t_ and n_iter_ after every one."""
    how = {"solver": solver, "learning_rate": learning_rate, "batch_size": 20}
    ours, theirs = (new(name, module, **how) for module in (hotloop, sklearn.neural_network))
    extra = {"classes": [0, 1, 2]} if name == "MLPClassifier" else {}
    for k in range(12):
        rows = slice(k, 150 - 3 * k)
        for estimator in (ours, theirs):
            estimator.partial_fit(X[rows], y[rows], **extra)
        assert_close(ours, theirs)
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
        assert (ours.t_, ours.n_iter_) == (theirs.t_, theirs.n_iter_)


@every_solver
@every_class
def test_warm_start_is_sklearns_fit_by_fit(name, solver):
    """Three fits, each from where the last one ended."""
    how = {"solver": solver, "warm_start": True, "max_iter": 6}
    ours, theirs = (new(name, module, **how) for module in (hotloop, sklearn.neural_network))
    for _ in range(3):
        ours.fit(X, y)
        theirs.fit(X, y)
        assert_close(ours, theirs, 1e-7)
        assert ours.n_iter_ == theirs.n_iter_
        if solver != "lbfgs":
            np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-8)


@every_class
def test_a_new_fit_forgets_the_old_one(name):
    """Without warm_start: as a fresh estimator, whatever was fitted before."""
    fresh = new(name).fit(X, y)
    used = new(name, early_stopping=True, hidden_layer_sizes=(3, 3)).fit(X[:100, :2], y[:100])
    used.set_params(early_stopping=False, hidden_layer_sizes=(9,)).fit(X, y)
    assert state_of(used) == state_of(fresh)


@every_class
def test_early_stopping_restores_the_best_weights(name):
    """predict is that of the epoch with the best validation score, as in scikit-learn."""
    how = {"early_stopping": True, "learning_rate_init": 0.05, "max_iter": 60}
    ours, theirs = (new(name, m, **how).fit(X, y) for m in (hotloop, sklearn.neural_network))
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-6)
    assert ours.best_validation_score_ == max(ours.validation_scores_)
    assert_close(ours, theirs, 1e-6)


@pytest.mark.parametrize("during", ["run", "evaluate"])
def test_an_interrupted_epoch_that_has_no_score_is_not_counted(during, monkeypatch):
    """Losses and scores stay as many, whether it was trained or scored when Ctrl-C came."""
    true, calls = getattr(backends.TableRunner, during), []

    def interrupted(*args, **kwargs):
        calls.append(during)
        result = true(*args, **kwargs)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(backends.TableRunner, during, interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        model = new("MLPClassifier", early_stopping=True).fit(X, y)
    assert len(model.loss_curve_) == len(model.validation_scores_) == model.n_iter_ == 2


@pytest.mark.parametrize("kind", ["int16", "uint8", "uint64"])
def test_a_batch_size_of_numpy_is_a_number_as_any(kind):
    """It takes no part in arithmetic of its own width."""
    sizes = 50, np.dtype(kind).type(50)
    one, other = (new("MLPClassifier", batch_size=size).fit(X, y) for size in sizes)
    np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@every_class
def test_a_warm_start_that_finds_nothing_better_keeps_the_best_weights(name, solver):
    """Over both fits; scikit-learn returns its last weights there (a listed difference)."""
    how = {"early_stopping": True, "warm_start": True, "max_iter": 60, "solver": solver}
    how["learning_rate_init"] = 0.02
    estimator = new(name, **how).fit(X, y)
    best, before = estimator.best_validation_score_, [w.copy() for w in weights(estimator)]
    n_scores = len(estimator.validation_scores_)
    wrong = np.random.default_rng(0).permutation(y)
    estimator.set_params(learning_rate_init=1e-12, max_iter=3).fit(X, wrong)
    assert max(estimator.validation_scores_[n_scores:]) < best
    for got, kept in zip(weights(estimator), before, strict=True):
        np.testing.assert_array_equal(got, kept)


@every_class
def test_a_diverged_fit_says_so_as_sklearn_does(name):
    """Weights that are not finite: a ValueError that tells what to do."""
    target = y if name == "MLPClassifier" else make_regression(150, 4, random_state=0)[1] * 1e6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="non-finite parameter weights"):
            new(name, solver="sgd", learning_rate_init=1e9, activation="identity", max_iter=50).fit(
                X * 1e12, target
            )
