"""Validation rows of one's own, scorers, time budgets, and callbacks of our own."""

import copy
import pickle
import sys
import time
import types
import warnings
from itertools import pairwise

import joblib
import numpy as np
import pytest
import scipy.sparse
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss, make_scorer, mean_absolute_error
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

import hotloop
import oracle
from bounds import assert_within
from hotloop import MLPClassifier, MLPRegressor, backends, compat, plan
from stacks import LOSSES, Stack, build, evaluate, oracle_predict
from state import state_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
needs_callbacks = pytest.mark.skipif(
    not compat.HAS_CALLBACKS, reason=f"scikit-learn {sklearn.__version__} has no callbacks"
)
IRIS, SPECIES = load_iris(return_X_y=True)
IRIS = (IRIS - IRIS.mean(axis=0)) / IRIS.std(axis=0)
#: Rows to learn from, and every third to validate by.
TRAIN, HELD = np.arange(150) % 3 > 0, np.arange(150) % 3 == 0
#: Targets for each loss.
TARGETS = {
    "log_loss": SPECIES,
    "binary_log_loss": SPECIES == 1,
    "multilabel": np.stack([SPECIES == 0, SPECIES > 0, IRIS[:, 0] > 0], axis=1).astype(int),
    "squared_error": IRIS @ [1.0, 0.5, -1.0, 0.2],
    "outputs": IRIS[:, :3] * 2,
    "poisson": np.exp(IRIS[:, 0]).round(1),
}


def new(target="log_loss", **parameters):
    parameters = {"hidden_layer_sizes": (9, 5), "random_state": 0, "max_iter": 4, **parameters}
    if target in ("log_loss", "binary_log_loss", "multilabel"):
        return MLPClassifier(**parameters)
    return MLPRegressor(**parameters, loss="poisson" if target == "poisson" else "squared_error")


def fit(estimator, y=SPECIES, X=IRIS, **more):
    """Fitted to some rows, watched on others."""
    return estimator.fit(X[TRAIN], y[TRAIN], X_val=X[HELD], y_val=y[HELD], **more)


def attributes(estimator, *, but=()):
    """Fitted attributes, all but some."""
    return {k: state_of(v) for k, v in vars(estimator).items() if k not in but}


def oracle_loss(estimator, target, X, y, sample_weight=None):
    """The validation loss by plain NumPy."""
    name = {"multilabel": "binary_log_loss", "outputs": "squared_error"}.get(target, target)
    weights, biases = (
        [a.astype(np.float64) for a in arrays]
        for arrays in (estimator.coefs_, estimator.intercepts_)
    )
    net = oracle.Net(
        tuple(weights),
        tuple(biases),
        (estimator.activation,) * (len(weights) - 1),
        name,
        clip=np.finfo(estimator.coefs_[0].dtype).eps,
    )
    Y = oracle.one_hot(y, 3) if target == "log_loss" else np.asarray(y, float).reshape(len(y), -1)
    return oracle.loss(net, X, Y, sample_weight)


# ------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("widths", [(5, 7, 3), (3, 1), (40, 33, 20)])
def test_a_runner_evaluates_rows_within_bounds(widths, loss, dtype, sparse, weighted):
    """Outputs as it predicts them, and the mean loss, in chunks of some rows."""
    if loss == "log_loss":
        widths = (*widths[:-1], max(2, widths[-1]))
    activations = ("tanh",) * (len(widths) - 2)
    problem = build(Stack(widths, activations, loss, 29, dtype, sparse, weighted))
    out, value = evaluate(problem, chunk_rows=12)
    assert_within(out, oracle_predict(problem))
    bounded = oracle.loss(problem.net, problem.X, problem.Y, problem.sample_weight)
    assert_within(value, bounded)
    corrupted = problem.parameters.copy()
    corrupted[-1] += 0.1
    with pytest.raises(AssertionError):  # the bounds are tight enough to see it
        assert_within(evaluate(problem, parameters=corrupted)[1], bounded)


def test_a_runner_refuses_to_evaluate_what_it_cannot():
    """Without targets, without room, by a plan that only predicts."""
    problem = build(Stack())
    compiled = plan.compile_inference(problem.network, dtype=np.float64)
    runner = backends.open_runner(compiled, None, {})
    with pytest.raises(ValueError, match="evaluate needs a plan that has targets"):
        runner.evaluate(problem.streams, np.empty((13, 3)))
    compiled = plan.compile_gradients(problem.network, dtype=np.float64)
    runner = backends.open_runner(compiled, None, problem.streams)
    with pytest.raises(ValueError, match="out must be"):
        runner.evaluate(problem.streams, np.empty((13, 2)))
    with pytest.raises(ValueError, match="stream 'y'"):
        runner.evaluate({**problem.streams, "y": problem.streams["y"][1:]}, np.empty((13, 3)))


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", list(TARGETS))
def test_the_validation_loss_is_the_oracles(target, dtype, sparse, weighted):
    """After one epoch of each kind of loss, without the penalty, with weights of its own."""
    y, X = TARGETS[target], IRIS.astype(dtype)
    w = np.linspace(0, 2, HELD.sum()) if weighted else None
    given = scipy.sparse.csr_array(X) if sparse else X
    estimator = new(target, alpha=0.5, max_iter=1)
    fit(estimator, y, given, sample_weight_val=w)
    expected = oracle_loss(estimator, target, X[HELD].astype(float), y[HELD], w)
    [loss] = estimator.validation_loss_curve_
    assert loss == pytest.approx(expected, rel=1e-12 if dtype == "float64" else 2e-5)
    estimator.intercepts_[-1][0] += 0.1  # the comparison would notice
    assert loss != pytest.approx(
        oracle_loss(estimator, target, X[HELD].astype(float), y[HELD], w), rel=1e-4
    )


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_the_loss_has_the_same_bits_on_any_number_of_threads(sparse):
    """Over more rows than go through the ops together."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20_000, 20)), rng.integers(0, 3, 20_000)
    X = scipy.sparse.csr_array(X * (X > 1)) if sparse else X
    curves = []
    for n_jobs in (1, 2):
        estimator = MLPClassifier((64, 64), max_iter=2, random_state=0, n_jobs=n_jobs)
        estimator.fit(X[:300], y[:300], X_val=X, y_val=y)
        curves.append(estimator.validation_loss_curve_)
    assert curves[0] == curves[1]
    assert curves[0][-1] == pytest.approx(log_loss(y, estimator.predict_proba(X)), rel=1e-12)


def test_a_loss_of_the_users_own_is_watched_too():
    """The same code computes it that trains by it."""
    pytest.importorskip("numba", reason="custom functions need numba")
    square = (lambda y, z: 0.5 * (z - y) * (z - y), lambda y, z: z - y)
    y = TARGETS["squared_error"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        own = MLPRegressor(loss=square, max_iter=3, random_state=0)
        own, built_in = fit(own, y), fit(MLPRegressor(max_iter=3, random_state=0), y)
    np.testing.assert_allclose(
        own.validation_loss_curve_, built_in.validation_loss_curve_, rtol=1e-10
    )


@pytest.mark.compiled
@pytest.mark.parametrize("precision", ["bfloat16_emulated"])
def test_with_rounded_products_it_is_that_of_float32_predictions(precision):
    """As predictions and scores are."""
    estimator = fit(new(precision=precision, max_iter=1))
    expected = oracle_loss(estimator, "log_loss", IRIS[HELD], SPECIES[HELD])
    assert estimator.validation_loss_curve_[0] == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_numba_computes_the_same_loss(solver, sparse):
    """The other backend's ops."""
    pytest.importorskip("numba", reason="numba is not installed")
    X = scipy.sparse.csr_array(IRIS) if sparse else IRIS
    for target in ("log_loss", "squared_error"):
        curves = [
            fit(
                new(target, backend=backend, solver=solver),
                TARGETS[target],
                X,
                sample_weight_val=np.linspace(1, 2, HELD.sum()),
            ).validation_loss_curve_
            for backend in ("compiled", "numba")
        ]
        np.testing.assert_allclose(curves[0], curves[1], rtol=1e-8)


# -------------------------------------------------------------------------- validation rows


@pytest.mark.parametrize("target", ["log_loss", "binary_log_loss", "squared_error"])
def test_rows_of_ones_own_decide_as_a_split_does(target):
    """The rows that a split would take, passed as X_val: equal bits (no order is drawn)."""
    y = TARGETS[target]
    split = new(target, early_stopping=True, shuffle=False, max_iter=20).fit(IRIS, y)
    rng = np.random.RandomState(0)
    widths = [4, 9, 5, 3 if target == "log_loss" else 1]
    for i, o in pairwise(widths):
        rng.uniform(size=i * o), rng.uniform(size=o)  # the initial weights
    strata = y if target == "binary_log_loss" else None
    kept, held = train_test_split(
        np.arange(150),
        random_state=rng,
        test_size=0.1,
        stratify=None if strata is None else np.where(strata, "True", "False"),
    )
    own = new(target, early_stopping=True, shuffle=False, max_iter=20)
    own.fit(IRIS[kept], y[kept], X_val=IRIS[held], y_val=y[held])
    but = ("t_",)
    assert attributes(own, but=but) == attributes(split, but=but)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("target", ["log_loss", "squared_error"])
def test_rows_that_decide_nothing_change_no_bit(target, solver):
    """X_val without early_stopping: curves, and else the same fit to the last weights."""
    y = TARGETS[target]
    plain = new(target, solver=solver, max_iter=30).fit(IRIS[TRAIN], y[TRAIN])
    watched = fit(new(target, solver=solver, max_iter=30), y)
    of_validation = ("validation_scores_", "best_validation_score_", "validation_loss_curve_")
    assert attributes(watched, but=of_validation) == attributes(plain, but=of_validation)
    assert len(watched.validation_scores_) == watched.n_iter_
    assert len(watched.validation_loss_curve_) == watched.n_iter_
    assert watched.best_validation_score_ == max(watched.validation_scores_)
    assert watched.validation_scores_[-1] == watched.score(IRIS[HELD], y[HELD])


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_the_best_weights_are_restored(solver):
    """By the loss, which would rise for long."""
    rng = np.random.default_rng(0)
    y = np.where(rng.random(150) < 0.3, rng.integers(0, 3, 150), SPECIES)
    estimator = new(
        solver=solver, scoring="loss", early_stopping=True, max_iter=400, learning_rate_init=0.05,
        n_iter_no_change=5, hidden_layer_sizes=(50,), tol=1e-6,
    )  # fmt: skip
    fit(estimator, y)
    curve = estimator.validation_loss_curve_
    assert estimator.n_iter_ < 400
    assert min(curve) < curve[-1]
    assert estimator.best_validation_score_ == -min(curve)
    assert estimator.validation_scores_ == [-loss for loss in curve]
    proba = estimator.predict_proba(IRIS[HELD])
    assert log_loss(y[HELD], proba) == pytest.approx(min(curve), rel=1e-9)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_scores_that_are_no_numbers_leave_the_last_weights(solver):
    """And that is said; a number later on decides as ever."""
    how = {"solver": solver, "early_stopping": True, "max_iter": 4, "n_iter_no_change": 9}
    first, last = (new(**{**how, "max_iter": n, "scoring": "loss"}) for n in (2, 4))
    for scores, expected in (([np.nan] * 4, last), ([np.nan, 0.5, 0.4, np.nan], first)):
        fit(expected, SPECIES)  # whose loss falls to the end
        given = iter(scores)
        model = new(**how, scoring=lambda *_, given=given: next(given))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fit(model, SPECIES)
        told = any("No score of the validation rows" in str(warning.message) for warning in said)
        assert told == (expected is last)
        np.testing.assert_array_equal(model.coefs_[0], expected.coefs_[0])


@pytest.mark.parametrize("patience", [1, 4])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_patience_counts_epochs_of_what_is_watched(solver, patience):
    """One that is never better than the first: it, so many that may fail, and one more."""
    estimator = new(
        solver=solver, scoring=lambda *_: 1.0, early_stopping=True, max_iter=99,
        n_iter_no_change=patience,
    )  # fmt: skip
    assert fit(estimator).n_iter_ == patience + 2
    rising = iter(range(99))
    estimator.set_params(scoring=lambda *_: next(rising) * 1e-5)
    assert fit(estimator).n_iter_ == patience + 2  # better, but not by tol
    assert estimator.best_validation_score_ == estimator.validation_scores_[-1]


def test_labels_features_and_formats_are_those_of_the_fit():
    """Strings as labels, columns by name, CSR beside dense rows and the other way."""
    pandas = pytest.importorskip("pandas")
    names = np.array(["a", "b", "c"])[SPECIES]
    frame = pandas.DataFrame(IRIS, columns=list("wxyz"))
    one = fit(new(), names)
    two = new().fit(frame[TRAIN], names[TRAIN], X_val=frame[HELD], y_val=list(names[HELD]))
    sparse = new().fit(
        IRIS[TRAIN], names[TRAIN], X_val=scipy.sparse.csc_matrix(IRIS[HELD]), y_val=names[HELD]
    )
    assert one.validation_loss_curve_ == two.validation_loss_curve_
    assert one.validation_loss_curve_ == sparse.validation_loss_curve_
    csr = scipy.sparse.csr_array(IRIS)
    three = new().fit(csr[TRAIN], names[TRAIN], X_val=IRIS[HELD], y_val=names[HELD])
    np.testing.assert_allclose(three.validation_loss_curve_, one.validation_loss_curve_)


SOME = {"X_val": IRIS[HELD], "y_val": SPECIES[HELD]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"X_val": IRIS[HELD]}, "X_val was given without y_val"),
        ({"y_val": SPECIES[HELD]}, "y_val was given without X_val"),
        ({"sample_weight_val": np.ones(50)}, "given without X_val"),
        ({**SOME, "X_val": IRIS[HELD, :3]}, "X_val, y_val .* 3 features.* expecting 4"),
        ({**SOME, "X_val": np.full((50, 4), np.nan)}, "X_val, y_val .* NaN"),
        ({**SOME, "y_val": np.full(50, 7)}, "X_val, y_val .* classes not in"),
        ({**SOME, "y_val": SPECIES[HELD][1:]}, "inconsistent numbers of samples"),
        ({**SOME, "sample_weight_val": -np.ones(50)}, "must not be negative"),
        ({**SOME, "sample_weight_val": np.zeros(50)}, "non-zero"),
        ({**SOME, "y_val": np.eye(3)[SPECIES[HELD]]}, "cannot be used"),
    ],
)
def test_rows_that_cannot_be_used_are_refused_and_nothing_changes(given, message):
    """The message says which rows they are."""
    estimator = fit(new())
    before = attributes(estimator)
    with pytest.raises(ValueError, match=message):
        estimator.fit(IRIS[TRAIN], SPECIES[TRAIN], **given)
    assert attributes(estimator) == before


def test_targets_of_validation_rows_are_judged_as_those_of_the_fit():
    """As many outputs, and what the loss allows."""
    y = TARGETS["poisson"]
    with pytest.raises(ValueError, match=r"y_val has 2 outputs, but y has 1"):
        new("poisson").fit(IRIS, y, X_val=IRIS, y_val=np.stack([y, y], axis=1))
    with pytest.raises(ValueError, match=r"X_val.*requires y >= 0"):
        new("poisson").fit(IRIS, y, X_val=IRIS, y_val=-y)


def test_other_names_of_columns_are_refused():
    """As predictions refuse them."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(IRIS, columns=list("wxyz"))
    other = frame.rename(columns={"w": "v"})
    with pytest.raises(ValueError, match=r"X_val.*feature names"):
        new().fit(frame, SPECIES, X_val=other, y_val=SPECIES)


# -------------------------------------------------------------------------------- scorers


@pytest.mark.parametrize(
    ("target", "scoring", "metric"),
    [
        ("log_loss", "neg_log_loss", "loss"),
        ("log_loss", "accuracy", None),
        ("squared_error", "r2", None),
        ("log_loss", "balanced_accuracy", None),
        ("multilabel", "f1_macro", None),
        ("outputs", "neg_mean_absolute_error", None),
    ],
)
def test_names_of_scorers(target, scoring, metric):
    """What scikit-learn's scorer says of the fitted estimator is the last of the scores."""
    y = TARGETS[target]
    estimator = fit(new(target, scoring=scoring, max_iter=30), y)
    expected = sklearn.metrics.get_scorer(scoring)(estimator, IRIS[HELD], y[HELD])
    assert estimator.validation_scores_[-1] == pytest.approx(expected, rel=1e-12)
    if metric == "loss":
        np.testing.assert_allclose(
            estimator.validation_scores_, -np.array(estimator.validation_loss_curve_), rtol=1e-9
        )


def test_a_scorer_sees_rows_as_they_were_given():
    """Columns of a frame, labels of strings, weights; one call an epoch, of a fitted estimator."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(IRIS, columns=list("wxyz"))
    names = pandas.Series(np.array(["a", "b", "c"])[SPECIES])
    weights, seen = np.linspace(0.5, 1, 150), []

    def scorer(estimator, X, y, sample_weight=None):
        assert type(estimator) is MLPClassifier
        assert list(X.columns) == list("wxyz")
        assert set(y) <= set("abc")
        assert len(sample_weight) == len(X) == len(y)
        seen.append(estimator.predict_proba(X))
        return estimator.score(X, y, sample_weight)

    split = new(scoring=scorer, early_stopping=True).fit(frame, names, sample_weight=weights)
    assert len(seen) == split.n_iter_ == 4
    assert not np.array_equal(seen[0], seen[1])
    plain = new(early_stopping=True).fit(frame, names, sample_weight=weights)
    assert plain.validation_scores_ == pytest.approx(split.validation_scores_, abs=1e-12)
    np.testing.assert_array_equal(plain.coefs_[0], split.coefs_[0])


def test_weights_go_to_scorers_that_take_them():
    """A function of (estimator, X, y) is called with these; a metric's weights are found."""
    w = np.linspace(0, 3, HELD.sum())
    scorer = make_scorer(mean_absolute_error, greater_is_better=False)
    y = TARGETS["squared_error"]
    estimator = fit(new("squared_error", scoring=scorer), y, sample_weight_val=w)
    expected = -mean_absolute_error(y[HELD], estimator.predict(IRIS[HELD]), sample_weight=w)
    assert estimator.validation_scores_[-1] == pytest.approx(expected)
    fit(new(scoring=lambda estimator, X, y: estimator.score(X, y)), sample_weight_val=w)


@pytest.mark.parametrize("result", ["good", None, {"a": 1.0}, [1.0, 2.0]])
def test_a_scorer_returns_a_number(result):
    """Anything else is refused, and the estimator left alone."""
    estimator = fit(new())
    before = attributes(estimator, but=("scoring",))
    estimator.set_params(scoring=lambda *_: result)
    with pytest.raises(ValueError, match="scoring must return a number"):
        fit(estimator)
    assert attributes(estimator, but=("scoring",)) == before


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"scoring": "loss"}, "has no rows to look at"),
        ({"scoring": "loss", "solver": "lbfgs", "early_stopping": True}, "no rows to look at"),
        ({"scoring": "no_such", "early_stopping": True}, "no_such"),
        ({"scoring": ["accuracy"], "early_stopping": True}, "'scoring' parameter"),
        ({"max_time_s": 0}, "'max_time_s' parameter"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(parameters, message):
    """And what to do is said."""
    with pytest.raises(ValueError, match=message):
        new(**parameters).fit(IRIS, SPECIES)


def test_partial_fit_watches_nothing():
    """It refuses to, as it refuses early_stopping."""
    with pytest.raises(ValueError, match="partial_fit does not support scoring='loss'"):
        new(scoring="loss").partial_fit(IRIS, SPECIES, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        new(early_stopping=True).partial_fit(IRIS, SPECIES, classes=[0, 1, 2])


def accuracy(estimator, X, y):
    """A scorer that pickle finds."""
    return estimator.score(X, y)


def test_estimators_with_scorers_are_pickled_copied_and_cloned():
    """By import path; a lambda is refused when pickled, not when fitted or copied."""
    estimator = fit(new(scoring=accuracy))
    same = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(same.predict(IRIS), estimator.predict(IRIS))
    assert same.validation_scores_ == estimator.validation_scores_
    assert clone(estimator).scoring is accuracy
    estimator.set_params(scoring=lambda *_: 1.0)
    assert copy.copy(estimator).coefs_ is estimator.coefs_
    with pytest.raises(pickle.PicklingError, match="scoring="):
        pickle.dumps(estimator)


def test_a_warm_start_goes_on_with_scores_and_begins_to_decide():
    """Curves grow; scores whose weights were not kept do not count as the best."""
    estimator = fit(new(warm_start=True))
    fit(estimator)
    assert len(estimator.validation_loss_curve_) == len(estimator.loss_curve_) == 8
    estimator.set_params(early_stopping=True, scoring="loss", max_iter=3)
    fit(estimator)
    assert estimator.best_validation_score_ == max(estimator.validation_scores_[8:])
    assert estimator.best_loss_ is None
    estimator.set_params(early_stopping=False, scoring=None).fit(IRIS, SPECIES)
    assert estimator.validation_loss_curve_ is None
    assert estimator.best_loss_ is not None


@pytest.mark.parametrize(
    ("scoring", "word"), [("loss", "Validation loss: "), (None, "Validation score: ")]
)
def test_verbose_prints_what_is_watched(scoring, word, capsys):
    """After scikit-learn's line for the loss."""
    estimator = fit(
        new(verbose=True, scoring=scoring, early_stopping=True, tol=1e9, n_iter_no_change=1)
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"Iteration 1, loss = {estimator.loss_curve_[0]:.8f}"
    watched = estimator.validation_loss_curve_ if scoring else estimator.validation_scores_
    assert printed[1] == f"{word}{watched[0]:f}"
    assert printed[-1].startswith(f"{word[:-2]} did not improve more than tol=")


# ------------------------------------------------------------------------------ time budget


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_a_time_budget_ends_a_fit_with_what_there_is(solver, watched):
    """In time, with a warning that says so, after an epoch at least."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(5000, 30)), rng.normal(size=5000)  # not learnt by heart in time
    estimator = MLPRegressor(
        hidden_layer_sizes=(60,), solver=solver, max_iter=10**6, max_fun=10**6, tol=0,
        n_iter_no_change=np.inf, max_time_s=0.1, random_state=0,
    )  # fmt: skip
    beside = {"X_val": X[:50], "y_val": y[:50]} if watched else {}
    start = time.perf_counter()
    with pytest.warns(ConvergenceWarning, match=r"max_time_s=0\.1 is over after \d+ "):
        estimator.fit(X, y, **beside)
    assert time.perf_counter() - start < 5
    assert estimator.n_iter_ >= 1
    assert np.isfinite(estimator.predict(X)).all()
    estimator.set_params(max_time_s=1e-9)
    with pytest.warns(ConvergenceWarning, match=r"over after 1 "):
        assert estimator.fit(X, y, **beside).n_iter_ == 1


def test_a_budget_that_is_not_spent_changes_nothing():
    """Not a bit, and no warning of it."""
    for solver in ("adam", "lbfgs"):
        plain = new(solver=solver).fit(IRIS, SPECIES)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            timed = new(solver=solver, max_time_s=100.0).fit(IRIS, SPECIES)
        assert not [w for w in caught if "max_time_s" in str(w.message)]
        assert attributes(timed, but=("max_time_s",)) == attributes(plain, but=("max_time_s",))


# -------------------------------------------------------------------------------- routing


def test_a_pipeline_transforms_validation_rows():
    """transform_input: the same as scaled by hand."""
    with sklearn.config_context(enable_metadata_routing=True):
        network = new().set_fit_request(X_val=True, y_val=True)
        pipeline = Pipeline(
            [("scale", StandardScaler()), ("network", network)], transform_input=["X_val"]
        )
        X = IRIS * 7 + 3
        pipeline.fit(X[TRAIN], SPECIES[TRAIN], X_val=X[HELD], y_val=SPECIES[HELD])
    scaler = StandardScaler().fit(X[TRAIN])
    by_hand = new().fit(
        scaler.transform(X[TRAIN]), SPECIES[TRAIN], X_val=scaler.transform(X[HELD]),
        y_val=SPECIES[HELD],
    )  # fmt: skip
    assert pipeline[-1].validation_loss_curve_ == by_hand.validation_loss_curve_


def test_a_search_routes_weights_and_searches_what_is_watched():
    """sample_weight through GridSearchCV; scoring and budgets are parameters like others."""
    weights = np.linspace(0.1, 1, 150)
    with sklearn.config_context(enable_metadata_routing=True):
        network = new(early_stopping=True, max_iter=40).set_fit_request(sample_weight=True)
        network.set_score_request(sample_weight=True)
        grid = {"scoring": [None, "loss", "neg_log_loss"], "max_time_s": [None, 50.0]}
        search = GridSearchCV(network, grid, cv=2).fit(IRIS, SPECIES, sample_weight=weights)
    assert search.best_estimator_.validation_loss_curve_
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


# ------------------------------------------------------------------------------- callbacks


@needs_callbacks
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_callback_sees_scores_as_they_come(solver):
    """The fitted estimator of an epoch has its curves; those of L-BFGS as well."""
    lengths = []

    class Look:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            lengths.append(len(fitted_estimator.validation_loss_curve_))

    estimator = fit(new(solver=solver).set_callbacks(Look()))
    assert lengths == [*range(1, estimator.n_iter_ + 1), estimator.n_iter_]


@needs_callbacks
def test_a_lambda_does_not_keep_callbacks_from_a_fitted_estimator(tmp_path):
    """scikit-learn makes it by copy.copy, which needs no pickle here."""
    path = tmp_path / "model"
    estimator = new(scoring=lambda *_: 1.0).set_callbacks(hotloop.Checkpoint(path, monitor="last"))
    with pytest.raises(pickle.PicklingError, match="scoring="):
        fit(estimator)
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


@needs_callbacks
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_checkpoint_of_the_last_epoch_is_the_model(solver, tmp_path):
    """Without its callbacks; every epoch, and when it ends."""
    path = tmp_path / "model.joblib"
    callback = hotloop.Checkpoint(path, every=3, monitor="last")
    written, write = [], callback._write
    callback._write = lambda fitted: (written.append(fitted.n_iter_), write(fitted))
    estimator = fit(new(solver=solver).set_callbacks(callback))
    assert written == [3, 4]
    loaded = joblib.load(path)
    assert not [name for name in vars(loaded) if "callback" in name]
    np.testing.assert_array_equal(loaded.predict_proba(IRIS), estimator.predict_proba(IRIS))
    assert [file.name for file in tmp_path.iterdir()] == ["model.joblib"]


@needs_callbacks
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_checkpoint_of_the_best_epoch(early_stopping, tmp_path):
    """That of the best validation score, whatever the fit keeps."""
    scores = iter([0.1, 0.5, 0.3, 0.4])
    path = tmp_path / "model"
    estimator = new(scoring=_Scores(scores), early_stopping=early_stopping)
    fit(estimator.set_callbacks(hotloop.Checkpoint(path)))
    loaded = joblib.load(path)
    assert loaded.n_iter_ == 2
    assert estimator.n_iter_ == 4
    same = np.array_equal(loaded.coefs_[0], estimator.coefs_[0])
    assert same == early_stopping


class _Scores:
    """A scorer that reads its scores from a list, and is pickled without it."""

    def __init__(self, scores):
        self.scores = scores

    def __call__(self, estimator, X, y):
        return next(self.scores)

    def __reduce__(self):
        return _Scores, (None,)


@needs_callbacks
def test_a_checkpoint_without_validation_rows_goes_by_the_loss(tmp_path):
    """Which falls."""
    path = tmp_path / "model"
    estimator = new().set_callbacks(hotloop.Checkpoint(path)).fit(IRIS, SPECIES)
    assert joblib.load(path).loss_ == min(estimator.loss_curve_) == estimator.loss_


@needs_callbacks
def test_a_checkpoint_that_cannot_be_written_leaves_the_old_file(tmp_path, monkeypatch):
    """And no other; the estimator is as it was."""
    path = tmp_path / "model"
    estimator = fit(new(), SPECIES)
    estimator.set_callbacks(hotloop.Checkpoint(path)).fit(IRIS, SPECIES)
    old, before = path.read_bytes(), attributes(estimator, but=("_skl_callbacks",))

    def full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        estimator.fit(IRIS[:, :2], SPECIES)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    but = ("_skl_callbacks",)
    assert attributes(estimator, but=but) == before
    estimator.set_callbacks(hotloop.Checkpoint(tmp_path / "no" / "model"))
    with pytest.raises(FileNotFoundError, match="no folder"):
        estimator.fit(IRIS, SPECIES)


@pytest.fixture
def stand_in(monkeypatch):
    """Modules that behave as optuna and mlflow do where our callbacks look."""
    optuna = types.ModuleType("optuna")
    optuna.TrialPruned = type("TrialPruned", (Exception,), {})
    mlflow = types.ModuleType("mlflow")
    mlflow.runs, mlflow.logged = [], []
    mlflow.active_run = lambda: mlflow.runs[-1] if mlflow.runs else None
    mlflow.start_run = lambda run_name: mlflow.runs.append(run_name)
    mlflow.end_run = lambda: mlflow.runs.pop()
    mlflow.log_metrics = lambda metrics, step: mlflow.logged.append((step, metrics, *mlflow.runs))
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return types.SimpleNamespace(optuna=optuna, mlflow=mlflow)


class Trial:
    """As much of a trial as we use."""

    def __init__(self, prune_at, direction):
        self.prune_at, self.reported = prune_at, {}
        self.study = types.SimpleNamespace(directions=[types.SimpleNamespace(name=direction)])

    def report(self, value, step):
        self.reported[step] = value

    def should_prune(self):
        return max(self.reported) == self.prune_at


@needs_callbacks
@pytest.mark.parametrize("monitor", ["validation_score", "validation_loss", "loss"])
def test_a_trial_hears_of_epochs_and_may_be_pruned(monitor, stand_in):
    """TrialPruned comes out of fit, and the estimator is as it was."""
    direction = "MAXIMIZE" if monitor == "validation_score" else "MINIMIZE"
    trial = Trial(2, direction)
    plain = fit(new())
    estimator = new().set_callbacks(hotloop.OptunaPruning(trial, monitor=monitor))
    with pytest.raises(stand_in.optuna.TrialPruned, match="after 3 epochs"):
        fit(estimator)
    curve = {"loss": "loss_curve_", "validation_loss": "validation_loss_curve_"}
    expected = getattr(plain, curve.get(monitor, "validation_scores_"))[:3]
    assert trial.reported == dict(enumerate(expected))
    assert not hasattr(estimator, "coefs_")
    with pytest.raises(ValueError, match="is for a study with direction="):
        hotloop.OptunaPruning(
            Trial(2, "MINIMIZE" if direction == "MAXIMIZE" else "MAXIMIZE"), monitor=monitor
        )


@needs_callbacks
def test_a_value_that_is_not_there_is_an_error(stand_in):
    """With what to do."""
    estimator = new().set_callbacks(hotloop.OptunaPruning(Trial(2, "MAXIMIZE")))
    with pytest.raises(ValueError, match=r"only \['loss'\] have. Set early_stopping=True"):
        estimator.fit(IRIS, SPECIES)


@needs_callbacks
def test_mlflow_gets_every_epoch(stand_in):
    """In the run there is, or in one that lasts as long as the fit, even a failed one."""
    estimator = fit(new(max_iter=5).set_callbacks(hotloop.MLflowLogger(prefix="net_", every=2)))
    assert stand_in.mlflow.runs == []
    assert [(step, run) for step, _, run in stand_in.mlflow.logged] == [
        (step, "MLPClassifier") for step in (0, 2, 4)
    ]
    for step, metrics, _ in stand_in.mlflow.logged:
        assert metrics == {
            "net_loss": estimator.loss_curve_[step],
            "net_validation_loss": estimator.validation_loss_curve_[step],
            "net_validation_score": estimator.validation_scores_[step],
        }
    stand_in.mlflow.start_run("mine")
    new().set_callbacks(hotloop.MLflowLogger()).fit(IRIS, SPECIES)
    assert stand_in.mlflow.logged[-1][1:] == ({"loss": pytest.approx(1, abs=1)}, "mine")
    stand_in.mlflow.end_run()
    estimator.set_params(scoring=lambda *_: "no number")
    with pytest.raises(ValueError, match="must return a number"):
        fit(estimator)
    assert stand_in.mlflow.runs == []


@needs_callbacks
def test_optuna_prunes_a_study():
    """The real one."""
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial):
        rate = [0.05, 1e-6, 1e-6][trial.number]
        estimator = new(learning_rate_init=rate, max_iter=8)
        estimator.set_callbacks(hotloop.OptunaPruning(trial, monitor="validation_loss"))
        return fit(estimator).validation_loss_curve_[-1]

    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=2)
    study = optuna.create_study(direction="minimize", pruner=pruner)
    study.optimize(objective, n_trials=3)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert list(study.trials[1].intermediate_values) == [0, 1, 2]


@needs_callbacks
@pytest.mark.parametrize("missing", ["optuna", "mlflow"])
def test_what_is_not_installed_is_said(missing, monkeypatch):
    """When the callback is made."""
    monkeypatch.setitem(sys.modules, missing, None)
    make = {"optuna": lambda: hotloop.OptunaPruning(None), "mlflow": hotloop.MLflowLogger}
    with pytest.raises(ImportError, match=f"needs {missing}.*pip install {missing}"):
        make[missing]()


def test_older_versions_of_scikit_learn_say_why_not(monkeypatch, tmp_path):
    """They have no callbacks to begin with."""
    monkeypatch.setattr(compat, "HAS_CALLBACKS", False)
    with pytest.raises(RuntimeError, match=r"scikit-learn 1\.9 or later"):
        hotloop.Checkpoint(tmp_path / "model")


@needs_callbacks
@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"monitor": "loss"}, "monitor must be one of"), ({"every": 0}, "every must be a positive")],
)
def test_parameters_of_callbacks_are_judged(parameters, message, tmp_path):
    """At once."""
    with pytest.raises(ValueError, match=message):
        hotloop.Checkpoint(tmp_path / "model", **parameters)


@needs_callbacks
def test_scoring_monitor_works_beside_what_is_watched():
    """Early stopping, partial_fit, a pipeline, a search and validation rows."""
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="accuracy")
    estimator = new(early_stopping=True, scoring="loss", max_iter=9).set_callbacks(monitor)
    fit(estimator, sample_weight=np.ones(TRAIN.sum()))
    rows = [r for r in monitor.get_logs().data if r["task_name"] == "iteration"]
    assert len(rows) == estimator.n_iter_
    assert rows[-1]["accuracy"] == estimator.score(IRIS[TRAIN], SPECIES[TRAIN])
    estimator.set_params(early_stopping=False, scoring=None).partial_fit(IRIS, SPECIES)
    assert len(monitor.get_logs(select="all")) == 2
    pipeline = make_pipeline(StandardScaler(), clone(estimator))
    GridSearchCV(pipeline, {"mlpclassifier__alpha": [0.0, 0.1]}, cv=2).fit(IRIS, SPECIES)
    assert len(monitor.get_logs(select="all")) >= 3


@needs_callbacks
def test_progress_bar_shows_epochs_of_every_kind_of_fit(capsys):
    """Also of those that end early, of a pipeline and of a search."""
    pytest.importorskip("rich", reason="ProgressBar needs rich")
    from sklearn.callback import ProgressBar

    bar = ProgressBar(max_propagation_depth=None)
    for solver in ("adam", "lbfgs"):
        estimator = new(
            solver=solver, early_stopping=True, scoring=lambda *_: 1.0, n_iter_no_change=1,
            max_iter=50,
        )  # fmt: skip
        fit(estimator.set_callbacks(bar))
        assert estimator.n_iter_ == 3
    new().set_callbacks(bar).partial_fit(IRIS, SPECIES, classes=[0, 1, 2])
    out = capsys.readouterr().out
    assert out.count("MLPClassifier") >= 3
    search = GridSearchCV(make_pipeline(StandardScaler(), new()), {}, cv=2)
    search.set_callbacks(bar).fit(IRIS, SPECIES)
    assert "GridSearchCV" in capsys.readouterr().out


def test_diabetes_by_a_budget_a_scorer_and_rows_of_ones_own():
    """All of it together."""
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X), y / 100
    held = np.arange(len(y)) % 4 == 0
    estimator = MLPRegressor(
        early_stopping=True, scoring="neg_median_absolute_error", max_time_s=20, max_iter=300,
        random_state=0,
    )  # fmt: skip
    estimator.fit(X[~held], y[~held], X_val=X[held], y_val=y[held])
    score = -np.median(abs(estimator.predict(X[held]) - y[held]))
    assert estimator.best_validation_score_ == pytest.approx(score)
