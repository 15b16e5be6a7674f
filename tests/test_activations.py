"""Activations beside scikit-learn's four: values, slopes, layers of them, lists, initial weights.

The kernels' part runs once for every instruction set, and on numba.
"""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hotloop.kernels import ACTIVATIONS as WORDS
from hotloop.kernels import DEFAULT_BACKEND, OP_DTYPE
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV

import oracle
from hotloop import MLPClassifier, MLPRegressor, backends, plan, spec, vectors
from stacks import (
    Stack,
    build,
    gradient_kinds,
    gradients,
    make_orders,
    make_scalars,
    predict,
    steps_per_epoch,
    train,
)

NAMES = tuple(oracle.DERIVATIVE_AT)
#: What a norm of float32 or float64 results may be off by.
BOUNDS = {"float32": 2e-5, "float64": 1e-12}
HOW = {"max_iter": 3, "random_state": 0}

every_name = pytest.mark.parametrize("name", NAMES)
both_dtypes = pytest.mark.parametrize("dtype", BOUNDS)
dense_and_sparse = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def test_these_are_all_there_are():
    assert spec.ACTIVATIONS == (*spec.KNOWN_BY_VALUE, *NAMES)
    assert set(spec.KNOWN_BY_VALUE) == set(oracle.DERIVATIVE)
    assert set(vectors.AUTO) == set(NAMES)


# Elements.


def elements(name, z, dtype):
    """Values and slopes of a hidden layer whose units have the sums z: with one row and a delta of
    1, but for huge values, these are the gradient of the output layer's weights, and, times those,
    that of the biases.
    """
    n, small = z.size, 2.0 ** (-100 if dtype == "float64" else -60)
    layers = spec.Dense(n, name), spec.Dense(1)
    network = spec.Network((1,), layers, spec.LOSSES["squared_error"])
    parameters = np.concatenate([z, np.full(n, small), np.zeros(n + 1)]).astype(dtype)
    compiled = plan.compile_gradients(network, dtype=np.dtype(dtype))
    streams = {"X": np.ones((1, 1), dtype), "y": np.full((1, 1), -1, dtype)}
    runner = backends.open_runner(compiled, None, streams)
    out = np.empty_like(parameters)
    runner.gradients(parameters, out, decay=0.0)
    runner.close()
    (_, of_values), (of_slopes, _) = vectors.weight_views(network, out)
    delta = out[-1]
    return of_values[:, 0] / delta, of_slopes / delta / np.asarray(small, dtype)


def points(dtype, reach=12):
    """Numbers of both signs, close to zero and not."""
    rng = np.random.default_rng(0)
    sizes = np.geomspace(1e-6, reach, 400)
    return np.concatenate([sizes, -sizes, rng.uniform(-4, 4, 803)]).astype(dtype)


def long_values(name, z):
    """The oracle's formulas in the longest format there is, without cancellation."""
    z = z.astype(np.longdouble)
    if name == "gelu":
        x = np.abs(z) / np.sqrt(np.longdouble(2))
        rounded = x.astype(float)
        slope = -2 / np.sqrt(np.pi) * np.exp(-(x**2))
        tail = ([math.erfc(a) for a in rounded] + slope * (x - rounded)) / 2
        return z * np.where(z < 0, tail, 1 - tail)
    if name in ("silu", "gelu_tanh"):
        root = np.sqrt(8 / np.arctan2(np.longdouble(0), np.longdouble(-1)))
        x = z if name == "silu" else root * (z + np.longdouble("0.044715") * z**3)
        return z / (1 + np.exp(-x))
    if name == "hard_sigmoid":
        return np.clip(z + 3, 0, 6) / 6
    if name == "hard_swish":
        return z * np.clip(z + 3, 0, 6) / 6
    return oracle.ACTIVATE[name](z)


@every_name
@both_dtypes
def test_values_are_within_4_ulp(name, dtype):
    """Of gelu within 5, and where e^x is of an x with an error, its share of that.

    Of gelu_tanh x is a polynomial in z; of gelu numba's erfc is of that kind.
    """
    z = points(dtype)
    got, expected = elements(name, z, dtype)[0], long_values(name, z)
    bound = np.full(z.size, 5.0 if name == "gelu" else 4.0)
    if name == "gelu_tanh":
        bound += np.where(z < 0, 1.6 * np.abs(z + 0.044715 * z**3) * 2.5, 0)
    if name == "gelu" and DEFAULT_BACKEND != "compiled":
        bound += np.where(z < 0, 8 * z * z, 0)
    ulp = np.spacing(np.abs(expected).astype(dtype))
    off = np.abs(got - expected) / ulp
    assert (off <= bound).all(), (z[np.argmax(off - bound)], off.max())


@every_name
@both_dtypes
def test_slopes_are_within_2_eps(name, dtype):
    """2 eps of 1, as slopes that pass through zero have no ulp; those that do not, 5 ulp."""
    z = points(dtype)
    got, expected = elements(name, z, dtype)[1], oracle.DERIVATIVE_AT[name](z.astype(float))
    eps = np.finfo(dtype).eps
    assert (np.abs(got - expected) <= 2.2 * eps).all()
    if name in ("elu", "selu", "softplus", "softsign"):
        np.testing.assert_allclose(got, expected, rtol=2.5 * eps)


@every_name
def test_slopes_are_those_of_the_values(name):
    """Central differences, away from kinks."""
    z = points("float64", 6)
    z = z[np.abs(np.abs(z) - 3) > 1e-3]
    z = z[np.abs(z) > 1e-3]
    above, below = (elements(name, z + h, "float64")[0] for h in (1e-5, -1e-5))
    np.testing.assert_allclose(
        elements(name, z, "float64")[1], (above - below) / 2e-5, rtol=1e-7, atol=1e-8
    )


@every_name
@both_dtypes
def test_far_out_and_at_zero(name, dtype):
    """No overflow on the way, what is zero stays so, and NaN is not swallowed."""
    huge, tiny = (1e25, 1e-30) if dtype == "float32" else (1e150, 1e-300)
    z = np.array([0.0, -0.0, tiny, -tiny, 50, 800, huge, -50, -800, -huge], dtype)
    known = z.astype(float)
    values, slopes = (
        np.concatenate(parts)
        for parts in zip(*(elements(name, z[k : k + 1], dtype) for k in range(10)), strict=True)
    )
    with np.errstate(all="ignore"):
        expected = oracle.ACTIVATE[name](known)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(values, expected, rtol=8 * eps, atol=64 * eps)
    np.testing.assert_allclose(values[:4], expected[:4], rtol=4 * eps, atol=np.finfo(dtype).tiny)
    np.testing.assert_allclose(slopes[:4], oracle.DERIVATIVE_AT[name](known[:4]), rtol=4 * eps)
    ends = {"hard_sigmoid": (0, 0), "softsign": (0, 0), "leaky_relu": (1, 0.01)}
    right, left = (ends | {"selu": (oracle.SELU_SCALE, 0)}).get(name, (1, 0))
    np.testing.assert_allclose(slopes[4:7], right, atol=1e-3)
    np.testing.assert_allclose(slopes[7:], left, atol=1e-3)
    assert np.isnan(elements(name, np.array([np.nan], dtype), dtype)[0])


# Layers.


def plain(problem):
    """The same problem with an oracle that knows no error bounds."""
    return problem.net.with_parameters([p.value for p in problem.net.parameters])


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


def assert_close(got, expected, dtype, factor=1):
    assert np.linalg.norm(got - expected) <= factor * BOUNDS[dtype] * np.linalg.norm(expected)


@every_name
@both_dtypes
@dense_and_sparse
def test_predictions_and_gradients(name, sparse, dtype):
    """Wide layers, narrow ones and tails, on rows of all numbers."""
    for k, widths in enumerate(((5, 37, 2, 3), (7, 3, 70, 1), (64, 100, 20, 10))):
        loss = ("log_loss", "squared_error", "poisson")[k]
        stack = Stack(widths, (name,) * 2, loss, (1, 13, 67)[k], dtype, sparse, True, seed=k)
        problem = build(stack)
        net, data = plain(problem), (problem.X, problem.Y, problem.sample_weight)
        assert_close(predict(problem), oracle.forward(net, problem.X)[-1], dtype)
        value, got = gradients(problem)
        expected_loss, expected = oracle.gradients(net, *data, 0.1)
        assert value == pytest.approx(expected_loss, rel=BOUNDS[dtype])
        assert_close(got, flat(expected), dtype)


@every_name
def test_the_oracles_gradients_are_slopes(name):
    problem = build(Stack((4, 5, 6, 3), (name,) * 2, "squared_error", 6, seed=1))
    net, data = plain(problem), (problem.X, problem.Y, None)
    slopes = flat(oracle.numerical_gradients(net, *data, decay=0.1))
    got = gradients(problem)[1]
    assert np.linalg.norm(got - slopes) <= 1e-7 * np.linalg.norm(slopes)


def oracle_train(problem, batch_size, n_epochs=2):
    """Parameters and losses after some epochs of Nesterov's momentum."""
    scalars = make_scalars("nesterov", n_epochs * steps_per_epoch(problem.stack.n, batch_size))[0]
    net, orders = plain(problem), make_orders(problem, n_epochs)[0]
    slots = {"velocity": [np.zeros(p.shape) for p in net.parameters]}
    data = problem.X, problem.Y, problem.sample_weight

    def step(*arguments):
        return oracle.sgd_step(*arguments, True)

    net, _, losses = oracle.train(net, slots, data, orders, scalars, batch_size, step)
    return flat(net.parameters), losses


@every_name
@both_dtypes
@pytest.mark.parametrize(
    ("sparse", "kind"), [(s, k) for s in (False, True) for k in gradient_kinds(s)]
)
def test_training(name, sparse, kind, dtype):
    """Whatever becomes of gradients; beside layers whose slopes are not kept, on either side."""
    layers = (name, "relu", name)
    problem = build(Stack((6, 9, 21, 5, 3), layers, "log_loss", 23, dtype, sparse, weighted=True))
    got, _, losses = train(problem, "nesterov", 10, gradients=kind)
    expected, expected_losses = oracle_train(problem, 10)
    start = problem.parameters.astype(float)
    assert_close(got - start, expected - start, dtype, factor=20)
    np.testing.assert_allclose(losses, expected_losses, rtol=BOUNDS[dtype])


@every_name
@pytest.mark.compiled
def test_training_with_rounded_operands(name):
    """bfloat16 rounds what products read; slopes are kept in float32, of what was not rounded."""
    stack = Stack((6, 34, 21, 3), (name,) * 2, "log_loss", 40, "float32")
    problem = build(replace(stack, operands="bfloat16_emulated"))
    got, _, _ = train(problem, "nesterov", 20, n_epochs=1)
    expected, _ = oracle_train(problem, 20, n_epochs=1)
    start = problem.parameters.astype(float)
    assert np.linalg.norm(got - expected) <= 2e-3 * np.linalg.norm(expected - start)


@every_name
@both_dtypes
def test_an_elements_bits_do_not_depend_on_its_place(name, dtype):
    """Rows alone, in a batch, and one by one without packing; units at the end of a vector too."""
    for width in (1, 2, 7, 16, 33):
        stack = Stack((5, width, 3), (name,), "squared_error", 17, dtype)
        problem = build(stack)
        X, whole = problem.streams["X"], predict(problem)
        for rows in ([0], [16], [3, 4], list(range(1, 17))):
            np.testing.assert_array_equal(predict(problem, X[rows]), whole[rows])
        if DEFAULT_BACKEND == "compiled":
            compiled = plan.compile_inference(problem.network, dtype=np.dtype(dtype))
            few = backends.FewRows(compiled)
            arrays = vectors.weight_views(problem.network, problem.parameters)
            np.testing.assert_array_equal(few.predict(X[:4], *arrays), whole[:4])
    z = points(dtype)[:101]
    pairs = elements(name, z, dtype), elements(name, z[::-1].copy(), dtype)
    for one, two in zip(*pairs, strict=True):
        np.testing.assert_array_equal(one, two[::-1])


@every_name
@pytest.mark.compiled
def test_threads_change_no_bit(name, always_shared):
    problem = build(Stack((40, 130, 70, 3), (name,) * 2, "log_loss", 300, "float32"))
    one, two = (train(problem, "adam", 150, gradients="kept", n_jobs=n)[0] for n in (1, 2))
    assert always_shared == [1, 2]
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", spec.KNOWN_BY_VALUE)
@both_dtypes
@dense_and_sparse
def test_slopes_of_the_others_are_kept_where_a_plan_asks(name, sparse, dtype, monkeypatch):
    """For what changes slopes on their way, as dropout does: the gradient is the same."""
    problem = build(Stack((6, 21, 3, 2), (name,) * 2, "squared_error", 13, dtype, sparse))
    value, expected = gradients(problem)
    kept = plan.compile_gradients(problem.network, dtype=np.dtype(dtype), sparse=sparse)
    assert (kept.ops["slope"] < 0).all()
    monkeypatch.setattr(plan._Lowering, "keeps_slopes", lambda self, layer: layer < 2)
    kept = plan.compile_gradients(problem.network, dtype=np.dtype(dtype), sparse=sparse)
    assert (kept.ops["slope"] >= 0).sum() == 4
    again, got = gradients(problem)
    assert again == pytest.approx(value, rel=BOUNDS[dtype])
    assert_close(got, expected, dtype)


# PyTorch's.


def torch_functions():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    nn = torch.nn.functional
    return torch, {
        "gelu_tanh": lambda z: nn.gelu(z, approximate="tanh"),
        "hard_sigmoid": nn.hardsigmoid,
        "hard_swish": nn.hardswish,
        "softplus": lambda z: nn.softplus(z, threshold=50),
        **{
            name: getattr(nn, name)
            for name in ("leaky_relu", "elu", "selu", "gelu", "silu", "mish", "softsign")
        },
    }


@every_name
def test_20_steps_from_equal_weights_end_where_pytorchs_do(name):
    torch, functions = torch_functions()
    X, y = load_diabetes(return_X_y=True)
    X, y = X[:100] * 20, y[:100] / 100
    how = {"solver": "sgd", "momentum": 0.0, "shuffle": False, "batch_size": 100, "alpha": 0.0}
    estimator = MLPRegressor(
        hidden_layer_sizes=(20, 10), activation=name, learning_rate_init=0.05, random_state=0, **how
    )
    estimator.set_params(max_iter=20, tol=0, init="glorot_normal")
    network = spec.Network((10,), _layers((20, 10), (name,) * 2), spec.LOSSES["squared_error"])
    start = vectors.init_parameters(network, np.random.RandomState(0), np.float64, "glorot_normal")
    estimator.fit(X, y)
    assert estimator.n_iter_ == 20
    weights, biases = vectors.weight_views(network, start)
    parts = [torch.tensor(a, requires_grad=True) for a in (*weights, *biases)]
    optimizer = torch.optim.SGD(parts, lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        h = torch.tensor(X)
        for k in range(3):
            h = h @ parts[k] + parts[3 + k]
            h = functions[name](h) if k < 2 else h
        (0.5 * (h[:, 0] - torch.tensor(y)) ** 2).mean().backward()
        optimizer.step()
    for got, expected in zip(estimator.coefs_ + estimator.intercepts_, parts, strict=True):
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=0, atol=1e-6)


def _layers(units, activations):
    pairs = zip(units, activations, strict=True)
    return (*(spec.Dense(n, activation) for n, activation in pairs), spec.Dense(1))


# Estimators.


@every_name
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_every_solver_learns(name, solver):
    X, y = load_iris(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    how = {"learning_rate_init": 0.1 if solver == "sgd" else 0.03, "batch_size": 20, "max_iter": 60}
    estimator = MLPClassifier((10,), name, solver=solver, random_state=0, **how).fit(X, y)
    assert estimator.score(X, y) > 0.9
    np.testing.assert_array_equal(estimator.predict(X[:2]), estimator.predict(X)[:2])


def square(z):
    return z * z


def square_slope(z):
    return 2 * z


class TestLists:
    """One activation a layer."""

    X, y = load_iris(return_X_y=True)

    def test_a_list_of_one_kind_is_that_kind(self):
        for name in ("logistic", "gelu"):
            one = MLPClassifier((6, 5), name, **HOW).fit(self.X, self.y)
            two = MLPClassifier((6, 5), [name] * 2, **HOW).fit(self.X, self.y)
            for a, b in zip(
                one.coefs_ + one.intercepts_, two.coefs_ + two.intercepts_, strict=True
            ):
                np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize("solver", ["adam", "lbfgs"])
    def test_each_layer_has_its_own(self, solver):
        names = ["gelu", "tanh", "softsign"]
        fitted = MLPRegressor(
            hidden_layer_sizes=(6, 5, 4), activation=names, solver=solver, **HOW
        ).fit(self.X, self.y)
        net = oracle.Net(tuple(fitted.coefs_), tuple(fitted.intercepts_), names, "squared_error")
        expected = oracle.forward(net, self.X)[-1][:, 0]
        np.testing.assert_allclose(fitted.predict(self.X), expected, rtol=1e-12)
        np.testing.assert_array_equal(fitted.predict(self.X[:3]), fitted.predict(self.X)[:3])
        assert fitted.activation is names

    def test_functions_may_be_listed(self):
        pytest.importorskip("numba", reason="numba compiles functions of the user")
        names = ["silu", (square, square_slope)]
        fitted = MLPRegressor(hidden_layer_sizes=(6, 5), activation=names, **HOW).fit(
            self.X, self.y
        )
        h = oracle.ACTIVATE["silu"](self.X @ fitted.coefs_[0] + fitted.intercepts_[0])
        h = (h @ fitted.coefs_[1] + fitted.intercepts_[1]) ** 2
        expected = (h @ fitted.coefs_[2] + fitted.intercepts_[2])[:, 0]
        np.testing.assert_allclose(fitted.predict(self.X), expected, rtol=1e-10)
        np.testing.assert_array_equal(fitted.predict(self.X[:2]), fitted.predict(self.X)[:2])
        again = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(again.predict(self.X), fitted.predict(self.X))
        fitted.activation = ["silu", lambda z: z]
        with pytest.raises(pickle.PicklingError, match="import path"):
            pickle.dumps(fitted)

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (["relu"], "lists 1 for 2 hidden layers"),
            (["relu"] * 3, "lists 3 for 2 hidden layers"),
            (["relu", "swish"], "swish"),
            (["relu", 3], "must be a name, a function"),
            (("relu", "gelu"), "must be a name, a function or a pair"),
        ],
    )
    def test_what_cannot_be_used(self, names, words):
        estimator = MLPClassifier((6, 5), names, **HOW)
        with pytest.raises(ValueError, match=words):
            estimator.fit(self.X, self.y)
        assert not hasattr(estimator, "coefs_")

    def test_a_changed_list_is_judged_before_predictions(self):
        fitted = MLPClassifier((6, 5), ["relu", "elu"], **HOW).fit(self.X, self.y)
        for n in (1, 100):
            fitted.set_params(activation=["relu"])
            with pytest.raises(ValueError, match="lists 1 for 2"):
                fitted.predict(self.X[:n])

    def test_clones_searches_and_copies(self):
        grid = {"activation": ["relu", "gelu", ["selu", "mish"]], "init": ["auto", "orthogonal"]}
        search = GridSearchCV(MLPClassifier((6, 5), **HOW), grid, cv=2, error_score="raise")
        search.fit(self.X, self.y)
        assert len(search.cv_results_["params"]) == 6
        fitted = MLPClassifier((6, 5), ["selu", "mish"], **HOW).fit(self.X, self.y)
        again = clone(fitted)
        assert again.get_params() == fitted.get_params()
        copy = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(copy.predict_proba(self.X), fitted.predict_proba(self.X))
        again.fit(self.X, self.y)
        np.testing.assert_array_equal(again.predict_proba(self.X), fitted.predict_proba(self.X))


# Initial weights.


def drawn(init, activation="relu", widths=(300, 200, 250, 80), seed=0):
    """Weights and biases of a network of one activation."""
    layers = _layers(widths[1:-1], (activation,) * (len(widths) - 2))[:-1]
    layers = (*layers, spec.Dense(widths[-1]))
    network = spec.Network((widths[0],), layers, spec.LOSSES["squared_error"])
    vector = vectors.init_parameters(network, np.random.RandomState(seed), np.float64, init)
    return vectors.weight_views(network, vector)


@pytest.mark.parametrize("init", [name for name in vectors.INITS if name != "orthogonal"])
def test_weights_have_the_variance_they_should(init):
    """To 3 percent; a uniform draw stays in its bounds, a normal one does not."""
    weights, biases = drawn(init)
    for weight, bias in zip(weights, biases, strict=True):
        fan_in, fan_out = weight.shape
        rule, distribution = init.split("_")
        variance = {
            "glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in, "lecun": 1 / fan_in,
        }[rule]  # fmt: skip
        assert np.mean(weight**2) == pytest.approx(variance, rel=0.03)
        assert abs(weight.mean()) < 5 * np.sqrt(variance / weight.size)
        beyond = (np.abs(weight) > np.sqrt(3 * variance)).mean()
        assert beyond == (0 if distribution == "uniform" else pytest.approx(0.083, abs=0.01))
        assert (bias == 0).all()


@pytest.mark.parametrize(("activation", "gain"), [("gelu", 2), ("tanh", 1), ("selu", 1)])
def test_orthogonal_weights_are(activation, gain):
    for weight in drawn("orthogonal", activation)[0]:
        smaller = weight if weight.shape[0] < weight.shape[1] else weight.T
        np.testing.assert_allclose(smaller @ smaller.T, gain * np.eye(len(smaller)), atol=1e-12)
    draws = [drawn("orthogonal", "tanh", (2, 2, 1), seed)[0][0] for seed in range(400)]
    assert abs(np.mean([np.sign(np.linalg.det(w)) for w in draws])) < 0.2  # no side is preferred
    assert abs(np.mean([w[0, 0] for w in draws])) < 0.15


@every_name
def test_auto_is_what_the_activation_asks_for(name):
    for got, expected in zip(drawn("auto", name), drawn(vectors.AUTO[name], name), strict=True):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_init_is_a_parameter():
    X, y = load_iris(return_X_y=True)
    fits = {
        init: MLPClassifier((20,), init=init, **HOW).fit(X, y) for init in ("auto", *vectors.INITS)
    }
    firsts = {fitted.coefs_[0].tobytes() for fitted in fits.values()}
    assert len(firsts) == len(fits)
    with pytest.raises(ValueError, match="init"):
        MLPClassifier(init="xavier").fit(X, y)


def test_signals_neither_die_nor_grow_in_deep_networks():
    """After 20 layers the variance is within a factor of ten of that after one."""
    X = np.random.default_rng(0).normal(size=(200, 100))
    for name in ("leaky_relu", "selu"):
        weights, biases = drawn("auto", name, (100,) * 22)
        net = oracle.Net(tuple(weights), tuple(biases), (name,) * 20, "squared_error")
        values = oracle.forward(net, X)
        assert 0.1 < np.var(values[-2]) / np.var(values[1]) < 10


def test_an_op_says_where_slopes_are_kept():
    """Of the new ones, in training alone."""
    network = build(Stack((4, 5, 3), ("gelu",))).network
    training = plan.compile_training(
        network, dtype=np.float64, batch_size=8, optimizer=spec.Adam()
    ).ops
    assert OP_DTYPE == training.dtype
    assert (training["slope"] >= 0).sum() == 2
    assert (training["activation"] == WORDS["gelu"]).sum() == 2
    assert (plan.compile_inference(network, dtype=np.float64).ops["slope"] < 0).all()
