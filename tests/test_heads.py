"""Several targets of classes each: a softmax for each column of y, in one network."""

import pickle

import numpy as np
import pytest
import scipy.sparse
from hotloop.kernels import DEFAULT_BACKEND
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier as TheirMLP
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.class_weight import compute_sample_weight

import oracle
from hotloop import LogLoss, MLPClassifier, backends, plan, spec

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

#: Outputs of heads: fewer and more than a vector has lanes, two classes and one.
SPLITS = [(3, 2), (2, 19, 4), (1, 5), (33, 40)]
by_split = pytest.mark.parametrize("widths", SPLITS, ids=str)
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
TOLERANCE = {"float32": 3e-5, "float64": 1e-12}
needs_numba = pytest.mark.skipif(
    backends.why_unavailable("numba") is not None, reason="numba is not installed"
)


def oracle_heads(Z, codes, widths, smoothing=0.0):
    """Losses (n,) and deltas (n, O) of separate softmax losses, side by side."""
    losses, deltas, at = np.zeros(len(Z)), [], 0
    for t, K in enumerate(widths):
        Y = oracle.one_hot(codes[:, t], K)
        loss, delta = oracle.LOSSES_OF_Z["smooth_log_loss"](Z[:, at : at + K], Y, smoothing)
        losses, at = losses + loss, at + K
        deltas.append(delta)
    return losses, np.hstack(deltas)


def points(widths, n=37, seed=0):
    """Outputs Z (n, O) in float32's grid, some far apart, and codes (n, T)."""
    rng = np.random.default_rng(seed)
    Z = (rng.normal(size=(n, sum(widths))) * 3).astype(np.float32).astype(float)
    Z[1] *= 30
    return Z, np.column_stack([rng.integers(K, size=n) for K in widths]).astype(np.int32)


def of_kernel(widths, Z, codes, dtype, backend=DEFAULT_BACKEND, weight=None, smoothing=0.0):
    """Mean loss and deltas (n, O) of a kernel: those of a layer that turns row r into Z[r]."""
    n = len(Z)
    loss = spec.loss_with("joint_log_loss", smoothing, *widths)
    network = spec.Network((n,), (spec.Dense(sum(widths)),), loss)
    streams = {"X": np.eye(n, dtype=dtype), "y": codes}
    if weight is not None:
        streams["sample_weight"] = weight
    compiled = plan.compile_gradients(network, dtype=np.dtype(dtype), backend=backend)
    runner = backends.open_runner(compiled, None, streams)
    parameters = np.concatenate([Z.ravel(), np.zeros(sum(widths))]).astype(dtype)
    gradient = np.empty_like(parameters)
    value = runner.gradients(parameters, gradient, decay=0.0)
    runner.close()
    return value, gradient[: Z.size].reshape(Z.shape) * (n if weight is None else weight.sum())


def assert_kernel_matches(widths, dtype, backend=DEFAULT_BACKEND, n=37):
    """Weighted losses and deltas, with and without smoothing."""
    Z, codes = points(widths, n)
    weight = np.random.default_rng(1).uniform(0.5, 2, n)
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    for smoothing in (0.0, 0.2):
        losses, deltas = oracle_heads(Z, codes, widths, smoothing)
        for w in (weight, None):
            value, found = of_kernel(widths, Z, codes, dtype, backend, w, smoothing)
            np.testing.assert_allclose(value, np.average(losses, weights=w), **close)
            expected = deltas if w is None else deltas * w[:, None]
            np.testing.assert_allclose(found, expected, **close)


def data(n=120, seed=0, kind=np.float64):
    """X (n, 6), and y (n, 3) of 3, 2 and 4 classes that X tells apart."""
    rng = np.random.RandomState(seed)
    X = rng.randn(n, 6)
    y = np.column_stack([np.digitize(X[:, 0], [-0.5, 0.5]), X[:, 1] > 0, 3 + X[:, 2:].argmax(1)])
    return X.astype(kind), y


HOW = {"hidden_layer_sizes": (7,), "random_state": 0, "max_iter": 5}

# The loss by itself.


@by_split
def test_the_oracles_deltas_are_slopes_of_its_losses(widths):
    Z, codes = points(widths, n=4, seed=3)
    Z = Z / 3
    _, deltas = oracle_heads(Z, codes, widths, 0.1)
    for o in range(Z.shape[1]):
        step = np.zeros_like(Z)
        step[:, o] = 1e-6
        up, down = (oracle_heads(z, codes, widths, 0.1)[0] for z in (Z + step, Z - step))
        np.testing.assert_allclose(deltas[:, o], (up - down) / 2e-6, rtol=1e-4, atol=1e-7)


@both_dtypes
@by_split
def test_kernels_agree_with_the_oracle(widths, dtype):
    assert_kernel_matches(widths, dtype)


@needs_numba
@by_split
def test_numba_agrees_with_the_oracle(widths):
    assert_kernel_matches(widths, "float64", "numba")


def test_a_wrong_split_cannot_be_compiled():
    for widths in ((), (3,), (3, 3), (5, 0)):
        network = spec.Network((2,), (spec.Dense(5),), spec.loss_with("joint_log_loss", 0, *widths))
        with pytest.raises(ValueError, match="heads of"):
            plan.compile_gradients(network, dtype="f8")


def test_one_head_for_each_column_is_as_many_networks_without_hidden_layers():
    """Nothing is shared then: the gradients are those of separate softmax networks, bit for bit."""
    X, y = data()
    Z, widths = np.random.RandomState(0).randn(6, 9), (3, 2, 4)
    codes = (y - [0, 0, 3]).astype(np.int32)

    def gradient(loss, codes, weights):
        network = spec.Network((6,), (spec.Dense(weights.shape[1]),), loss)
        compiled = plan.compile_gradients(network, dtype="f8")
        runner = backends.open_runner(compiled, None, {"X": X, "y": codes})
        parameters = np.concatenate([weights.ravel(), np.zeros(weights.shape[1])])
        found = np.empty_like(parameters)
        value = runner.gradients(parameters, found, decay=0.1)
        return value, found[: weights.size].reshape(weights.shape)

    value, joint = gradient(spec.loss_with("joint_log_loss", 0, *widths), codes, Z)
    at, total = 0, 0.0
    for t, K in enumerate(widths):
        one = np.ascontiguousarray(Z[:, at : at + K])
        part, apart = gradient(spec.LOSSES["log_loss"], np.ascontiguousarray(codes[:, t]), one)
        np.testing.assert_allclose(joint[:, at : at + K], apart, rtol=1e-12, atol=1e-14)
        at, total = at + K, total + part
    assert value == pytest.approx(total, rel=1e-12)


# Training against PyTorch.


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_twenty_steps_are_those_of_torch(solver, smoothing):
    """A sum of its CrossEntropyLoss, from equal weights."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    X, y = data(100)
    how = {"hidden_layer_sizes": (7,), "activation": "tanh", "alpha": 0.0, "shuffle": False}
    how |= {
        "solver": solver,
        "batch_size": 20,
        "learning_rate_init": 0.01,
        "random_state": 0,
        "epsilon": 1e-15,
    }
    how |= {"loss": LogLoss(label_smoothing=smoothing)}
    clf = MLPClassifier(max_iter=1, tol=0, **how)
    start = clone(clf).set_params(learning_rate_init=1e-300, solver="sgd").fit(X, y)
    flat = [torch.tensor(w.copy(), requires_grad=True) for w in (*start.coefs_, *start.intercepts_)]
    W0, W1, b0, b1 = flat
    kind = torch.optim.Adam(flat, lr=0.01, eps=1e-15) if solver == "adam" else torch.optim.SGD(
        flat, lr=0.01, momentum=0.9, nesterov=True
    )  # fmt: skip
    entropy = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    codes = torch.tensor(y - [0, 0, 3])
    for step in range(20):
        rows = slice(step % 5 * 20, step % 5 * 20 + 20)
        z = torch.tanh(torch.tensor(X[rows]) @ W0 + b0) @ W1 + b1
        parts = torch.split(z, [3, 2, 4], dim=1)
        kind.zero_grad()
        sum(entropy(part, codes[rows, t]) for t, part in enumerate(parts)).backward()
        kind.step()
    clf.set_params(max_iter=4).fit(X, y)
    for ours, theirs in zip((*clf.coefs_, *clf.intercepts_), flat, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-6, atol=1e-6)


# scikit-learn's conventions.


def test_shapes_and_types_are_those_of_trees_and_of_MultiOutputClassifier():
    X, y = data()
    clf, tree = MLPClassifier(**HOW).fit(X, y), DecisionTreeClassifier().fit(X, y)
    assert isinstance(clf.classes_, list)
    for ours, theirs in zip(clf.classes_, tree.classes_, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert clf.predict(X).shape == y.shape
    proba, logs, raw = clf.predict_proba(X), clf.predict_log_proba(X), clf.decision_function(X)
    assert all(type(found) is list for found in (proba, logs, raw))
    for p, log_p, z, theirs in zip(proba, logs, raw, tree.predict_proba(X), strict=True):
        assert p.shape == log_p.shape == z.shape == theirs.shape
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
        np.testing.assert_array_equal(log_p, np.log(p))
        np.testing.assert_allclose(log_softmax(z, axis=1), log_p, rtol=1e-9)
    chosen = [c[p.argmax(axis=1)] for c, p in zip(clf.classes_, proba, strict=True)]
    np.testing.assert_array_equal(clf.predict(X), np.column_stack(chosen))
    wrapped = MultiOutputClassifier(TheirMLP(max_iter=2)).fit(X, y)
    wrapped.predict = clf.predict  # its score of our predictions
    assert clf.score(X, y) == wrapped.score(X, y) == (clf.predict(X) == y).all(axis=1).mean()
    assert clf.__sklearn_tags__().target_tags.multi_output
    losses = [log_loss(column, p) for column, p in zip(y.T, proba, strict=True)]
    clf.set_params(alpha=0, solver="lbfgs", max_iter=300).fit(X, y)
    final = [log_loss(column, p) for column, p in zip(y.T, clf.predict_proba(X), strict=True)]
    assert clf.loss_ == pytest.approx(sum(final), rel=1e-6)
    assert sum(final) < sum(losses) / 10
    assert clf.score(X, y) == 1


def test_probabilities_that_are_rounded_to_zero_have_logarithms():
    X, y = data(30)
    clf = MLPClassifier(**HOW).fit(X, y)
    clf.coefs_[-1][:, 0] -= 2000
    log_p, z = clf.predict_log_proba(X)[0], clf.decision_function(X)[0]
    assert (clf.predict_proba(X)[0][:, 0] == 0).any()
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(log_p, log_softmax(z, axis=1), rtol=1e-9, atol=1e-12)


def test_labels_may_be_strings_and_columns_of_two():
    """A matrix of two strings is no indicator matrix; one of zeros and ones stays one."""
    X, y = data()
    names = np.where(y[:, :2] > 0, "yes", "no")
    clf = MLPClassifier(**HOW).fit(X, names)
    assert [c.tolist() for c in clf.classes_] == [["no", "yes"]] * 2
    assert set(clf.predict(X).ravel().tolist()) <= {"no", "yes"}
    as_objects = MLPClassifier(**HOW).fit(X, names.astype(object))
    np.testing.assert_array_equal(as_objects.predict(X), clf.predict(X))
    indicator = MLPClassifier(**HOW).fit(X, (y[:, :2] > 0).astype(int))
    assert indicator.out_activation_ == "logistic"
    assert isinstance(indicator.predict_proba(X), np.ndarray)


def test_few_rows_and_one_row_are_as_in_a_batch():
    X, y = data()
    clf = MLPClassifier(**HOW).fit(X, y)
    for few in (X[:1], X[:4], X[:0:-1][:3]):
        for found, all_rows in zip(
            clf.predict_proba(few), clf.predict_proba(np.vstack([few, X])), strict=True
        ):
            np.testing.assert_array_equal(found, all_rows[: len(few)])


def test_csr_input_gives_the_same():
    X, y = data()
    X[np.abs(X) < 0.7] = 0
    for solver in ("adam", "sgd", "lbfgs"):
        dense = MLPClassifier(solver=solver, **HOW).fit(X, y)
        sparse = MLPClassifier(solver=solver, **HOW).fit(scipy.sparse.csr_matrix(X), y)
        np.testing.assert_allclose(sparse.loss_, dense.loss_, rtol=1e-6)
        for a, b in zip(
            sparse.predict_proba(scipy.sparse.csr_matrix(X)), dense.predict_proba(X), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@both_dtypes
def test_threads_do_not_show(dtype):
    X, y = data(2000, kind=dtype)
    how = {"hidden_layer_sizes": (64,), "max_iter": 3, "batch_size": 500, "random_state": 0}
    one, two = (MLPClassifier(n_jobs=n, **how).fit(X, y) for n in (1, 2))
    assert one.loss_curve_ == two.loss_curve_
    for a, b in zip(one.coefs_, two.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(one.predict_proba(X), two.predict_proba(X), strict=True):
        np.testing.assert_array_equal(a, b)


@needs_numba
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_numba_trains_and_predicts_the_same(solver):
    X, y = data()
    compiled = MLPClassifier(solver=solver, early_stopping=True, **HOW)
    numba = clone(compiled).set_params(backend="numba").fit(X, y)
    compiled.fit(X, y)
    np.testing.assert_allclose(numba.loss_, compiled.loss_, rtol=1e-7)
    for a, b in zip(numba.predict_proba(X), compiled.predict_proba(X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7)


@pytest.mark.compiled
@pytest.mark.parametrize("precision", ["float32", "bfloat16_emulated"])
def test_narrower_numbers_come_near(precision):
    X, y = data()
    exact = MLPClassifier(**HOW).fit(X, y)
    found = MLPClassifier(precision=precision, **HOW).fit(X, y)
    np.testing.assert_allclose(found.loss_curve_, exact.loss_curve_, rtol=1e-2)


def test_early_stopping_and_validation_rows_score_whole_rows():
    X, y = data(300)
    how = HOW | {"max_iter": 30}
    clf = MLPClassifier(early_stopping=True, **how).fit(X, y)
    assert 0 <= clf.best_validation_score_ <= 1
    beside = MLPClassifier(early_stopping=True, **how).fit(
        X[:200], y[:200], X_val=X[200:], y_val=y[200:]
    )
    assert beside.best_validation_score_ == beside.score(X[200:], y[200:])
    watched = MLPClassifier(**how).fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
    losses = [log_loss(c, p, labels=k) for c, p, k in zip(
        y[200:].T, watched.predict_proba(X[200:]), watched.classes_, strict=True)]  # fmt: skip
    assert watched.validation_loss_curve_[-1] == pytest.approx(sum(losses), rel=1e-9)
    with pytest.raises(ValueError, match=r"y_val or .*classes not in"):
        MLPClassifier(**how).fit(X, y, X_val=X, y_val=y + 1)


def test_class_weights_are_those_of_compute_sample_weight():
    X, y = data()
    lists = [{0: 2.0, 1: 1.0, 2: 0.5}, {0: 1.0, 1: 3.0}, {3: 1.0, 4: 1.0, 5: 2.0, 6: 0.5}]
    for weight in ("balanced", lists):
        by_class = MLPClassifier(class_weight=weight, **HOW).fit(X, y)
        by_row = MLPClassifier(**HOW).fit(X, y, compute_sample_weight(weight, y))
        np.testing.assert_allclose(by_class.coefs_[0], by_row.coefs_[0], rtol=1e-10)
    for wrong in ({0: 1.0}, lists[:2]):
        with pytest.raises(ValueError, match="3 labels"):
            MLPClassifier(class_weight=wrong, **HOW).fit(X, y)


def test_partial_fit_takes_a_list_of_classes():
    """A later part may have few of the classes, even zeros and ones only."""
    X, y = data()
    classes = [np.unique(column) for column in y.T]
    clf = MLPClassifier(hidden_layer_sizes=(7,), random_state=0).partial_fit(X, y, classes=classes)
    few = (y[:, 0] < 2) & (y[:, 2] == 3)
    clf.partial_fit(X[few], y[few]).partial_fit(X, y, classes=classes)
    assert clf.t_ == 2 * len(X) + few.sum()
    with pytest.raises(ValueError, match="classes must be passed"):
        MLPClassifier().partial_fit(X, y)
    with pytest.raises(ValueError, match="same classes"):
        clf.partial_fit(X, y, classes=[*classes[:2], [3, 4]])
    with pytest.raises(ValueError, match="fitted with multiclass-multioutput"):
        clf.partial_fit(X, y[:, :2])
    with pytest.raises(ValueError, match="classes not in"):
        clf.partial_fit(X, y + 1)
    pair = MLPClassifier(**HOW).partial_fit(X, y[:, [1, 1]], classes=[[0, 1], [0, 1, 2]])
    assert [p.shape[1] for p in pair.predict_proba(X)] == [2, 3]


def test_a_warm_start_goes_on_with_the_same_classes():
    X, y = data()
    clf = MLPClassifier(warm_start=True, **HOW).fit(X, y)
    first = clf.loss_
    assert clf.fit(X, y).loss_ < first
    before = pickle.dumps(clf)
    for other in (y + 1, y[:, 0], (y > 1).astype(int)):
        with pytest.raises(ValueError, match=r"same classes|multiclass-multioutput"):
            clf.fit(X, other)
    assert pickle.dumps(clf) == before
    flat = MLPClassifier(warm_start=True, **HOW).fit(X, y[:, 0])
    with pytest.raises(ValueError, match="same classes"):
        flat.fit(X, y)


def test_pickle_clone_and_search():
    X, y = data()
    clf = MLPClassifier(**HOW).fit(X, y)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict(X), clf.predict(X))
    np.testing.assert_array_equal(clone(clf).fit(X, y).coefs_[1], clf.coefs_[1])
    search = GridSearchCV(MLPClassifier(**HOW), {"alpha": [1e-4, 10]}, cv=2).fit(X, y)
    assert search.predict(X).shape == y.shape


def test_what_is_not_for_several_targets_is_refused():
    """Other losses, sparse y and numbers; a failed fit leaves the estimator as it was."""
    X, y = data()
    for loss in ("hinge", "squared_hinge", "focal", lambda y, z: y * z):
        with pytest.raises(ValueError, match="is for one target, and y has 3"):
            MLPClassifier(loss=loss, **HOW).fit(X, y)
    clf = MLPClassifier(**HOW).fit(X, y)
    for wrong in (scipy.sparse.csr_matrix(y), y + 0.5, y[:-1]):
        with pytest.raises(ValueError, match=r"(?i)multioutput|continuous|inconsistent"):
            clf.fit(X, wrong)
    assert clf.predict(X).shape == y.shape
    with pytest.raises(ValueError, match="y must have shape"):
        clf.score(X, y[:, :2])
    with pytest.raises(AttributeError, match="no LabelBinarizer"):
        _ = clf._label_binarizer
