"""Bad input gets the kind of error scikit-learn raises, with what to do, and never a crash."""

import json
import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn.neural_network

import hotloop

NAMES = ("MLPClassifier", "MLPRegressor")
every_class = pytest.mark.parametrize("name", NAMES)
X = np.random.default_rng(0).normal(size=(12, 3))
y = np.tile([0, 1, 2], 4)


def with_value(value, dtype=float):
    bad = X.astype(dtype)
    bad[5, 1] = value
    return bad


def error_of(module, name, call, **parameters):
    """The exception a call ends with, or None."""
    estimator = getattr(module, name)(**{"max_iter": 2, "hidden_layer_sizes": (3,), **parameters})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call(estimator)
        except Exception as error:
            return error


def assert_refused_alike(name, call, **parameters):
    """Both raise; ours is of scikit-learn's kind and says something."""
    ours = error_of(hotloop, name, call, **parameters)
    theirs = error_of(sklearn.neural_network, name, call, **parameters)
    assert theirs is not None, "scikit-learn accepts this; the case belongs elsewhere"
    assert isinstance(ours, type(theirs)), f"{ours!r}, scikit-learn: {theirs!r}"
    assert len(str(ours)) > 10


BAD_TRAINING_SETS = {
    "NaN": (with_value(np.nan), y),
    "infinity": (with_value(np.inf), y),
    "too large for float32": (with_value(np.inf, np.float32), y),
    "complex": (X.astype(complex), y),
    "strings": (np.full(X.shape, "a"), y),
    "objects": (np.full(X.shape, object()), y),
    "ragged": ([[1, 2], [3]], [0, 1]),
    "no rows": (X[:0], y[:0]),
    "no columns": (X[:, :0], y),
    "one-dimensional": (X[:, 0], y),
    "three-dimensional": (X[None], y),
    "a number": (3.0, y),
    "None": (None, y),
    "sparse NaN": (sp.csr_matrix(with_value(np.nan)), y),
    "sparse infinity": (sp.csc_matrix(with_value(-np.inf)), y),
    "sparse complex": (sp.csr_matrix(X.astype(complex)), y),
    "fewer targets": (X, y[:-1]),
    "more targets": (X, np.r_[y, 0]),
    "no target": (X, None),
    "target NaN": (X, np.where(y == 1, np.nan, y)),
    "target infinite": (X, np.where(y == 1, np.inf, y)),
    "target three-dimensional": (X, y[:, None, None]),
    "target complex": (X, y.astype(complex)),
    "target sparse column": (X, sp.csr_matrix(y[:, None])),
}


@every_class
@pytest.mark.parametrize("case", BAD_TRAINING_SETS)
def test_a_bad_training_set_is_refused_as_sklearn_refuses_it(name, case):
    """Values, types, ranks and lengths that cannot be learnt from, in fit and partial_fit."""
    data = BAD_TRAINING_SETS[case]
    assert_refused_alike(name, lambda estimator: estimator.fit(*data))
    first = {"classes": [0, 1, 2]} if name == "MLPClassifier" else {}
    assert_refused_alike(name, lambda estimator: estimator.partial_fit(*data, **first))


@pytest.mark.parametrize(
    ("case", "target"),
    {
        "continuous": np.linspace(0, 1, 12),
        "several continuous outputs": np.c_[y, y] + 0.5,
        "unseen by classes": y + 1,
    }.items(),
)
def test_bad_labels_are_refused_as_sklearn_refuses_them(case, target):
    """Targets a classifier cannot have."""
    if case == "unseen by classes":
        call = lambda e: e.partial_fit(X, y, classes=[0, 1])  # noqa: E731
    else:
        call = lambda e: e.fit(X, target)  # noqa: E731
    assert_refused_alike("MLPClassifier", call)


BAD_WEIGHTS = {
    "wrong length": np.ones(11),
    "two-dimensional": np.ones((12, 1)),
    "NaN": np.full(12, np.nan),
    "infinite": np.full(12, np.inf),
    "strings": np.full(12, "a"),
}


@every_class
@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights_are_refused_as_sklearn_refuses_them(name, case):
    """Length, rank and values of sample_weight."""
    weights = BAD_WEIGHTS[case]
    assert_refused_alike(name, lambda e: e.fit(X, y, sample_weight=weights))


@pytest.mark.parametrize(
    ("weights", "word"), [(np.where(y == 2, -1.0, 1.0), "negative"), (np.zeros(12), "zero")]
)
@every_class
def test_negative_weights_and_weights_of_zero_are_refused(name, weights, word):
    """scikit-learn lets the first pass silently, and before 1.9 divides by the second's sum."""
    said = error_of(hotloop, name, lambda e: e.fit(X, y, sample_weight=weights))
    assert isinstance(said, ValueError)
    assert word in str(said).lower()


BAD_PREDICTIONS = {
    "other width": X[:, :2],
    "wider": np.c_[X, X],
    "NaN": with_value(np.nan),
    "infinite": with_value(-np.inf),
    "one-dimensional": X[0],
    "no rows": X[:0],
    "strings": np.full(X.shape, "a"),
    "complex": X.astype(complex),
    "sparse NaN": sp.csr_matrix(with_value(np.nan)),
    "sparse other width": sp.csr_matrix(X[:, :2]),
    "None": None,
}


@every_class
@pytest.mark.parametrize("case", BAD_PREDICTIONS)
def test_bad_input_to_predict_is_refused_as_sklearn_refuses_it(name, case):
    """In predict, predict_proba, score and partial_fit after fit."""
    bad = BAD_PREDICTIONS[case]
    assert_refused_alike(name, lambda e: e.fit(X, y).predict(bad))
    assert_refused_alike(name, lambda e: e.fit(X, y).score(bad, y))
    assert_refused_alike(name, lambda e: e.fit(X, y).partial_fit(bad, y))
    if name == "MLPClassifier":
        assert_refused_alike(name, lambda e: e.fit(X, y).predict_proba(bad))
        assert_refused_alike(name, lambda e: e.fit(X, y).predict_log_proba(bad))


@every_class
def test_predicting_before_fitting_is_refused_as_sklearn_refuses_it(name):
    """NotFittedError from every method."""
    assert_refused_alike(name, lambda e: e.predict(X))
    assert_refused_alike(name, lambda e: e.score(X, y))
    if name == "MLPClassifier":
        assert_refused_alike(name, lambda e: e.predict_proba(X))


BAD_PARAMETERS = [
    *({"hidden_layer_sizes": v} for v in (0, -1, (3, 0), (3, -2), "a", 2.5, None)),
    *({"activation": v} for v in ("swish", None, 3)),
    *({"solver": v} for v in ("newton", None)),
    *({"alpha": v} for v in (-1e-9, "a", np.nan)),
    *({"batch_size": v} for v in (0, -5, 2.5, "all")),
    *({"learning_rate": v} for v in ("sudden", 3)),
    *({"learning_rate_init": v} for v in (0, -1, "a")),
    *({"max_iter": v} for v in (0, -1, 1.5, "a", np.inf)),
    *({"momentum": v} for v in (-0.1, 1.1)),
    *({"beta_1": v} for v in (-0.1, 1.0)),
    *({"beta_2": v} for v in (-0.1, 1.0)),
    *({"epsilon": v} for v in (0, -1)),
    *({"tol": v} for v in (-1, "a")),
    *({"n_iter_no_change": v} for v in (0, -1, 1.5)),
    *({"validation_fraction": v, "early_stopping": True} for v in (-0.1, 1.0, 1.5)),
    *({"early_stopping": v} for v in ("yes", 2.5)),
    *({"shuffle": v} for v in ("yes", None)),
    *({"random_state": v} for v in (-1, "a", 2.5)),
    *({"power_t": v} for v in (-1, "a")),
    *({"max_fun": v} for v in (0, -1)),
    *({"warm_start": v} for v in ("yes", None)),
    *({"verbose": v} for v in ("yes", -1)),
]


@every_class
@pytest.mark.parametrize("parameters", BAD_PARAMETERS, ids=str)
def test_bad_parameters_are_refused_as_sklearn_refuses_them(name, parameters):
    """Out of range or of the wrong type; found in fit, not before."""
    assert_refused_alike(name, lambda e: e.fit(X, y), **parameters)


@pytest.mark.parametrize("loss", ["hubert", None, 3])
def test_a_bad_loss_is_refused_as_sklearn_refuses_it(loss):
    """The regressor's loss is a name that is known, or a function."""
    assert_refused_alike("MLPRegressor", lambda e: e.fit(X, y), loss=loss)


@every_class
def test_early_stopping_in_partial_fit_is_refused_as_sklearn_refuses_it(name):
    """And too few rows for a validation set."""
    first = {"classes": [0, 1, 2]} if name == "MLPClassifier" else {}
    assert_refused_alike(name, lambda e: e.partial_fit(X, y, **first), early_stopping=True)
    assert_refused_alike(name, lambda e: e.fit(X[:5], [0, 1, 0, 1, 0]), early_stopping=True)


@every_class
def test_one_row_and_one_class_train_as_in_sklearn(name):
    """Both libraries take them: the same weights, predictions of the same shape and kind."""
    for data in ((X[:1], y[:1]), (X, np.zeros(12, int)), (X[:1], ["a"])):
        if name == "MLPRegressor" and isinstance(data[1][0], str):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours, theirs = (
                getattr(module, name)(max_iter=3, random_state=0).fit(*data)
                for module in (hotloop, sklearn.neural_network)
            )
        np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], rtol=1e-9)
        got, expected = ours.predict(X), theirs.predict(X)
        assert (got.shape, got.dtype.kind) == (expected.shape, expected.dtype.kind)


# What could crash the process runs in another one.

CHILD = textwrap.dedent(
    """
    import json, sys, warnings
    warnings.simplefilter("ignore")
    import numpy as np, scipy.sparse as sp
    import hotloop

    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 6)) * (rng.random((40, 6)) < 0.5)
    y = np.tile([0, 1], 20)

    def tampered(container, change):
        A = container(X)
        change(A)
        return A

    def put(array_name, place, value):
        def change(A):
            getattr(A, array_name)[place] = value
        return change

    def replace(array_name, make):
        def change(A):
            setattr(A, array_name, make(getattr(A, array_name)))
        return change

    CHANGES = {
        "index far out": put("indices", 3, 2**30),
        "index at the width": put("indices", -1, 6),
        "negative index": put("indices", 0, -1),
        "most negative index": put("indices", 5, -(2**31)),
        "decreasing indptr": put("indptr", 5, 0),
        "indptr beyond the data": put("indptr", -1, 10**6),
        "indptr not starting at 0": put("indptr", 0, 3),
        "negative indptr": put("indptr", 4, -5),
        "huge indptr": put("indptr", 2, 2**31 - 1),
        "indptr too short": replace("indptr", lambda p: p[:-3].copy()),
        "indptr too long": replace("indptr", lambda p: np.r_[p, p[-1], p[-1]]),
        "fewer indices than data": replace("indices", lambda i: i[:-4].copy()),
        "less data than indices": replace("data", lambda d: d[:-4].copy()),
        "float indices": replace("indices", lambda i: i.astype(float)),
    }
    Y = np.tile(np.c_[y, 1 - y], 3)
    LABELS = {name: getattr(sp, name) for name in ("csr_matrix", "csc_matrix", "bsr_array")}
    NOT_FLAT = {
        "data of no columns": replace("data", lambda d: np.stack((d, d), axis=1)[:, :0]),
        "data of two columns": replace("data", lambda d: np.stack((d, d), axis=1)),
    }

    def shorten(lists):
        lists[3] = lists[3][:-1]
        return lists

    def lengthen(lists):
        lists[3] = lists[3] + [1]
        return lists

    ODD = {
        "lil": {
            "rows longer": replace("rows", lengthen),
            "data shorter": replace("data", shorten),
            "fewer rows": replace("rows", lambda r: r[:-2].copy()),
            "less data": replace("data", lambda d: d[:-2].copy()),
            "no lists": put("rows", 3, 7),
            "index out": put("rows", 3, [2**30]),
        },
        "dia": {
            "fewer offsets": replace("offsets", lambda o: o[:-1].copy()),
            "one offset": replace("offsets", lambda o: o[:1].copy()),
            "flat data": replace("data", lambda d: d.ravel()),
        },
        "bsr": {
            **NOT_FLAT,
            "flat data": replace("data", lambda d: d.ravel()),
            "index out": put("indices", 0, 2**30),
        },
        "csr": NOT_FLAT,
        "csc": NOT_FLAT,
        "coo": NOT_FLAT,
    }
    CONTAINERS = {name: getattr(sp, name) for name in ("csr_matrix", "csr_array", "csc_matrix")}
    SIZES = ((10**9,), (10**6, 10**6), (2**31, 2**31), (10**18,), (2**63,), (100, 10**9))

    def cases():
        fitted = hotloop.MLPClassifier((8,), max_iter=2, random_state=0).fit(X, y)
        for container_name, container in CONTAINERS.items():
            width = 6 if "csr" in container_name else 40
            for change_name, change in CHANGES.items():
                if "at the width" in change_name:
                    change = put("indices", -1, width)
                for call_name in ("fit", "partial_fit", "predict_proba"):
                    def call(container=container, change=change, call_name=call_name):
                        A = tampered(container, change)
                        if call_name == "predict_proba":
                            fitted.predict_proba(A)
                        else:
                            extra = {"classes": [0, 1]} if call_name == "partial_fit" else {}
                            new = hotloop.MLPClassifier((8,), max_iter=2)
                            getattr(new, call_name)(A, y, **extra)
                    yield f"{container_name} {change_name} {call_name}", call
        for kind, changes in ODD.items():
            for change_name, change in changes.items():
                for call_name in ("fit", "predict_proba"):
                    def call(kind=kind, change=change, call_name=call_name):
                        A = tampered(getattr(sp, f"{kind}_matrix"), change)
                        if call_name == "predict_proba":
                            fitted.predict_proba(A)
                        else:
                            hotloop.MLPClassifier((8,), max_iter=2).fit(A, y)
                    yield f"odd {kind} {change_name} {call_name}", call
        for container_name, container in LABELS.items():
            for change_name, change in CHANGES.items():
                if "at the width" in change_name:
                    change = put("indices", -1, 40 if "csc" in container_name else 6)
                for call_name in ("fit", "partial_fit"):
                    def call(container=container, change=change, call_name=call_name):
                        labels = container(Y)
                        change(labels)
                        extra = {"classes": range(6)} if call_name == "partial_fit" else {}
                        new = hotloop.MLPClassifier((8,), max_iter=2)
                        getattr(new, call_name)(X, labels, **extra)
                    yield f"labels {container_name} {change_name} {call_name}", call
        for cls in (hotloop.MLPClassifier, hotloop.MLPRegressor):
            for sizes in SIZES:
                for solver in ("adam", "sgd", "lbfgs"):
                    def call(cls=cls, sizes=sizes, solver=solver):
                        cls(hidden_layer_sizes=sizes, solver=solver, max_iter=2).fit(X, y)
                    yield f"{cls.__name__} {sizes} {solver}", call

    for case, call in cases():
        print(json.dumps(["begin", case]), flush=True)
        try:
            call()
        except BaseException as error:
            print(json.dumps([type(error).__name__, str(error)]), flush=True)
        else:
            print(json.dumps(["nothing", ""]), flush=True)
    print(json.dumps(["begin", "end"]), flush=True)
    """
)


@pytest.fixture(scope="module")
def dangerous():
    """Case -> [exception's name, message] of everything that might crash."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=900,
    )
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert lines, child.stderr
    last = lines[-1]
    assert last == ["begin", "end"], f"died with {child.returncode} in {last}: {child.stderr}"
    return {case: outcome for (_, case), outcome in zip(lines[::2], lines[1::2], strict=False)}


def test_a_malformed_sparse_matrix_is_a_value_error(dangerous):
    """Tampered after construction, CSR or CSC, in fit, partial_fit and predict_proba."""
    sparse = {k: v for k, v in dangerous.items() if k.startswith("cs")}
    assert len(sparse) == 3 * 14 * 3
    wrong = {k: v for k, v in sparse.items() if v[0] not in ("ValueError", "TypeError")}
    assert not wrong, "\n".join(f"{k}: {v}" for k, v in wrong.items())


def test_arrays_of_odd_shapes_in_any_sparse_format_are_a_value_error(dangerous):
    """LIL and DIA whose parts differ in length, data that is not flat, blocks that do not fit."""
    odd = {k: v for k, v in dangerous.items() if k.startswith("odd ")}
    assert len(odd) == 2 * (6 + 3 + 4 + 3 * 2)
    wrong = {k: v for k, v in odd.items() if v[0] != "ValueError" or "X is a malfo" not in v[1]}
    assert not wrong, "\n".join(f"{k}: {v}" for k, v in wrong.items())


def test_a_malformed_sparse_y_is_a_value_error_that_names_y(dangerous):
    """An indicator matrix is judged as X is."""
    labels = {k: v for k, v in dangerous.items() if k.startswith("labels ")}
    assert len(labels) == 3 * 14 * 2
    wrong = {k: v for k, v in labels.items() if v[0] != "ValueError" or "y is a malfo" not in v[1]}
    assert not wrong, "\n".join(f"{k}: {v}" for k, v in wrong.items())


def test_absurd_sizes_are_an_error_at_once(dangerous):
    """10**9 units, products that overflow: MemoryError or ValueError, not a killed process."""
    sizes = {k: v for k, v in dangerous.items() if k.startswith("MLP")}
    assert len(sizes) == 2 * 6 * 3
    wrong = {k: v for k, v in sizes.items() if v[0] not in ("ValueError", "MemoryError")}
    assert not wrong, "\n".join(f"{k}: {v}" for k, v in wrong.items())


def test_a_matrix_with_repeated_and_unsorted_entries_is_added_up_as_sklearn_does():
    """Duplicates and disorder are legal in CSR and CSC, and mean what they mean in SciPy."""
    rows, columns = np.repeat(np.arange(12), 4), np.tile([2, 0, 1, 0], 12)
    A = sp.csr_matrix((np.arange(48.0) / 10, columns, np.arange(0, 49, 4)), shape=(12, 3))
    assert not A.has_canonical_format
    dense = sp.coo_matrix((A.data, (rows, columns)), shape=(12, 3)).toarray()
    for container in (sp.csr_matrix, sp.csc_matrix):
        before = container(A).copy()
        given = container(A)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = hotloop.MLPClassifier(max_iter=3, random_state=0).fit(given, y)
            expected = hotloop.MLPClassifier(max_iter=3, random_state=0).fit(dense, y)
        np.testing.assert_allclose(fitted.coefs_[0], expected.coefs_[0], rtol=1e-9)
        np.testing.assert_allclose(
            fitted.predict_proba(given), expected.predict_proba(dense), rtol=1e-9
        )
        np.testing.assert_array_equal(given.indices, before.indices)
        np.testing.assert_array_equal(given.data, before.data)


@every_class
def test_csr_of_more_columns_than_an_index_can_tell_is_refused(name):
    """Kernels keep columns in 32 bits."""
    wide = sp.csr_matrix(([1.0], ([0], [2**31])), shape=(12, 2**31 + 1))
    said = error_of(hotloop, name, lambda e: e.fit(wide, y))
    assert isinstance(said, ValueError)
    assert "columns" in str(said)


@every_class
@pytest.mark.parametrize("precision", ["float32", "bfloat16_emulated"])
@pytest.mark.parametrize("value", [1e300, -1e39])
def test_predictions_refuse_values_too_large_for_float32_as_fit_does(name, precision, value):
    """In a batch, in one row and in CSR; infinity would have become NaN."""
    bad = with_value(value)
    expected = error_of(hotloop, name, lambda e: e.fit(bad, y), precision=precision)
    assert "float32" in str(expected)
    for given in (bad, bad[5:6], sp.csr_matrix(bad), sp.csr_matrix(bad[5:6])):
        said = error_of(hotloop, name, lambda e: e.fit(X, y).predict(given), precision=precision)  # noqa: B023
        assert (type(said), str(said)) == (type(expected), str(expected))
    assert error_of(hotloop, name, lambda e: e.fit(X, y).predict(bad)) is None


@every_class
@pytest.mark.parametrize(
    "weights", [1e60, 1e-60, np.r_[1e39, np.ones(11)], np.r_[1e-40, np.ones(11)]]
)
def test_weights_beyond_float32_are_named(name, weights):
    """Where float32 computes; float64 takes them."""
    weights = np.broadcast_to(weights, 12).astype(float)
    for given in ({"precision": "float32"}, {"precision": "auto"}):
        rows = X if given["precision"] == "float32" else X.astype(np.float32)
        said = error_of(hotloop, name, lambda e: e.fit(rows, y, sample_weight=weights), **given)  # noqa: B023
        assert isinstance(said, ValueError)
        assert "sample_weight" in str(said)
        assert "1.17549e-38 to 3.40282e+38" in str(said)
    assert error_of(hotloop, name, lambda e: e.fit(X, y, sample_weight=weights)) is None


@pytest.mark.parametrize("target", [y.astype(str), y.astype("S"), list(map(str, y))])
def test_a_regressor_refuses_strings_as_sklearn_refuses_them(target):
    """A TypeError there, too, if an obscure one."""
    for method in ("fit", "partial_fit"):
        for module in (hotloop, sklearn.neural_network):
            said = error_of(module, "MLPRegressor", lambda e: getattr(e, method)(X, target))  # noqa: B023
            assert isinstance(said, TypeError)


@every_class
@pytest.mark.parametrize("n_jobs", [0, True, 1.0])
def test_predictions_of_any_number_of_rows_refuse_a_bad_n_jobs(name, n_jobs):
    """As fit does, also if it was set after the fit."""
    assert isinstance(error_of(hotloop, name, lambda e: e.fit(X, y), n_jobs=n_jobs), ValueError)
    for n in (1, 12):
        call = lambda e: e.fit(X, y).set_params(n_jobs=n_jobs).predict(X[:n])  # noqa: B023, E731
        assert "n_jobs" in str(error_of(hotloop, name, call))


@every_class
@pytest.mark.parametrize(("passes", "refused"), [({"shuffle": True}, 1), ({"max_iter": 1}, 1.0)])
def test_a_value_that_passed_does_not_let_its_equal_of_another_type_pass(name, passes, refused):
    """True == 1 == 1.0, and they hash alike."""
    assert error_of(hotloop, name, lambda e: e.fit(X, y), **passes) is None
    assert_refused_alike(name, lambda e: e.fit(X, y), **dict.fromkeys(passes, refused))
