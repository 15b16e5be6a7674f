"""Batch and layer normalisation: every backend against the oracle, estimators, PyTorch."""

import pickle
import signal
import sys

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV, train_test_split

import normalized
import oracle
from hotloop import BatchNorm, LayerNorm, MLPClassifier, MLPRegressor, backends, plan, spec, vectors
from stacks import OPTIMIZERS, make_scalars
from state import state_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RECORDS = {0: spec.BatchNorm(), 1: spec.LayerNorm()}
both_kinds = pytest.mark.parametrize("axis", [0, 1], ids=["batch", "layer"])
every_backend = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                backends.why_unavailable(name) is not None,
                reason=str(backends.why_unavailable(name)),
            ),
        )
        for name in backends.ENGINES
    ],
)
DECAY = 0.05


@pytest.fixture(autouse=True, scope="module")
def simulated_threads_take_turns_often():
    """The threads of a simulated CUDA device wait for each other in Python."""
    before = sys.getswitchinterval()
    if backends.why_unavailable("cuda") is None:
        sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def network_of(net, record=None):
    """The spec of an oracle's net."""
    norm = record or (
        spec.BatchNorm(net.momentum, net.epsilon) if net.axis == 0 else spec.LayerNorm(net.epsilon)
    )
    hidden = [
        spec.Dense(len(b), a, norm) for b, a in zip(net.biases[:-1], net.activations, strict=True)
    ]
    layers = (*hidden, spec.Dense(len(net.biases[-1])))
    return spec.Network((net.weights[0].shape[0],), layers, spec.LOSSES[net.loss])


def problem(widths, activations, axis, *, loss="squared_error", n=13, seed=0, sparse=False):
    """An oracle's net, and rows, targets and weights for it."""
    rng = np.random.default_rng(seed)
    net = normalized.make(rng, widths, activations, loss, axis)
    X = rng.normal(size=(n, widths[0]))
    if sparse:
        X[rng.random(X.shape) < 0.5] = 0
    if loss == "log_loss":
        Y = oracle.one_hot(rng.integers(widths[-1], size=n), widths[-1])
    else:
        Y = rng.normal(size=(n, widths[-1]))
    return net, (X, Y, rng.uniform(0.5, 2, n))


def streams_of(net, data, dtype, *, sparse=False):
    X, Y, weight = data
    y = Y.argmax(1).astype(np.int32) if net.loss == "log_loss" else Y.astype(dtype)
    X = X.astype(dtype)
    return {"X": scipy.sparse.csr_matrix(X) if sparse else X, "y": y, "sample_weight": weight}


def hotloop_train(net, data, orders, how):
    """Whole epochs on hotloop: the flat vector, its slots, and losses."""
    batch_size, optimizer, dtype = how["batch_size"], how["optimizer"], np.dtype(how["dtype"])
    compiled = plan.compile_training(
        network_of(net),
        dtype=dtype,
        batch_size=batch_size,
        optimizer=OPTIMIZERS[optimizer],
        sparse=how.get("sparse", False),
        gradients=how.get("gradients", "fused"),
        backend=how["backend"],
    )
    state = vectors.new_state(net.flat.astype(dtype), OPTIMIZERS[optimizer])
    streams = streams_of(net, data, dtype, sparse=how.get("sparse", False))
    n_steps = len(orders) * -(-len(orders[0]) // batch_size)
    scalars = make_scalars(optimizer, n_steps, alpha=DECAY)
    runner = backends.open_runner(compiled, state, streams, n_jobs=how.get("n_jobs", 1))
    losses = runner.run(np.asarray(orders, np.intp)[None], scalars)[0]
    runner.read_state(state)
    runner.close()
    return state.parameters[0], {k: v[0] for k, v in state.slots.items()}, losses


def oracle_train(net, data, orders, batch_size, optimizer):
    """The same on the oracle."""
    n_steps = len(orders) * -(-len(orders[0]) // batch_size)
    scalars = iter(make_scalars(optimizer, n_steps, alpha=DECAY)[0, :, 0])
    slots = {
        name: [np.zeros_like(p) for p in net.parameters] for name in OPTIMIZERS[optimizer].slots
    }

    def step(parameters, grads):
        nonlocal slots
        rate, momentum = next(scalars)[:2]
        rates, momenta = [rate] * len(grads), [momentum] * len(grads)
        if optimizer == "adam":
            adam = OPTIMIZERS["adam"]
            rules = adam.beta_2, adam.epsilon
            new, slots = oracle.adam_step(parameters, slots, grads, rates, momenta, *rules)
        else:
            nesterov = optimizer == "nesterov"
            new, slots = oracle.sgd_step(parameters, slots, grads, rates, momenta, nesterov)
        return new

    net, losses = normalized.train(net, data, orders, batch_size, step, DECAY)
    return net, slots, losses


def orders_of(n, n_epochs=2, seed=5):
    rng = np.random.default_rng(seed)
    return [rng.permutation(n) for _ in range(n_epochs)]


def assert_close(got, expected, tolerance, what):
    """Each array of a list apart, by its norm."""
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        error = np.linalg.norm(a - b)
        assert error <= tolerance * (np.linalg.norm(b) + 1e-3), f"{what} {k}: off by {error:.3g}"


def assert_trained_alike(net, data, how):
    orders = orders_of(len(data[0]))
    flat, slots, losses = hotloop_train(net, data, orders, how)
    expected, expected_slots, expected_losses = oracle_train(
        net, data, orders, how["batch_size"], how["optimizer"]
    )
    tolerance = 1e-11 if how["dtype"] == "float64" else 2e-4
    start = normalized.split(net, net.flat)
    change = [a - b for a, b in zip(normalized.split(net, flat), start, strict=True)]
    wanted = [a - b for a, b in zip(normalized.split(net, expected.flat), start, strict=True)]
    assert_close(change, wanted, tolerance, "change of array")
    for name, slot in slots.items():
        parts = normalized.split(net, slot)
        n = len(expected_slots[name])
        assert_close(parts[:n], expected_slots[name], tolerance, name)
        assert not any(part.any() for part in parts[n:])  # statistics have no moments
    np.testing.assert_allclose(losses, expected_losses, rtol=max(tolerance / 10, 1e-11))


# The oracle itself.


@both_kinds
@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_the_oracles_gradients_are_differences(loss, axis):
    """Of every parameter, weighted rows and a penalty included."""
    net, data = problem(
        (4, 5, 6, 1 if loss == "squared_error" else 3), ("tanh", "logistic"), axis, loss=loss
    )
    got = normalized.gradients(net, *data, DECAY)
    assert_close(got, normalized.numerical_gradients(net, *data, DECAY), 1e-7, "gradient")


# Kernels.

SHAPES = (
    ((1, 1, 1), ("identity",)),
    ((5, 7, 3), ("relu",)),
    ((17, 31, 13, 3), ("tanh", "relu")),
    ((6, 2, 40, 2), ("logistic", "identity")),
    ((30, 130, 65, 4), ("relu", "relu")),
)


@every_backend
@both_kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("widths", "activations"), SHAPES, ids=str)
def test_training_is_the_oracles(widths, activations, dtype, axis, backend):
    """Weights, biases, scales, running statistics, moments and losses, over all kinds of widths."""
    if backend == "cuda" and widths[0] > 6:
        pytest.skip("takes long in the simulator")
    net, data = problem(widths, activations, axis, n=6 if backend == "cuda" else 13)
    how = {"batch_size": 5, "optimizer": "adam", "dtype": dtype, "backend": backend}
    assert_trained_alike(net, data, how)


def ways():
    """What may become of gradients, and how rows may come."""
    kinds = ("fused", "kept", "sharded")
    return [(sparse, kind) for sparse in (False, True) for kind in kinds[: 2 if sparse else 3]]


@every_backend
@both_kinds
@pytest.mark.parametrize(
    ("sparse", "gradients"), ways(), ids=lambda v: v if isinstance(v, str) else ("", "csr")[v]
)
def test_training_is_the_oracles_whatever_becomes_of_gradients(sparse, gradients, axis, backend):
    """Dense and CSR rows, every optimizer; more rows than a batch has."""
    optimizer = {"fused": "sgd", "kept": "nesterov", "sharded": "adam"}[gradients]
    net, data = problem((6, 5, 4, 3), ("relu", "tanh"), axis, loss="log_loss", n=7, sparse=sparse)
    how = {"batch_size": 4, "optimizer": optimizer, "dtype": "float64", "backend": backend}
    assert_trained_alike(net, data, {**how, "sparse": sparse, "gradients": gradients})


@every_backend
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_the_gradient_of_all_rows_is_the_oracles(sparse, backend):
    """What L-BFGS follows, over more rows than go through at a time: layer normalisation only."""
    net, data = problem((5, 7, 6, 3), ("tanh", "logistic"), 1, loss="log_loss", n=9, sparse=sparse)
    compiled = plan.compile_gradients(
        network_of(net), dtype="float64", n_rows=4, sparse=sparse, backend=backend
    )
    runner = backends.open_runner(compiled, None, streams_of(net, data, "float64", sparse=sparse))
    out = np.empty_like(net.flat)
    value = runner.gradients(net.flat, out, decay=DECAY)
    assert value == pytest.approx(normalized.loss(net, *data, DECAY), rel=1e-12)
    expected = normalized.gradients(net, *data, DECAY)
    assert_close(normalized.split(net, out), expected, 1e-11, "gradient")


def test_no_gradient_of_all_rows_with_batches():
    """It would be of many batches."""
    net, _ = problem((5, 7, 3), ("relu",), 0)
    with pytest.raises(ValueError, match="no BatchNorm"):
        plan.compile_gradients(network_of(net), dtype="float64")


@every_backend
@both_kinds
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_predictions_are_the_oracles(sparse, in_place, axis, backend):
    """By running statistics; in the same way from weights that are read where they lie."""
    if in_place and not plan.backend_of(backend).in_place:
        pytest.skip("this backend copies weights first")
    widths = (6, 2, 4, 3) if backend == "cuda" else (20, 2, 40, 17, 3)
    activations = ("tanh", "relu", "identity")[: len(widths) - 2]
    for n in (1, 5) if backend == "cuda" else (1, 4, 130):
        net, (X, *_) = problem(widths, activations, axis, loss="log_loss", n=n, sparse=sparse)
        compiled = plan.compile_inference(
            network_of(net), dtype="float64", sparse=sparse, in_place=in_place, backend=backend
        )
        others = [*net.scales, *net.means, *net.variances]
        rows = scipy.sparse.csr_matrix(X) if sparse else X
        got = backends.predict(compiled, net.weights, net.biases, rows, vectors=others)
        expected = normalized.forward(net, X, running=True)[0][-1]
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)


def test_running_statistics_fold_into_weights():
    """A network without normalisation predicts the same from W scale / deviation, and so on."""
    net, (X, *_) = problem((9, 20, 7, 2), ("relu", "tanh"), 0)
    factors = [s / np.sqrt(v + net.epsilon) for s, v in zip(net.scales, net.variances, strict=True)]
    hidden = zip(net.biases, factors, net.means, strict=False)
    biases = [*(b - m * f for b, f, m in hidden), net.biases[-1]]
    weights = [W * f for W, f in zip(net.weights, factors, strict=False)] + net.weights[-1:]
    layers = [spec.Dense(20, "relu"), spec.Dense(7, "tanh"), spec.Dense(2)]
    plain = spec.Network((9,), tuple(layers), spec.LOSSES["squared_error"])
    folded = backends.predict(plan.compile_inference(plain, dtype="f8"), weights, biases, X)
    compiled = plan.compile_inference(network_of(net), dtype="f8")
    others = [*net.scales, *net.means, *net.variances]
    got = backends.predict(compiled, net.weights, net.biases, X, vectors=others)
    np.testing.assert_allclose(got, folded, rtol=1e-12, atol=1e-13)


@both_kinds
@pytest.mark.parametrize("gradients", ["fused", "kept", "sharded"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_bits_do_not_depend_on_threads(sparse, gradients, axis, always_shared):
    """Statistics are of units of columns, or of rows."""
    if sparse and gradients == "sharded":
        pytest.skip("touched features are a stage of their own")
    net, data = problem((40, 100, 70, 5), ("relu", "logistic"), axis, n=300, sparse=sparse)
    how = {"batch_size": 128, "optimizer": "adam", "dtype": "float32", "backend": "compiled"}
    how |= {"sparse": sparse, "gradients": gradients}
    expected, *_ = hotloop_train(net, data, orders_of(300, 3), how)
    for n_jobs in (2, 4):
        got, *_ = hotloop_train(net, data, orders_of(300, 3), {**how, "n_jobs": n_jobs})
        assert always_shared[-1] == n_jobs
        np.testing.assert_array_equal(got, expected)


@every_backend
def test_a_batch_of_one_row_and_a_constant_column(backend):
    """Of one row n is zero and the running variance stays; a constant becomes zeros, however far
    from zero it is.
    """
    net, data = problem((3, 4, 1), ("identity",), 0, n=1)
    how = {"batch_size": 1, "optimizer": "sgd", "dtype": "float32", "backend": backend}
    assert_trained_alike(net, data, {**how, "dtype": "float64"})
    flat, *_ = hotloop_train(net, data, orders_of(1), how)
    np.testing.assert_array_equal(normalized.split(net, flat)[-1], net.variances[0].astype("f4"))

    net, (X, Y, weight) = problem((3, 4, 1), ("identity",), 0, n=7)
    X = np.full_like(X, 1e6)  # and so is each unit
    flat, _, losses = hotloop_train(net, (X, Y, weight), orders_of(7), {**how, "batch_size": 7})
    output = net.biases[0] @ net.weights[1] + net.biases[1]
    error = 0.5 * (output - Y) ** 2
    expected = (error * weight[:, None]).sum() / weight.sum()
    expected += 0.5 * DECAY * sum((W**2).sum() for W in net.weights) / weight.sum()
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    variance = normalized.split(net, flat)[-1]
    np.testing.assert_allclose(variance, 0.81 * net.variances[0], rtol=1e-5)


@every_backend
def test_a_row_far_from_zero_keeps_its_digits(backend):
    """Its mean is rounded, but not its deviation: by the gradient of an output's weights, which are
    the normalized units times its delta.
    """
    z = 2.0**19 + np.random.default_rng(0).integers(0, 9, 37) / 16  # numbers of float32
    layers = spec.Dense(z.size, "identity", spec.LayerNorm()), spec.Dense(1)
    network = spec.Network((1,), layers, spec.LOSSES["squared_error"])
    flat = vectors.without_weights(network, np.dtype("f4"))
    weights, biases = vectors.weight_views(network, flat)
    weights[0][...], weights[1][...], biases[0][...], biases[1][...] = z, 0, 0, 0
    compiled = plan.compile_gradients(network, dtype=np.dtype("f4"), backend=backend)
    streams = {"X": np.ones((1, 1), "f4"), "y": np.full((1, 1), -1, "f4")}
    runner, out = backends.open_runner(compiled, None, streams), np.empty_like(flat)
    runner.gradients(flat, out, decay=0.0)
    got = vectors.weight_views(network, out)[0][1].ravel().astype("f8")
    expected = (z - z.mean()) / np.sqrt(z.var() + spec.LayerNorm().epsilon)
    np.testing.assert_allclose(got - got.mean(), expected, rtol=2e-5, atol=1e-6)


def trained_with(activation, axis, backend):
    """The flat vector after two steps of a small net with some activation."""
    net, data = problem((4, 6, 2), ("tanh",), axis, n=6)
    layers = (spec.Dense(6, activation, RECORDS[axis]), spec.Dense(2))
    network = spec.Network((4,), layers, spec.LOSSES["squared_error"])
    compiled = plan.compile_training(
        network, dtype="f8", batch_size=6, optimizer=OPTIMIZERS["sgd"], backend=backend
    )
    state = vectors.new_state(net.flat, OPTIMIZERS["sgd"])
    runner = backends.open_runner(compiled, state, streams_of(net, data, "f8"))
    runner.run(np.asarray(orders_of(6))[None], make_scalars("sgd", 2, alpha=DECAY))
    runner.read_state(state)
    return state.parameters[0]


@every_backend
@both_kinds
def test_slopes_that_are_kept_are_those_behind_the_normalisation(axis, backend):
    """At scale n + bias: a tanh of the user trains as tanh does, and silu as one of the user."""
    pytest.importorskip("numba", reason="numba compiles functions of the user")
    net, data = problem((4, 6, 2), ("tanh",), axis, n=6)
    expected, _, _ = oracle_train(net, data, orders_of(6), 6, "sgd")
    own = trained_with(spec.Function("activation", _tanh, _tanh_slope), axis, backend)
    np.testing.assert_allclose(own, expected.flat, rtol=1e-8, atol=1e-10)
    own = trained_with(spec.Function("activation", _silu, _silu_slope), axis, backend)
    np.testing.assert_allclose(trained_with("silu", axis, backend), own, rtol=1e-8, atol=1e-10)


def _tanh(z):
    return 2 / (1 + np.exp(-2 * z)) - 1


def _tanh_slope(z):
    return 1 - (2 / (1 + np.exp(-2 * z)) - 1) ** 2


def _silu(z):
    return z / (1 + np.exp(-z))


def _silu_slope(z):
    return (1 + z / (1 + np.exp(z))) / (1 + np.exp(-z))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="it takes a timer that interrupts")
@pytest.mark.parametrize("gradients", ["fused", "kept"])
def test_an_interrupted_step_is_dropped_whole(gradients):
    """Running statistics are those of the whole steps before it, to the bit."""
    net, data = problem((30, 60, 50, 3), ("relu", "relu"), 0, n=400)
    compiled = plan.compile_training(
        network_of(net),
        dtype="float32",
        batch_size=400,
        optimizer=OPTIMIZERS["adam"],
        gradients=gradients,
        backend="compiled",
    )
    streams, scalars = streams_of(net, data, "float32"), make_scalars("adam", 20_000)

    def opened():
        state = vectors.new_state(net.flat.astype("f4"), OPTIMIZERS["adam"])
        return backends.open_runner(compiled, state, streams), state

    for turn in range(3):
        runner, state = opened()
        before = signal.signal(signal.SIGPROF, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_PROF, 0.05 + 0.013 * turn)
            with pytest.raises(KeyboardInterrupt):
                runner.run(None, scalars, n_epochs=scalars.shape[1])
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
        n = runner.steps
        assert 0 < n < scalars.shape[1]
        runner.read_state(state)
        again, expected = opened()
        again.run(None, scalars[:, :n], n_epochs=n)
        again.read_state(expected)
        np.testing.assert_array_equal(state.parameters, expected.parameters)


# PyTorch.


@both_kinds
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_twenty_steps_are_pytorchs(solver, axis):
    """Linear without bias, BatchNorm1d or LayerNorm, ReLU: from equal weights to 1e-6, running
    statistics included, and so are predictions.
    """
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    net, (X, Y, _) = problem((7, 12, 9, 2), ("relu", "relu"), axis, n=50)
    modules = []
    for layer in range(3):
        last = layer == 2
        linear = torch.nn.Linear(*net.weights[layer].shape, bias=last, dtype=torch.float64)
        linear.weight.data = torch.tensor(net.weights[layer].T)
        modules.append(linear)
        if last:
            linear.bias.data = torch.tensor(net.biases[layer])
            break
        kind = torch.nn.LayerNorm if axis else torch.nn.BatchNorm1d
        norm = kind(len(net.biases[layer]), dtype=torch.float64)
        norm.weight.data = torch.tensor(net.scales[layer])
        norm.bias.data = torch.tensor(net.biases[layer])
        if axis == 0:
            norm.running_mean.data = torch.tensor(net.means[layer])
            norm.running_var.data = torch.tensor(net.variances[layer])
        modules += [norm, torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules)
    optimizer = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=0.05),
        "adam": lambda: torch.optim.Adam(model.parameters(), lr=0.01, eps=1e-12),
    }[solver]()
    for start in range(0, 200, 10):
        rows = np.arange(start, start + 10) % 50
        optimizer.zero_grad()
        loss = 0.5 * ((model(torch.tensor(X[rows])) - torch.tensor(Y[rows])) ** 2).sum(1).mean()
        loss.backward()
        optimizer.step()

    record = spec.SGD(nesterov=False) if solver == "sgd" else spec.Adam(0.999, 1e-12)
    compiled = plan.compile_training(
        network_of(net), dtype="f8", batch_size=10, optimizer=record, backend="compiled"
    )
    state = vectors.new_state(net.flat, record)
    runner = backends.open_runner(compiled, state, {"X": X, "y": Y})
    scalars = np.zeros((1, 20, len(plan.GROUPS), len(plan.SCALARS)))
    rates = 0.05 if solver == "sgd" else oracle.adam_rate(0.01, np.arange(1, 21))[:, None]
    scalars[0, :, :, plan.SCALARS.index("rate")] = rates
    scalars[0, :, :, plan.SCALARS.index("momentum")] = 0.0 if solver == "sgd" else 0.9
    runner.run(None, scalars, n_epochs=4)
    predicted = runner.predict(X, np.empty((50, 2)))
    runner.read_state(state)
    linears = [m for m in modules if isinstance(m, torch.nn.Linear)]
    norms = [m for m in modules if isinstance(m, (torch.nn.LayerNorm, torch.nn.BatchNorm1d))]
    expected = [m.weight.T for m in linears] + [m.bias for m in (*norms, linears[-1])]
    expected += [m.weight for m in norms]
    if axis == 0:
        expected += [m.running_mean for m in norms] + [m.running_var for m in norms]
    arrays = [e.detach().numpy() for e in expected]
    assert_close(normalized.split(net, state.parameters[0]), arrays, 1e-6, "array")
    model.eval()
    wanted = model(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(predicted, wanted, rtol=1e-6, atol=1e-6)


# Estimators.

X, y = make_classification(120, 8, n_informative=5, random_state=0)
both_names = pytest.mark.parametrize("normalization", ["batch", "layer"])
both_classes = pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])


def new(Estimator, **how):
    how = {"random_state": 0, "max_iter": 5, "batch_size": 30, **how}
    return Estimator(hidden_layer_sizes=(10, 6), **how)


def vectors_of(model):
    """What a fitted model is normalised by, and its weights."""
    names = ("coefs_", "intercepts_", "norm_scales_", "norm_means_", "norm_variances_")
    return [array for name in names for array in getattr(model, name, ())]


def outputs(model, X):
    return model.predict(X) if isinstance(model, MLPRegressor) else model.predict_proba(X)


@both_classes
@both_names
def test_a_fit_predicts_by_what_it_learnt(normalization, Estimator):
    """Attributes have their shapes, and predictions by them are the oracle's, of one row too."""
    model = new(Estimator, normalization=normalization, activation="tanh").fit(X, y)
    assert [v.shape for v in model.norm_scales_] == [(10,), (6,)]
    assert hasattr(model, "norm_means_") == hasattr(model, "norm_variances_")
    assert hasattr(model, "norm_means_") == (normalization == "batch")
    loss = "binary_log_loss" if Estimator is MLPClassifier else "squared_error"
    running = [getattr(model, name, []) for name in ("norm_means_", "norm_variances_")]
    arrays = model.coefs_, model.intercepts_, model.norm_scales_, *running
    axis = 0 if normalization == "batch" else 1
    net = normalized.Net(*arrays, ("tanh", "tanh"), loss, axis)
    expected = normalized.forward(net, X, running=True)[0][-1]
    if Estimator is MLPClassifier:
        expected = np.hstack([1 - expected, expected])
    got = outputs(model, X)
    np.testing.assert_allclose(got.reshape(len(X), -1), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(outputs(model, X[:1]), got[:1])
    assert new(Estimator, normalization=normalization).get_params()["normalization"] is not None


@both_names
def test_backends_agree(normalization):
    """On either of the CPU."""
    models = [
        new(MLPClassifier, normalization=normalization, backend=backend).fit(X, y)
        for backend in backends.CPU_BACKENDS
        if backends.why_unavailable(backend) is None
    ]
    for model in models[1:]:
        for got, expected in zip(vectors_of(model), vectors_of(models[0]), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(model.predict_proba(X), models[0].predict_proba(X), rtol=1e-7)


@both_names
@both_classes
def test_copies_and_edits(Estimator, normalization):
    """Pickles and clones are the same model, and edits of any vector are seen by predictions."""
    model = new(Estimator, normalization=normalization).fit(X, y)
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(outputs(twin, X), outputs(model, X))
    bases = {id(array.base if array.base is not None else array) for array in vectors_of(twin)}
    assert len(bases) == 1  # views of one vector again
    again = clone(model).fit(X, y)
    np.testing.assert_array_equal(outputs(again, X), outputs(model, X))
    for name in ("norm_scales_", "norm_means_", "norm_variances_"):
        if hasattr(model, name):
            for n in (1, len(X)):
                before = outputs(twin, X[:n])
                getattr(twin, name)[1][:] += 0.3
                assert not np.allclose(outputs(twin, X[:n]), before)


@both_names
def test_fits_go_on_where_they_were_left(normalization):
    """partial_fit by epochs is fit, statistics included; warm_start starts from what there is."""
    how = {"shuffle": False, "tol": 0.0, "normalization": normalization}
    whole = new(MLPClassifier, max_iter=4, **how).fit(X, y)
    parts = new(MLPClassifier, **how)
    for _ in range(4):
        parts.partial_fit(X, y, classes=[0, 1])
    for got, expected in zip(vectors_of(parts), vectors_of(whole), strict=True):
        np.testing.assert_array_equal(got, expected)
    warm = new(MLPClassifier, max_iter=1, warm_start=True, learning_rate_init=1e-30, **how)
    warm.fit(X, y)
    kept = [array.copy() for array in warm.norm_scales_]
    warm.fit(X, y)
    for got, expected in zip(warm.norm_scales_, kept, strict=True):
        np.testing.assert_array_equal(got, expected)


@both_names
def test_early_stopping_keeps_the_statistics_of_the_best_epoch(normalization):
    """The score of what is kept is the best one."""
    how = {"early_stopping": True, "max_iter": 30, "learning_rate_init": 0.05}
    model = new(MLPClassifier, normalization=normalization, **how).fit(X, y)
    scores = model.validation_scores_
    assert max(scores) == model.best_validation_score_
    assert np.argmax(scores) < len(scores) - 1  # the last epoch is another
    _, held_out = train_test_split(
        np.arange(len(X)), test_size=0.1, random_state=_state_after_init(model), stratify=_strata(y)
    )
    assert model.score(X[held_out], y[held_out]) == model.best_validation_score_


def _state_after_init(model):
    """The random stream as it is when rows are split."""
    rng = np.random.RandomState(0)
    for coef, intercept in zip(model.coefs_, model.intercepts_, strict=True):
        rng.uniform(size=coef.size + intercept.size)
    return rng


def _strata(y):
    return np.where(y > 0, "True", "False")


def test_a_search_chooses_among_normalizations():
    """Names, objects and their fields."""
    grid = {"normalization": [None, "batch", "layer", LayerNorm(epsilon=1e-3)]}
    search = GridSearchCV(new(MLPClassifier), grid, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    fields = {"normalization__momentum": [0.01, 0.5]}
    model = new(MLPClassifier, normalization=BatchNorm())
    scores = GridSearchCV(model, fields, cv=2).fit(X, y).cv_results_["mean_test_score"]
    assert scores[0] != scores[1]
    with pytest.raises(ValueError, match="has no parameters of its own"):
        new(MLPClassifier, normalization="batch").set_params(normalization__momentum=0.5)


@both_names
def test_sparse_and_dense_rows_are_the_same(normalization):
    """Up to rounding."""
    rows = np.where(np.abs(X) > 0.7, X, 0)
    dense, sparse = (
        new(MLPClassifier, normalization=normalization).fit(data, y)
        for data in (rows, scipy.sparse.csr_matrix(rows))
    )
    np.testing.assert_allclose(sparse.predict_proba(rows), dense.predict_proba(rows), rtol=1e-8)


@both_classes
def test_lbfgs_with_layer_normalisation(Estimator):
    """The loss falls."""
    model = new(Estimator, solver="lbfgs", normalization="layer", alpha=0.1, max_iter=60)
    model.set_params(activation="tanh").fit(X, y)
    first = clone(model).set_params(max_iter=1).fit(X, y)
    assert model.loss_ < 0.7 * first.loss_


def test_a_network_without_hidden_layers_has_nothing_to_normalise():
    """It is as one that was not asked to."""
    one, other = (
        MLPClassifier((), random_state=0, max_iter=3, normalization=given).fit(X, y)
        for given in (None, "batch")
    )
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    assert not hasattr(other, "norm_scales_")


def test_a_fit_without_normalisation_leaves_none_of_an_earlier_one():
    """Nor do predictions use it."""
    model = new(MLPClassifier, normalization="batch").fit(X, y)
    model.set_params(normalization=None).fit(X, y)
    assert not any(name.startswith("norm_") for name in vars(model))
    expected = new(MLPClassifier).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_what_cannot_be_done_is_refused():
    """Messages say what came, what is allowed and what to do; fitted models stay as they are."""

    def refused(match, **how):
        with pytest.raises(ValueError, match=match):
            new(MLPClassifier, **how).fit(X, y)

    refused("Use normalization='layer', or another", solver="lbfgs", normalization="batch")
    refused("'normalization' parameter", normalization="instance")
    refused("'momentum' parameter of BatchNorm", normalization=BatchNorm(momentum=2))
    refused("'epsilon' parameter of LayerNorm", normalization=LayerNorm(epsilon=0))
    how = {"precision": "bfloat16_emulated", "normalization": "layer", "backend": "compiled"}
    refused("float32 or float64, but precision", **how)
    model = new(MLPClassifier, normalization="batch", warm_start=True).fit(X, y)
    before = state_of(vars(model))
    model.set_params(normalization="layer")
    with pytest.raises(ValueError, match="warm_start and partial_fit go on with that"):
        model.partial_fit(X, y)
    assert state_of(vars(model.set_params(normalization="batch"))) == before
    model.norm_variances_[0][0] = -1
    with pytest.raises(ValueError, match="norm_variances_ must not be negative"):
        model.predict(X)
    model.norm_scales_ = model.norm_scales_[:1]
    with pytest.raises(ValueError, match="norm_scales_ must hold one vector"):
        model.predict(X)
