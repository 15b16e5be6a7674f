"""A few rows are predicted from the weights where they lie. Only the time may show it."""

import gc
import pickle
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import sklearn
from hotloop.kernels.engine import Engine

import hotloop
from hotloop import backends, plan, spec, vectors
from hotloop.estimators import perceptron
from stacks import ACTIVATIONS, LOSSES, Stack, build, child, predict

pytestmark = pytest.mark.compiled

#: Every number of vectors that a tile may have, full and with a tail; narrow layers; wide ones.
WIDTHS = (*range(1, 37), 48, 63, 100, 128, 130, 257)


def one_by_one(problem, *inputs):
    """Outputs for each input; None for one that is refused."""
    compiled = plan.compile_inference(problem.network, dtype=np.dtype(problem.stack.dtype))
    rows = backends.FewRows(compiled)
    weights, biases = vectors.weight_views(problem.network, problem.parameters)
    return [rows.predict(X, weights, biases) for X in inputs]


def assert_same_bits(problem):
    """Rows one by one and a few at once, against all in a batch."""
    X, batch = problem.streams["X"], predict(problem)
    for few in (1, plan.FEW_ROWS):
        cuts = [slice(first, first + few) for first in range(0, len(X) - few + 1, few)]
        got = one_by_one(problem, *(X[cut] for cut in cuts))
        for rows, cut in zip(got, cuts, strict=True):
            assert rows.dtype == batch.dtype
            np.testing.assert_array_equal(rows, batch[cut])
    return batch


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_rows_of_every_width_have_the_bits_of_a_batch(activation, dtype):
    """As outputs, and as inputs, of a layer."""
    for width in WIDTHS:
        stack = Stack((5, width, 3, width), (activation,) * 2, "squared_error", 17, dtype)
        assert_same_bits(build(stack))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_rows_have_the_bits_of_a_batch_after_every_output_activation(loss, dtype):
    """Softmax of short rows and long ones, and the element-wise ones of one output and more."""
    for width in (1, 2, 7, 16, 33):
        if loss != "log_loss" or width > 1:
            batch = assert_same_bits(build(Stack((9, 20, width), ("relu",), loss, 17, dtype)))
            assert np.isfinite(batch).all()


def among_nan(problem):
    """The same parameters, and memory around each weight that must not be used."""
    weights, biases = vectors.weight_views(problem.network, problem.parameters)
    around = [np.full(w.size + 128, np.nan, w.dtype) for w in weights]
    for wide, weight in zip(around, weights, strict=True):
        wide[64:-64] = weight.ravel()
    lying = [wide[64:-64].reshape(w.shape) for wide, w in zip(around, weights, strict=True)]
    return lying, biases


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("inputs", [5, 1025, 2500])
def test_weights_read_in_place_have_the_bits_of_packed_ones(inputs, dtype):
    """One tile of rows and more, whole panels and tails, and reductions cut into blocks."""
    for width in WIDTHS if inputs == 5 else (1, 7, 16, 31, 64, 130):
        problem = build(Stack((inputs, width, 3), ("relu",), "squared_error", 49, dtype))
        weights, biases = among_nan(problem)
        X, packed = problem.streams["X"], predict(problem)
        compiled = plan.compile_inference(problem.network, dtype=np.dtype(dtype), in_place=True)
        for n, n_jobs in ((1, 1), (6, 1), (12, 1), (13, 1), (49, 1), (49, 2)):
            got = backends.predict(compiled, weights, biases, X[:n], n_jobs=n_jobs)
            np.testing.assert_array_equal(got, packed[:n], err_msg=f"{width} {n}")
        weights[0][-1, -1] += 1
        assert (backends.predict(compiled, weights, biases, X) != packed).any()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect by its Linux name")
def test_nothing_is_read_past_the_end_of_a_weight():
    """Each weight ends where a page begins that may not be touched."""
    child(
        """
        import ctypes, mmap
        import numpy as np
        from hotloop import backends, plan, spec

        libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
        libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int

        def at_the_edge(array):
            room = -(-array.nbytes // page) * page
            memory = np.frombuffer(mmap.mmap(-1, room + page), np.uint8)
            assert libc.mprotect(memory.ctypes.data + room, page, 0) == 0
            there = memory[room - array.nbytes : room].view(array.dtype).reshape(array.shape)
            there[...] = array
            return there

        rng = np.random.default_rng(0)
        for dtype in ("float32", "float64"):
            for width in (*range(1, 50), 63, 64, 65, 100, 130):
                widths = (7, width, width)
                layers = spec.Dense(width, "relu"), spec.Dense(width)
                network = spec.Network((7,), layers, spec.LOSSES["squared_error"])
                compiled = plan.compile_inference(network, dtype=np.dtype(dtype), in_place=True)
                pairs = zip(widths[:-1], widths[1:])
                weights = [at_the_edge(rng.normal(size=pair).astype(dtype)) for pair in pairs]
                biases = [at_the_edge(rng.normal(size=width).astype(dtype)) for _ in range(2)]
                for n in (1, 4, 12, 13):
                    X = at_the_edge(rng.normal(size=(n, 7)).astype(dtype))
                    out = backends.predict(compiled, weights, biases, X)
                    assert np.isfinite(out).all()
                    if n <= 4:
                        few = backends.FewRows(compiled).predict(X, weights, biases)
                        assert (few == out).all()
        """
    )


def test_weights_in_place_are_kept_alive():
    """An engine that reads them holds them."""
    network = spec.Network((3,), (spec.Dense(20),), spec.LOSSES["squared_error"])
    compiled = plan.compile_inference(network, dtype=np.dtype("float64"), in_place=True)
    engine, weight = Engine(compiled, {}), np.ones((3, 20))
    engine.pack("parameters", [weight], [np.zeros(20)])
    held = weakref.ref(weight)
    del weight
    gc.collect()
    assert held() is not None


def test_a_plan_without_packed_weights_has_none_to_give():
    """Rather than whatever lies before the store."""
    problem = build(Stack((5, 40, 3), ("relu",), "squared_error", 4, "float32"))
    compiled = plan.compile_inference(problem.network, dtype=np.dtype("float32"), in_place=True)
    state = vectors.State(problem.parameters.reshape(1, -1), {})
    runner = backends.open_runner(compiled, state, {})
    with pytest.raises(ValueError, match="no parameters of this plan"):
        runner.read_state(state)


def test_a_wrong_weight_shows():
    """The comparison above can fail."""
    problem = build(Stack((5, 40, 3), ("relu",), "squared_error", 4, "float32"))
    batch = predict(problem)
    problem.parameters[17] += 1
    assert (one_by_one(problem, problem.streams["X"])[0] != batch).any()


def test_long_rows_and_deep_networks_have_the_bits_of_a_batch():
    """Where the GIL is let go, buffers are beyond the stack, and a sum is cut into blocks."""
    for widths in ((2500, 900, 30, 4), (257, 12), (2500, 7, 3), (3, *[9] * 300, 2)):
        activations = ("tanh",) * (len(widths) - 2)
        assert_same_bits(build(Stack(widths, activations, "squared_error", 8, "float64")))


def test_what_is_not_plain_is_refused():
    """Then the estimators validate, convert or complain."""
    problem = build(Stack((6, 8, 3), ("relu",), "squared_error", 4, "float32"))
    X = problem.streams["X"]
    assert one_by_one(problem, X)[0] is not None
    bad = X.copy()
    bad[2, 5] = np.inf
    shapes = X[:0], X[:, :5], X[0], np.tile(X, (2, 1)), X[:, ::-1], np.asfortranarray(X), X[None]
    kinds = X.astype(float), X.astype(">f4"), X.tolist(), X.view(np.matrix), None, bad, X * np.nan
    assert all(output is None for output in one_by_one(problem, *shapes, *kinds))
    rows = backends.FewRows(plan.compile_inference(problem.network, dtype=np.dtype("float32")))
    weights, biases = vectors.weight_views(problem.network, problem.parameters)
    assert rows.predict(X, weights, biases) is not None
    for k, wrong in enumerate((weights[0].T, weights[0].astype(float), weights[0][:, ::-1], 1.0)):
        assert rows.predict(X, [wrong, weights[1]], biases) is None, k
    assert rows.predict(X, weights, [biases[0][:-1], biases[1]]) is None
    assert rows.predict(X, weights[:1], biases[:1]) is None


# ---- estimators ------------------------------------------------------------------------

rng = np.random.default_rng(0)
DATA = rng.normal(size=(60, 12)).astype(np.float32)
TARGETS = {
    "binary": DATA[:, 0] > 0,
    "strings": np.array(["a", "b", "c"])[rng.integers(3, size=60)],
    "indicators": (DATA[:, :3] > 0).astype(int),
}


@pytest.fixture
def never_in_full(monkeypatch):
    """The path over batches fails."""

    def fail(*args, **kwargs):
        raise AssertionError("took the path of batches")

    monkeypatch.setattr(perceptron.backends, "predict", fail)


def fitted(target="strings", X=DATA):
    return hotloop.MLPClassifier((20, 9), max_iter=2, random_state=0).fit(X, TARGETS[target])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("target", TARGETS)
def test_every_method_gives_the_rows_of_a_batch(target, dtype, request):
    """And does not pack weights for it."""
    X = DATA.astype(dtype)
    classifier = fitted(target, X)
    regressor = hotloop.MLPRegressor(hidden_layer_sizes=(8,), max_iter=2).fit(X, X[:, :2])
    methods = [getattr(classifier, m) for m in ("predict", "predict_proba", "decision_function")]
    methods.append(regressor.predict)
    batch = [method(X) for method in methods]
    request.getfixturevalue("never_in_full")
    for method, expected in zip(methods, batch, strict=True):
        for row in (0, 7):
            np.testing.assert_array_equal(method(X[row : row + 1]), expected[row : row + 1])
    with pytest.raises(AssertionError, match="batches"):
        classifier.predict(X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_edits_of_the_weights_are_seen(never_in_full):
    """In place, and assigned."""
    classifier, row = fitted(), DATA[:1]
    seen = [classifier.decision_function(row)]
    classifier.coefs_[1][:] *= 2
    seen.append(classifier.decision_function(row))
    classifier.intercepts_[2] = classifier.intercepts_[2] + np.float32(1)
    seen.append(classifier.decision_function(row))
    classifier.intercepts_ = [b + np.float32(1) for b in classifier.intercepts_]
    seen.append(classifier.decision_function(row))
    assert len({outputs.tobytes() for outputs in seen}) == 4
    np.testing.assert_allclose(seen[2] - seen[1], 1, rtol=1e-5)
    fresh = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(fresh.decision_function(row), seen[3])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_scikit_learn_would_say_is_said_of_one_row():
    """As of a batch: not fitted, wrong width, not finite, no names; and its configuration holds."""
    with pytest.raises(sklearn.exceptions.NotFittedError):
        hotloop.MLPClassifier().predict(DATA[:1])
    classifier, bad = fitted(), DATA[:1].copy()
    with pytest.raises(ValueError, match="X has 11 features, but MLPClassifier is expecting 12"):
        classifier.predict(DATA[:1, :11].copy())
    for value in (np.nan, np.inf):
        bad[0, 3] = value
        with pytest.raises(ValueError, match="Input X contains"):
            classifier.predict_proba(bad)
    with sklearn.config_context(assume_finite=True):
        assert classifier.predict_proba(bad).shape == (1, 3)
    named = fitted(X=pd.DataFrame(DATA, columns=list("abcdefghijkl")))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        named.predict(DATA[:1])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_sixty_four_threads_predict_rows_on_one_estimator():
    """Each gets its own rows."""
    classifier, start = fitted(), threading.Barrier(64)
    wide = hotloop.MLPClassifier((700, 300), max_iter=1).fit(DATA, TARGETS["strings"])
    batches = {model: model.predict_proba(DATA) for model in (classifier, wide)}

    def look(k):
        start.wait()
        return all(
            np.array_equal(model.predict_proba(DATA[row : row + 1]), batch[row : row + 1])
            for row in range(k % 7, 60, 3)
            for model, batch in batches.items()
        )

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(look, range(64)))
