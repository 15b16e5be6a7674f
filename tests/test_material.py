"""Weights as material: given at the start, left alone, and what hidden layers make of rows."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from hotloop import MLPClassifier, MLPRegressor, backends

X, y = load_digits(return_X_y=True)
X, y = X[:300] / 16, y[:300]
SOLVERS = ("adam", "sgd", "lbfgs")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
every_solver = pytest.mark.parametrize("solver", SOLVERS)
every_backend = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))
        for name in backends.CPU_BACKENDS
        for reason in [backends.why_unavailable(name)]
    ],
)


def new(kind=MLPClassifier, **parameters):
    how = {"hidden_layer_sizes": (12, 7), "max_iter": 4, "random_state": 0}
    return kind(**{**how, **parameters})


def layers(model):
    return [*model.coefs_, *model.intercepts_]


# Initial weights.


@every_solver
def test_a_fit_from_given_weights_is_one_that_goes_on_with_them(solver):
    """Bit for bit a warm start, and the arrays that were given stay as they are."""
    first = new(solver=solver).fit(X, y)
    given = [c.copy() for c in first.coefs_], [b.copy() for b in first.intercepts_]
    model = new(solver=solver, init=given, shuffle=False).fit(X, y)
    warm = new(solver=solver, warm_start=True).fit(X, y).set_params(shuffle=False).fit(X, y)
    for ours, theirs in zip(layers(model), layers(warm), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for kept, was in zip([*given[0], *given[1]], layers(first), strict=True):
        np.testing.assert_array_equal(kept, was)
    assert clone(model).init is not given


def test_given_weights_are_cast_and_nothing_is_drawn():
    """To the dtype of X; the random stream is left for the orders of rows."""
    model = new().fit(X, y)
    init = ([c.tolist() for c in model.coefs_], [b.tolist() for b in model.intercepts_])
    rng = np.random.RandomState(3)
    again = new(init=init, random_state=rng, shuffle=False).fit(X.astype(np.float32), y)
    assert all(array.dtype == np.float32 for array in layers(again))
    assert rng.randint(2**31) == np.random.RandomState(3).randint(2**31)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("cleverly", "'init' parameter"),
        (([np.zeros((64, 3))],), "pair of lists"),
        (([np.zeros((64, 10))], [np.zeros(10)]), r"init holds layers of \[64, 10\] units"),
        (([np.zeros((64, 10))], [np.zeros(9)]), "intercepts_"),
        (None, "'init' parameter"),
    ],
)
def test_other_weights_are_refused(init, message):
    """Wrong names, shapes and numbers; nothing of the estimator changes."""
    model = new().fit(X, y)
    before = layers(model)
    with pytest.raises(ValueError, match=message):
        model.set_params(init=init).fit(X, y)
    assert all(a is b for a, b in zip(layers(model), before, strict=True))


def test_weights_that_are_not_finite_are_refused():
    """Also those that are infinite only in the dtype that is computed with."""
    model = new(hidden_layer_sizes=()).fit(X, y)
    huge = [np.full((64, 10), 1e300)], [np.zeros(10)]
    with pytest.raises(ValueError, match="finite in float32"):
        model.set_params(init=huge).fit(X.astype(np.float32), y)


# Frozen layers.


@every_backend
@every_solver
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("frozen", [[0], [1], [-1], [0, 2], [0, 1]])
def test_frozen_layers_stay_and_the_others_learn(backend, solver, sparse, frozen):
    """To the bit; under every solver, and for a first layer on sparse input."""
    start = new(solver=solver).fit(X, y)
    init = start.coefs_, start.intercepts_
    how = {"solver": solver, "init": init, "frozen_layers": frozen, "backend": backend}
    model = new(alpha=0.1, **how).fit(csr_matrix(X) if sparse else X, y)
    for k in range(3):
        same = np.array_equal(model.coefs_[k], start.coefs_[k])
        assert same == (k in frozen or k - 3 in frozen)
        same = np.array_equal(model.intercepts_[k], start.intercepts_[k])
        assert same == (k in frozen or k - 3 in frozen)


@every_backend
@pytest.mark.parametrize("frozen", [[0], [1], [0, 1]])
def test_the_penalty_of_frozen_layers_counts(backend, frozen):
    """The loss has it, whatever X is stored as."""
    how = {"alpha": 1.0, "frozen_layers": frozen, "backend": backend}
    dense, sparse = (new(**how).fit(rows, y) for rows in (X, csr_matrix(X)))
    np.testing.assert_allclose(sparse.loss_curve_, dense.loss_curve_, rtol=1e-9)


@every_solver
def test_what_is_not_frozen_learns_as_it_would_on_the_outputs_of_what_is(solver):
    """A network on the transformed rows is the same fit: an independent way to the same weights."""
    start = new(solver=solver, hidden_layer_sizes=(12,)).fit(X, y)
    init = start.coefs_, start.intercepts_
    how = {"solver": solver, "alpha": 0.0, "shuffle": False, "tol": 0.0}
    model = new(hidden_layer_sizes=(12,), init=init, frozen_layers=[0], **how).fit(X, y)
    top = new(hidden_layer_sizes=(), init=(init[0][1:], init[1][1:]), **how)
    top.fit(start.transform(X), y)
    np.testing.assert_allclose(model.coefs_[1], top.coefs_[0], rtol=1e-9)
    np.testing.assert_allclose(model.loss_, top.loss_, rtol=1e-9)


@every_backend
def test_statistics_of_frozen_layers_follow_the_batches(backend):
    """Batches are normalized by their own in training, so predictions need them; by formula."""
    start = new(hidden_layer_sizes=(12,), max_iter=1).fit(X, y)
    how = {"normalization": "batch", "frozen_layers": [0], "batch_size": len(X), "max_iter": 1}
    init = start.coefs_, start.intercepts_
    model = new(hidden_layer_sizes=(12,), init=init, backend=backend, **how).fit(X, y)
    z = X @ start.coefs_[0]
    np.testing.assert_allclose(model.norm_means_[0], 0.1 * z.mean(axis=0), rtol=1e-9)
    variances = 0.9 + 0.1 * z.var(axis=0, ddof=1)
    np.testing.assert_allclose(model.norm_variances_[0], variances, rtol=1e-9)
    np.testing.assert_array_equal(model.norm_scales_[0], 1)
    np.testing.assert_array_equal(model.intercepts_[0], start.intercepts_[0])
    assert not np.array_equal(model.coefs_[1], start.coefs_[1])


@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_given_weights_may_have_what_normalizations_learnt(normalization):
    """A fit from all of a network predicts as that does, until it has learnt more."""
    first = new(normalization=normalization, max_iter=20).fit(X, y)
    names = ("coefs_", "intercepts_", "norm_scales_", "norm_means_", "norm_variances_")
    init = tuple(getattr(first, name) for name in names if name in vars(first))
    how = {"normalization": normalization, "learning_rate_init": 1e-12, "max_iter": 1}
    still = new(init=init, frozen_layers=[0], batch_size=len(X), **how).fit(X, y)
    if normalization == "layer":
        np.testing.assert_allclose(still.predict_proba(X), first.predict_proba(X), atol=1e-9)
    for scale, was in zip(still.norm_scales_, first.norm_scales_, strict=True):
        np.testing.assert_allclose(scale, was, rtol=1e-9)
    z = X @ first.coefs_[0]
    if normalization == "batch":
        means = 0.9 * first.norm_means_[0] + 0.1 * z.mean(axis=0)
        np.testing.assert_allclose(still.norm_means_[0], means, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="all of \\(coefs_, intercepts_, norm_scales_"):
        new(init=(*init[:2], init[2], init[2]), **how).fit(X, y)
    with pytest.raises(ValueError, match="norm_scales_ must hold one vector"):
        new(init=(*init[:2], *([[np.ones(3)]] * (len(init) - 2))), **how).fit(X, y)


def test_frozen_layers_are_numbers_of_some_layers():
    """Not of none that there is, and not of all; a mask is not numbers."""
    with pytest.raises(ValueError, match="numbers from -3 to 2"):
        new(frozen_layers=[False, False, True]).fit(X, y)
    with pytest.raises(ValueError, match="numbers from -3 to 2"):
        new(frozen_layers=[3]).fit(X, y)
    with pytest.raises(ValueError, match="leaves nothing to train"):
        new(frozen_layers=[0, 1, -1]).fit(X, y)


def test_partial_fit_can_freeze_and_thaw():
    """The parameter may change from call to call; moments of a frozen layer are kept."""
    model = new()
    model.partial_fit(X, y, classes=np.unique(y))
    first = model.coefs_[0].copy()
    model.set_params(frozen_layers=[0]).partial_fit(X, y)
    np.testing.assert_array_equal(model.coefs_[0], first)
    model.set_params(frozen_layers=None).partial_fit(X, y)
    assert not np.array_equal(model.coefs_[0], first)


# Outputs of hidden layers.


def hidden(model, rows):
    """The last hidden layer's outputs, by NumPy."""
    for W, b in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        rows = np.maximum(rows @ W + b, 0)
    return rows


@every_backend
@pytest.mark.parametrize("n_rows", [1, 3, 300])
@pytest.mark.parametrize("sizes", [(5,), (40, 3), (9, 6, 70)])
def test_transform_gives_the_outputs_of_the_last_hidden_layer(backend, n_rows, sizes):
    """Of few rows and of many, dense and sparse, in the dtype that was trained in."""
    model = new(hidden_layer_sizes=sizes, backend=backend).fit(X, y)
    expected = hidden(model, X[:n_rows])
    np.testing.assert_allclose(model.transform(X[:n_rows]), expected, rtol=1e-10, atol=1e-12)
    sparse = model.transform(csr_matrix(X[:n_rows]))
    np.testing.assert_allclose(sparse, expected, rtol=1e-10, atol=1e-12)
    narrow = new(hidden_layer_sizes=sizes, backend=backend).fit(X.astype(np.float32), y)
    assert narrow.transform(X.astype(np.float32)).dtype == np.float32
    model.coefs_[0][0, 0] += 1.0  # weights are read as they are now
    np.testing.assert_allclose(model.transform(X), hidden(model, X), rtol=1e-10, atol=1e-12)


def test_transform_is_a_step_of_pipelines():
    """Names of columns, pandas output, searches, pickles."""
    table = pd.DataFrame(X, columns=[f"p{k}" for k in range(64)])
    model = MLPRegressor(hidden_layer_sizes=(6,), max_iter=3, random_state=0)
    rows = model.set_output(transform="pandas").fit_transform(table, y)
    assert list(rows.columns) == [f"mlpregressor{k}" for k in range(6)]
    assert list(model.get_feature_names_out()) == list(rows.columns)
    pipeline = make_pipeline(new(), LogisticRegression(max_iter=200))
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 1e-2]}, cv=2).fit(X, y)
    assert 0 <= search.best_score_ <= 1
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))


def test_without_hidden_layers_the_input_comes_out():
    """In the dtype of the weights; sparse rows stay so."""
    model = new(hidden_layer_sizes=()).fit(X.astype(np.float32), y)
    np.testing.assert_array_equal(model.transform(X), X.astype(np.float32))
    assert model.transform(csr_matrix(X)).nnz == np.count_nonzero(X)
    assert len(model.get_feature_names_out()) == X.shape[1]


def test_the_summary_says_what_training_drops_and_leaves_alone(capsys):
    """By layers, under headings as wide as that takes."""
    how = {"normalization": "layer", "dropout": [0.25, 0], "activation": ["hard_sigmoid", "relu"]}
    new(**how, frozen_layers=[0]).fit(X, y).summary()
    head, first, second, *_ = capsys.readouterr().out.splitlines()
    assert "dense, layer norm, hard_sigmoid, dropout 0.25, frozen " in first
    assert "dense, layer norm, relu " in second
    assert len(head) == len(first) == len(second)


def test_the_summary_says_what_there_is(capsys):
    """Layers in order, with what is between weights and activation, and sums."""
    model = new(normalization="batch", activation=["gelu", "relu"]).fit(X, y)
    model.summary()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [
        "0",
        "dense,",
        "batch",
        "norm,",
        "gelu",
        "64",
        "x",
        "12",
        "792",
        "768",
    ]
    assert lines[3].split() == ["2", "dense,", "softmax", "7", "x", "10", "80", "70"]
    n = sum(a.size for a in (*layers(model), *model.norm_scales_))
    assert lines[-1].split() == ["in", "all", str(n), str(sum(c.size for c in model.coefs_))]
