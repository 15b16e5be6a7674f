"""The estimators as objects: parameters, attributes, editable weights, predictions, dtypes."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn.neural_network
from scipy.special import expit, log_softmax
from sklearn.base import clone
from sklearn.datasets import load_iris, make_multilabel_classification

import hotloop

NAMES = ("MLPClassifier", "MLPRegressor")
every_class = pytest.mark.parametrize("name", NAMES)
X, y = load_iris(return_X_y=True)
TARGETS = {
    "binary": y > 1,
    "multiclass": y,
    "multilabel": make_multilabel_classification(150, n_classes=3, random_state=0)[1],
}
every_target = pytest.mark.parametrize("target", TARGETS)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def fitted(name="MLPClassifier", data=(X, y), module=hotloop, **parameters):
    parameters = {"hidden_layer_sizes": (9,), "max_iter": 5, "random_state": 0, **parameters}
    return getattr(module, name)(**parameters).fit(*data)


# Parameters and attributes.


@every_class
def test_parameters_are_sklearns_and_then_new_ones(name):
    """Same names, order, defaults and kinds; what is new is keyword-only and comes after."""
    ours = list(inspect.signature(getattr(hotloop, name)).parameters.values())
    theirs = list(inspect.signature(getattr(sklearn.neural_network, name)).parameters.values())
    assert ours[: len(theirs)] == theirs
    assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


def spelled(constraints):
    """Constraints as something that compares by value: names, and the others."""
    names = {option for c in constraints for option in getattr(c, "options", ())}
    return names, {str(c) for c in constraints if not hasattr(c, "options")}


#: Parameters that take more than scikit-learn's: other names, functions and objects.
TAKE_MORE = ("activation", "loss", "solver", "learning_rate")


@every_class
def test_parameter_constraints_are_sklearns(name):
    """What scikit-learn takes is taken; what it refuses is refused, but where there is more."""
    ours = getattr(hotloop, name)._parameter_constraints
    theirs = getattr(sklearn.neural_network, name)._parameter_constraints
    for parameter, constraints in theirs.items():
        taken, there = spelled(ours[parameter]), spelled(constraints)
        if parameter in TAKE_MORE:
            assert all(a >= b for a, b in zip(taken, there, strict=True)), parameter
        else:
            assert taken == there, parameter


@every_class
def test_clone_get_params_and_set_params(name):
    """Parameters go in and come out as they are; a clone is unfitted and equal."""
    estimator = fitted(name, alpha=0.5)
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params()
    assert not [a for a in vars(copy) if a.endswith("_")]
    copy.set_params(solver="sgd", hidden_layer_sizes=(3, 4))
    assert copy.get_params()["solver"] == "sgd"
    with pytest.raises(ValueError, match="Invalid parameter"):
        copy.set_params(width=3)
    sizes = [3, 4]
    assert getattr(hotloop, name)(hidden_layer_sizes=sizes).hidden_layer_sizes is sizes


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@every_class
def test_public_attributes_are_sklearns(name, solver, early_stopping):
    """The same set after fit and one more, of the same types."""
    how = {"solver": solver, "early_stopping": early_stopping}
    ours, theirs = (fitted(name, module=m, **how) for m in (hotloop, sklearn.neural_network))
    public = [{a for a in vars(m) if a.endswith("_")} for m in (ours, theirs)]
    more = {"device_", "validation_loss_curve_"} if solver != "lbfgs" else {"device_"}
    assert public[0] == public[1] | more
    for attribute in public[1]:
        got, expected = getattr(ours, attribute), getattr(theirs, attribute)
        number = isinstance(expected, (float, int, np.number))
        assert number or type(got) is type(expected), attribute
        assert not number or np.ndim(got) == 0


def test_label_binarizer_is_there_for_third_parties():
    """skl2onnx reads _label_binarizer; it is not stored."""
    estimator = fitted()
    theirs = fitted(module=sklearn.neural_network)
    np.testing.assert_array_equal(
        estimator._label_binarizer.transform(y), theirs._label_binarizer.transform(y)
    )
    assert "_label_binarizer" not in vars(estimator)


@every_class
def test_partial_fit_exists_for_stochastic_solvers_only(name):
    """Also for the regressor, where scikit-learn advertises it and then fails."""
    cls = getattr(hotloop, name)
    assert hasattr(cls(solver="adam"), "partial_fit")
    assert not hasattr(cls(solver="lbfgs"), "partial_fit")
    with pytest.raises(AttributeError) as raised:
        cls(solver="lbfgs").partial_fit  # noqa: B018
    assert "stochastic" in str(raised.value.__cause__)


def test_only_the_classifier_has_a_decision_function():
    """And probabilities."""
    assert hasattr(hotloop.MLPClassifier, "decision_function")
    assert not hasattr(hotloop.MLPRegressor(), "decision_function")
    assert not hasattr(hotloop.MLPRegressor(), "predict_proba")


# coefs_ and intercepts_ are the truth.


def with_sklearns_arithmetic(estimator, data):
    """Raw output of the network by coefs_ and intercepts_ as they are now."""
    h = data
    for k, (coef, intercept) in enumerate(
        zip(estimator.coefs_, estimator.intercepts_, strict=True)
    ):
        h = h @ coef + intercept
        if k < len(estimator.coefs_) - 1:
            h = np.maximum(h, 0)
    return h


@every_class
def test_weights_are_views_of_one_vector(name):
    """All coefs row-major, then all intercepts, one memory."""
    estimator = fitted(name, hidden_layer_sizes=(4, 3))
    arrays = [*estimator.coefs_, *estimator.intercepts_]
    assert all(a.flags.c_contiguous and a.flags.writeable for a in arrays)
    starts = [a.__array_interface__["data"][0] for a in arrays]
    ends = [start + a.nbytes for start, a in zip(starts, arrays, strict=True)]
    assert starts[1:] == ends[:-1]


EDITS = {
    "in place": lambda e: e.coefs_[0].__imul__(1.5),
    "one element": lambda e: e.intercepts_[0].__setitem__(0, 3.0),
    "an array assigned": lambda e: e.coefs_.__setitem__(1, -e.coefs_[1]),
    "a list assigned": lambda e: setattr(e, "coefs_", [c * 2 for c in e.coefs_]),
    "another layout": lambda e: e.coefs_.__setitem__(0, np.asfortranarray(e.coefs_[0] * 0.5)),
    "read-only": lambda e: e.coefs_.__setitem__(0, np.broadcast_to(e.coefs_[0][:1], (4, 9))),
}


@pytest.mark.parametrize("edit", EDITS)
def test_predict_sees_edited_weights(edit):
    """Edited in place or assigned, before and after a first predict."""
    estimator = fitted("MLPRegressor")
    estimator.predict(X)
    EDITS[edit](estimator)
    expected = with_sklearns_arithmetic(estimator, X).ravel()
    np.testing.assert_allclose(estimator.predict(X), expected, rtol=1e-12)
    np.testing.assert_allclose(estimator.predict(X[:1]), expected[:1], rtol=1e-12)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("edit", EDITS)
def test_partial_fit_goes_on_from_edited_weights(edit, solver):
    """As scikit-learn does from the same edit."""
    both = []
    for module in (hotloop, sklearn.neural_network):
        estimator = fitted("MLPRegressor", module=module, solver=solver)
        if edit == "read-only" and module is not hotloop:
            estimator.coefs_[0] = np.array(np.broadcast_to(estimator.coefs_[0][:1], (4, 9)))
        else:
            EDITS[edit](estimator)
        both.append(estimator.partial_fit(X, y))
    ours, theirs = both
    for got, expected in zip(
        ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-12)


def test_weights_of_a_wrong_shape_are_refused_by_predict():
    """The message says what is there and what is needed; nothing is read out of bounds."""
    estimator = fitted("MLPRegressor")
    estimator.coefs_[1] = np.zeros((5, 1))
    with pytest.raises(ValueError, match="coefs_"):
        estimator.predict(X)


def test_partial_fit_leaves_the_arrays_it_started_from_alone():
    """Someone who kept a reference to coefs_ keeps the old weights."""
    estimator = fitted("MLPRegressor")
    kept, copies = estimator.coefs_, [c.copy() for c in estimator.coefs_]
    estimator.partial_fit(X, y)
    for old, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(old, copy)


# Predictions.


@every_target
def test_predict_log_proba_is_the_log_of_predict_proba(target):
    """Bit for bit where the probability is not zero."""
    estimator = fitted(data=(X, TARGETS[target]))
    log_proba, proba = estimator.predict_log_proba(X), estimator.predict_proba(X)
    np.testing.assert_array_equal(log_proba, np.log(proba))


@every_target
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predict_log_proba_is_finite_where_a_probability_rounds_to_zero(target, dtype):
    """There it is the log-softmax, or the log of the logistic, of the output."""
    estimator = fitted(data=(X.astype(dtype), TARGETS[target]))
    estimator.coefs_[-1] *= 2000
    proba = estimator.predict_proba(X.astype(dtype))
    log_proba = estimator.predict_log_proba(X.astype(dtype))
    raw = with_sklearns_arithmetic(estimator, X.astype(dtype)).astype(np.float64)
    assert (proba == 0).any()
    assert np.isfinite(log_proba).all()
    if target == "multiclass":
        expected = log_softmax(raw, axis=1)
    elif target == "binary":
        expected = np.c_[-np.logaddexp(0, raw), -np.logaddexp(0, -raw)]
    else:
        expected = -np.logaddexp(0, -raw)
    np.testing.assert_allclose(log_proba[proba == 0], expected[proba == 0], rtol=1e-3)
    np.testing.assert_array_equal(log_proba[proba > 0], np.log(proba[proba > 0]))


@every_target
def test_decision_function_agrees_with_predict_and_predict_proba(target):
    """One column for two classes; its sign or largest column is what predict says."""
    estimator = fitted(data=(X, TARGETS[target]), max_iter=50)
    scores, labels = estimator.decision_function(X), estimator.predict(X)
    if target == "multiclass":
        assert scores.shape == (150, 3)
        np.testing.assert_array_equal(estimator.classes_[scores.argmax(axis=1)], labels)
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        expected = e / e.sum(axis=1, keepdims=True)
    elif target == "binary":
        assert scores.shape == (150,)
        np.testing.assert_array_equal(estimator.classes_[(scores > 0).astype(int)], labels)
        expected = np.c_[1 - expit(scores), expit(scores)]
    else:
        assert scores.shape == (150, 3)
        np.testing.assert_array_equal((scores > 0).astype(int), labels)
        expected = expit(scores)
    np.testing.assert_allclose(estimator.predict_proba(X), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_target
def test_one_row_is_predicted_as_in_a_batch(target, dtype):
    """The same bits from every method, dense and sparse, alone or among others."""
    data = X.astype(dtype)
    estimator = fitted(data=(data, TARGETS[target]))
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        whole = getattr(estimator, method)(data)
        sparse = getattr(estimator, method)(sp.csr_matrix(data))
        for row in (0, 77, 149):
            one = getattr(estimator, method)(data[row : row + 1])
            np.testing.assert_array_equal(one, whole[row : row + 1])
            one = getattr(estimator, method)(sp.csr_matrix(data[row : row + 1]))
            np.testing.assert_array_equal(one, sparse[row : row + 1])


@every_target
def test_probabilities_have_sklearns_form(target):
    """Columns ordered as classes_; two for two classes; they sum to one but for multilabel."""
    ours = fitted(data=(X, TARGETS[target]))
    theirs = fitted(data=(X, TARGETS[target]), module=sklearn.neural_network)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    got, expected = ours.predict_proba(X), theirs.predict_proba(X)
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.predict(X).dtype == theirs.predict(X).dtype


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["a", "bb", "ccc"]),
        np.array(["a", "bb", "ccc"], dtype=object),
        np.array([-5, 0, 7]),
        np.array([1.0, 2.0, 3.0]),
        np.array([2**40, 1, 3]),
        np.array([0, 1, 2], dtype=np.uint8),
    ],
    ids=lambda a: a.dtype.str,
)
def test_labels_of_every_type_come_back(labels):
    """classes_ and predict keep the labels' values and dtype."""
    ours, theirs = (
        fitted(data=(X, labels[y]), module=m) for m in (hotloop, sklearn.neural_network)
    )
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    assert ours.classes_.dtype == theirs.classes_.dtype
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.predict(X).dtype == theirs.predict(X).dtype


@every_class
def test_predict_is_thread_safe(name):
    """Eight threads on one estimator, inputs of many sizes: the same bits as alone."""
    estimator = fitted(name)
    expected = estimator.predict(X)

    def check(k):
        rows = slice(k % 100, 150 - k % 40)
        np.testing.assert_array_equal(estimator.predict(X[rows]), expected[rows])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, range(400)))


@every_class
def test_input_of_any_layout_gives_the_same(name):
    """Fortran order, strides, lists, integers, read-only: as their C-contiguous copy."""
    whole = np.round(X * 2)
    expected = fitted(name, data=(whole, y))
    wide = np.repeat(whole, 2, axis=1)
    locked = whole.copy()
    locked.flags.writeable = False
    for other in (
        np.asfortranarray(whole),
        wide[:, ::2],
        whole[::-1][::-1],
        whole.tolist(),
        whole.astype(np.int64),
        whole.astype(">f8"),
        locked,
    ):
        got = fitted(name, data=(other, y))
        np.testing.assert_array_equal(got.coefs_[0], expected.coefs_[0])
        np.testing.assert_array_equal(got.predict(other), expected.predict(whole))


# Dtypes and precision.


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32, bool])
@every_class
def test_dtypes_follow_x_as_in_sklearn(name, dtype):
    """float32 stays float32, everything else is computed in float64."""
    data = (X > 2).astype(dtype) if dtype is bool else X.astype(dtype)
    ours, theirs = (
        fitted(name, data=(data, y), module=m) for m in (hotloop, sklearn.neural_network)
    )
    assert [c.dtype for c in ours.coefs_] == [c.dtype for c in theirs.coefs_]
    assert ours.predict(data).dtype == theirs.predict(data).dtype
    if name == "MLPClassifier":
        assert ours.predict_proba(data).dtype == theirs.predict_proba(data).dtype


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@every_class
def test_precision_forces_a_dtype(name, solver):
    """float32 or float64 whatever X is; 'auto' follows X."""
    for given in (np.float32, np.float64):
        data = X.astype(given)
        for precision in ("float32", "float64"):
            estimator = fitted(name, data=(data, y), solver=solver, precision=precision)
            assert {a.dtype.name for a in estimator.coefs_ + estimator.intercepts_} == {precision}
        auto = fitted(name, data=(data, y), solver=solver, precision="auto")
        same = fitted(name, data=(data, y), solver=solver, precision=np.dtype(given).name)
        np.testing.assert_array_equal(auto.coefs_[0], same.coefs_[0])
