"""What a fit takes beyond what it was given, and what it leaves: copies of X, copies of weights.

tracemalloc sees NumPy's arrays, and the buffers of the kernels are such. Every bound has room for
much less than one more copy.
"""

import gc
import re
import tracemalloc

import numpy as np
import pytest
import scipy.sparse

import hotloop

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """Each thread has buffers of its own."""
    monkeypatch.setenv("HOTLOOP_NUM_THREADS", "2")


def traced(action):
    """Bytes that an action took at its peak, and those that it left."""
    action()  # caches of plans, lazy imports
    gc.collect()
    tracemalloc.start()
    try:
        result = action()
        gc.collect()
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result is not None
    return peak, left


X = rng.normal(size=(20_000, 100))
LABELS = rng.integers(5, size=20_000)
#: Orders of rows, class codes and scores take a few words a row; X takes 100.
NO_COPY, ONE_COPY = 0.25, 1.25


def copies_of_x(given, estimator="MLPClassifier", **parameters):
    """What a fit took, in copies of X as it was given."""
    target = LABELS if estimator == "MLPClassifier" else X[:, 0]
    model = getattr(hotloop, estimator)(hidden_layer_sizes=(10,), max_iter=2, **parameters)
    peak, _ = traced(lambda: model.fit(given, target))
    return peak / (given.data.nbytes if scipy.sparse.issparse(given) else given.nbytes)


@pytest.mark.compiled
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("precision", ["auto", "float32", "float64"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_contiguous_x_is_not_copied(dtype, precision, solver):
    """In whichever precision it is computed: rows are converted as they are gathered."""
    for estimator in ("MLPClassifier", "MLPRegressor"):
        took = copies_of_x(X.astype(dtype), estimator, solver=solver, precision=precision)
        assert took < NO_COPY, estimator


@pytest.mark.parametrize("shuffle", [True, False])
def test_early_stopping_copies_the_rows_it_sets_aside(shuffle):
    """And no others."""
    given = X.astype(np.float32)
    took = copies_of_x(given, early_stopping=True, shuffle=shuffle, validation_fraction=0.25)
    assert 0.25 < took < 0.25 + NO_COPY


@pytest.mark.parametrize(
    "given", [np.asfortranarray(X), X[:, ::-1], X.astype(">f8")], ids=["F", "reversed", "swapped"]
)
def test_an_x_of_another_layout_is_copied_once(given):
    """So these bounds can be broken."""
    assert NO_COPY < copies_of_x(given) < ONE_COPY


def test_what_is_no_float_is_converted_at_once():
    """To the precision that is computed with."""
    assert 0.5 < copies_of_x(X.astype(np.int64), precision="float32") < 0.5 + NO_COPY


# ---- weights ---------------------------------------------------------------------------

ROWS = rng.normal(size=(150, 400)).astype(np.float32)
CODES = rng.integers(10, size=150)
HIDDEN = (700, 600)
N_WEIGHTS = 400 * 700 + 700 * 600 + 600 * 10
#: What a batch takes: inputs, outputs and gradients of outputs of each layer.
ARENA = 4 * 150 * (2 * (700 + 600 + 10) + 400)


def copies_of_weights(n_bytes):
    return n_bytes / (4 * N_WEIGHTS)


@pytest.mark.parametrize(
    ("parameters", "during", "after"),
    [
        pytest.param({}, 6.8, 3, id="adam"),
        pytest.param({"solver": "sgd"}, 4.7, 2, id="sgd"),
        pytest.param({"early_stopping": True}, 7.2, 3, id="early stopping"),  # and scores rows
        pytest.param({"warm_start": True}, 6.8, 3, id="warm start"),
    ],
)
def test_copies_of_the_weights(parameters, during, after):
    """W and its moments twice, in the kernels' layout and in the outcome, where W was the start;
    the transposes of all layers but the first once (here 0.6). After it W and the moments.
    """
    model = hotloop.MLPClassifier(HIDDEN, max_iter=2, random_state=0, **parameters)
    if "warm_start" not in parameters:
        fit = lambda: hotloop.MLPClassifier(**model.get_params()).fit(ROWS, CODES)  # noqa: E731
    else:
        fit = lambda: model.fit(ROWS, CODES)  # noqa: E731
    peak, left = traced(fit)
    assert after - 0.1 < copies_of_weights(left) < after + 0.1
    assert after < copies_of_weights(peak - ARENA) < during


@pytest.mark.compiled
def test_copies_of_the_weights_in_predictions():
    """One, packed, for rows that go in several pieces; none for those that go in one."""
    model = hotloop.MLPClassifier(HIDDEN, max_iter=1, n_jobs=1).fit(ROWS, CODES)
    for n, most in ((100, 1.6), (60, 0.35), (2, 0.05)):
        peak, left = traced(lambda n=n: model.predict_proba(ROWS[:n]))
        assert copies_of_weights(peak) < most
        assert copies_of_weights(left) < 0.05


@pytest.mark.compiled
@pytest.mark.parametrize("estimator", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("sparse", [False, True])
def test_what_does_not_fit_is_reckoned_before_it_is_taken(monkeypatch, sparse, solver, estimator):
    """Within what a fit takes, and not far below: rows of weights under CSR are padded to vectors,
    which for one unit is many times of them.
    """
    given = scipy.sparse.csr_matrix((np.ones(40), np.arange(40), np.arange(41)), (40, 100_000))
    given = given.astype(np.float32)
    given = given if sparse else np.ones((2, 100_000), np.float32)
    target = np.arange(given.shape[0]) % 2
    model = getattr(hotloop, estimator)(hidden_layer_sizes=(1,), solver=solver, max_iter=2)
    peak, _ = traced(lambda: model.fit(given, target))
    monkeypatch.setattr("hotloop.validate.ALWAYS_THERE", 0)
    monkeypatch.setattr("hotloop.validate._memory_bytes", lambda: 0.0)
    with pytest.raises(MemoryError) as refusal:
        model.fit(given, target)
    reckoned = int(re.search(r"\((\d+) bytes", str(refusal.value))[1])
    assert 0.6 * peak < reckoned < 1.05 * peak


def test_copies_of_the_weights_in_predictions_from_sparse_rows():
    """None of the first, which has a row for each feature."""
    X = scipy.sparse.random(150, 200_000, 1e-4, "csr", np.float32, random_state=0)
    model = hotloop.MLPClassifier((50,), max_iter=1).fit(X, CODES)
    for n in (150, 1):
        peak, left = traced(lambda n=n: model.predict_proba(X[:n]))
        assert peak < 0.05 * model.coefs_[0].nbytes
        assert left < 0.01 * model.coefs_[0].nbytes
