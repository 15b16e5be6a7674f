"""Dropout, input noise and mixup: kernels against the oracle, masks bit for bit, estimators."""

import pickle
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import pytest
import scipy.sparse
from hotloop.kernels import DEFAULT_BACKEND, KINDS, philox
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

import oracle
from hotloop import MLPClassifier, MLPRegressor, backends, plan, spec, vectors
from stacks import OPTIMIZERS, Stack, build, make_orders, make_scalars, steps_per_epoch

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
BACKENDS = ["compiled", pytest.param("numba", marks=needs_numba)]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
SEED = 0x123456789ABCDEF0


@dataclass(frozen=True)
class Case:
    """What is trained, and what is drawn for it."""

    widths: tuple
    activations: tuple
    loss: str
    random: oracle.Random
    optimizer: str = "adam"
    n: int = 23
    batch: int = 10
    sparse: bool = False
    weighted: bool = False
    gradients: str = "fused"


def drawn(*dropout, **more):
    return oracle.Random(SEED, dropout, **more)


ALL = {"input_dropout": 0.25, "input_noise": 0.5, "mixup": 0.4}
CASES = {
    "one layer": Case((5, 7, 3), ("relu",), "log_loss", drawn(0.5)),
    "identity": Case((9, 33, 4, 2), ("identity",) * 2, "squared_error", drawn(0.3, 0.1), "sgd"),
    "curved": Case((4, 300, 5), ("tanh", "logistic")[:1], "poisson", drawn(0.2), "nesterov"),
    "logistic": Case((4, 20, 6, 1), ("logistic", "relu"), "binary_log_loss", drawn(0.4, 0.0)),
    "csr": Case((12, 9, 8, 3), ("tanh", "relu"), "log_loss", drawn(0.6, 0.2), sparse=True),
    "by input": Case((5, 19, 6, 3), ("gelu", "softplus"), "log_loss", drawn(0.5, 0.3)),
    "kept": Case((6, 8, 2), ("relu",), "squared_error", drawn(0.5), gradients="kept"),
    "sharded": Case((6, 8, 2), ("tanh",), "squared_error", drawn(0.5, **ALL), gradients="sharded"),
    "input": Case((270, 8, 3), ("relu",), "log_loss", drawn(0.0, input_dropout=0.3)),
    "noise": Case((270, 8, 3), ("tanh",), "log_loss", drawn(0.0, input_noise=0.3), "sgd"),
    "mixup": Case((6, 8, 4), ("relu",), "log_loss", drawn(0.0, mixup=0.7), weighted=True, batch=9),
    "mixed numbers": Case((6, 5, 3), ("tanh",), "poisson", drawn(0.0, mixup=2.0), weighted=True),
    "one output": Case((6, 5, 1), ("tanh",), "squared_error", drawn(0.2, **ALL), batch=23),
    "no layer": Case((6, 4), (), "binary_log_loss", drawn(mixup=1.0, input_noise=1.0)),
    "small": Case(
        (5, 6, 4, 3), ("relu", "tanh"), "log_loss", drawn(0.5, 0.25, **ALL), n=11, batch=6
    ),
    "all": Case((17, 31, 13, 3), ("relu", "tanh"), "log_loss", drawn(0.5, 0.25, **ALL), n=41),
}


def problem_of(case, backend, dtype):
    """The case's arrays, the network with what is drawn, and its oracle without error bounds."""
    stack = Stack(
        case.widths, case.activations, case.loss, case.n, dtype, case.sparse, case.weighted,
        backend=backend,
    )  # fmt: skip
    problem, random = build(stack), case.random
    rates = dict(enumerate(random.dropout))
    layers = [replace(x, dropout=rates.get(k, 0.0)) for k, x in enumerate(problem.network.layers)]
    network = replace(
        problem.network,
        layers=tuple(layers),
        **{name: getattr(random, name) for name in ("input_dropout", "input_noise", "mixup")},
    )
    net = problem.net.with_parameters([p.value for p in problem.net.parameters])
    return replace(problem, network=network, net=net)


def runner_of(case, problem, dtype, *, n_jobs=1, first_step=0, **changes):
    """A runner of training steps."""
    compiled = plan.compile_training(
        problem.network,
        dtype=dtype,
        batch_size=case.batch,
        optimizer=OPTIMIZERS[case.optimizer],
        sparse=case.sparse,
        gradients=case.gradients if problem.stack.backend == "compiled" else None,
        backend=problem.stack.backend,
    )
    state = vectors.new_state(problem.parameters.copy(), OPTIMIZERS[case.optimizer])
    state.seed, state.step = case.random.seed, first_step
    compiled = replace(compiled, **changes)
    return backends.open_runner(compiled, state, problem.streams, n_jobs=n_jobs), state


def scalars_of(case, n_epochs, first_step=0):
    """Rates and momenta of each step, and the share of a row in its pair."""
    n_steps = n_epochs * steps_per_epoch(case.n, case.batch)
    scalars = make_scalars(case.optimizer, n_steps)
    for t in range(n_steps):
        scalars[0, t, :, plan.SCALARS.index("mix")] = case.random.mix(first_step + t)
    return scalars


def trained(case, backend, dtype, first_step=0, n_epochs=2, **how):
    problem = problem_of(case, backend, dtype)
    runner, state = runner_of(case, problem, dtype, first_step=first_step, **how)
    orders, scalars = make_orders(problem, n_epochs), scalars_of(case, n_epochs, first_step)
    losses = runner.run(orders, scalars)[0]
    runner.read_state(state)
    runner.close()
    assert state.step == first_step + n_epochs * steps_per_epoch(case.n, case.batch)
    return state.parameters[0], losses


def expected(case, dtype, first_step=0, n_epochs=2):
    """The same on the oracle, in float64 whatever the dtype."""
    problem = problem_of(case, "compiled" if DEFAULT_BACKEND == "compiled" else "numba", dtype)
    net, chosen = problem.net, OPTIMIZERS[case.optimizer]
    slots = {name: [np.zeros(p.shape) for p in net.parameters] for name in chosen.slots}
    scalars, losses, t = scalars_of(case, n_epochs, first_step)[0], [], 0
    bits, n_layers = (32 if dtype == "float64" else 23), len(net.weights)
    for order in make_orders(problem, n_epochs)[0]:
        total = 0.0
        for start in range(0, case.n, case.batch):
            rows = order[start : start + case.batch]
            w = None if problem.sample_weight is None else problem.sample_weight[rows]
            batch = problem.X[rows], problem.Y[rows], w
            value, grads = oracle.random_gradients(
                net, case.random, first_step + t, batch, scalars[t, 0, 2], bits
            )
            total += value * len(rows)
            rates, momenta = ([*[column[0]] * n_layers, *[column[1]] * n_layers] for column in
                              (scalars[t, :, 0], scalars[t, :, 1]))  # fmt: skip
            if case.optimizer == "adam":
                new, slots = oracle.adam_step(
                    net.parameters, slots, grads, rates, momenta, chosen.beta_2, chosen.epsilon
                )
            else:
                nesterov = case.optimizer == "nesterov"
                new, slots = oracle.sgd_step(net.parameters, slots, grads, rates, momenta, nesterov)
            net = net.with_parameters(new)
            t += 1
        losses.append(total / case.n)
    return np.concatenate([p.ravel() for p in net.parameters]), losses


def assert_trains_as_the_oracle(case, backend, dtype, **how):
    """Parameters and losses after two epochs, and that it is no accident."""
    start = problem_of(case, backend, dtype).parameters.astype(np.float64)
    parameters, losses = trained(case, backend, dtype, **how)
    want, want_losses = expected(case, dtype, **how)
    bound = 1e-10 if dtype == "float64" else 2e-3
    assert np.linalg.norm(parameters - want) <= bound * np.linalg.norm(want - start)
    np.testing.assert_allclose(losses, want_losses, rtol=1e-10 if dtype == "float64" else 1e-4)
    other = replace(case, random=replace(case.random, seed=SEED + 1))
    unlike, _ = expected(other, dtype, **how)
    assert np.linalg.norm(parameters - unlike) > 10 * bound * np.linalg.norm(want - start)


# Kernels against the oracle.


@every_backend
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_training_is_the_oracles(name, dtype, backend):
    """Two epochs in batches, the last one short, with the oracle's masks, noise and pairs."""
    assert_trains_as_the_oracle(CASES[name], backend, dtype)


@every_backend
def test_words_are_those_of_the_step(backend):
    """A fit that goes on from step 2^32 - 2 draws others, and counts modulo 2^32."""
    assert_trains_as_the_oracle(CASES["all"], backend, "float64", first_step=2**32 - 2)


@needs_numba
def test_slopes_of_custom_activations_are_dropped_too():
    """The same function by another name."""
    case = CASES["curved"]
    want = trained(case, "compiled", "float64")[0]
    own = spec.Function("activation", lambda z: np.tanh(z), lambda z: 1 - np.tanh(z) ** 2)
    problem = problem_of(case, "compiled", "float64")
    hidden, output = problem.network.layers
    layers = (replace(hidden, activation=own), output)
    problem = replace(problem, network=replace(problem.network, layers=layers))
    runner, state = runner_of(case, problem, "float64")
    runner.run(make_orders(problem, 2), scalars_of(case, 2))
    runner.read_state(state)
    np.testing.assert_allclose(state.parameters[0], want, rtol=1e-10)


@pytest.mark.compiled
def test_products_of_bfloat16_have_the_same_masks():
    """The result is that of float32 up to rounding."""
    case = replace(CASES["all"], optimizer="sgd")
    start = problem_of(case, "compiled", "float32").parameters
    single = trained(case, "compiled", "float32")[0] - start
    problem = problem_of(case, "compiled", "float32")
    runner, state = runner_of(case, problem, "bfloat16_emulated")
    runner.run(make_orders(problem, 2), scalars_of(case, 2))
    runner.read_state(state)
    rounded = state.parameters[0] - start
    assert 0 < np.linalg.norm(rounded - single) < 0.05 * np.linalg.norm(single)


# Masks, bit for bit.


def factors(backend, dtype, *, rate=0.3, n=32, units=37, step=5, n_jobs=1, **changes):
    """What a hidden layer's outputs are multiplied by in a step, (n, units), as trained weights
    show it: X is zero and the bias 1, and the delta of row r is in output r alone.
    """
    network = spec.Network(
        (1,), (spec.Dense(units, dropout=rate), spec.Dense(n)), spec.LOSSES["squared_error"]
    )
    flat = np.zeros(vectors.n_parameters(network), dtype)
    vectors.weight_views(network, flat)[1][0][:] = 1
    compiled = plan.compile_training(
        network, dtype=dtype, batch_size=n, optimizer=spec.SGD(nesterov=False), backend=backend,
        gradients="fused" if backend == "compiled" else None,
    )  # fmt: skip
    state = vectors.new_state(flat, compiled.optimizer)
    state.seed, state.step = SEED, step
    streams = {"X": np.zeros((n, 1), dtype), "y": -np.eye(n, dtype=dtype)}
    runner = backends.open_runner(replace(compiled, **changes), state, streams, n_jobs=n_jobs)
    scalars = np.zeros((1, 1, 2, len(plan.SCALARS)))
    scalars[..., plan.SCALARS.index("rate")] = -n
    runner.run(None, scalars, n_epochs=1)
    runner.read_state(state)
    return vectors.weight_views(network, state.parameters[0])[0][1].T


def masks_of(rate, shape, dtype, step=5):
    words = oracle.random_words((SEED, step, 0, 0, 0), shape)
    return (words >= philox.threshold(rate)) * np.dtype(dtype).type(1 / (1 - rate))


@every_backend
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masks_are_bit_for_bit_the_oracles(dtype, backend):
    for rate in (0.1, 0.5, 0.99):
        got = factors(backend, dtype, rate=rate)
        np.testing.assert_array_equal(got, masks_of(rate, got.shape, dtype))


@pytest.mark.compiled
@pytest.mark.parametrize("chunk", [1, 5, 32])
@pytest.mark.parametrize("n_jobs", [1, 2, 3])
def test_masks_do_not_depend_on_chunks_and_threads(n_jobs, chunk, always_shared):
    got = factors("compiled", "float32", n_jobs=n_jobs, chunk_rows=chunk)
    assert always_shared == [n_jobs]
    np.testing.assert_array_equal(got, masks_of(0.3, got.shape, "float32"))


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["all", "mixed numbers", "one output", "csr", "sharded"])
def test_any_chunks_and_threads_have_the_same_bits(name, always_shared):
    """Partners and masks in other pieces of a batch."""
    want, losses = trained(CASES[name], "compiled", "float32")
    for n_jobs, chunk in ((1, 3), (2, 1), (2, 4)):
        how = {"n_jobs": n_jobs, "chunk_rows": chunk}
        got, got_losses = trained(CASES[name], "compiled", "float32", **how)
        assert always_shared[-1] == n_jobs
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(got_losses, losses)


def test_the_mean_of_an_output_stays():
    """Over steps: 1 within five standard deviations."""
    rate, n = 0.4, 40
    each = np.mean([factors(DEFAULT_BACKEND, "float64", rate=rate, step=t) for t in range(n)])
    assert abs(each - 1) < 5 * np.sqrt(rate / (1 - rate) / (n * 32 * 37))


# Noise.


def noise(backend, dtype, shape=(64, 501)):
    """Numbers that were added to an input of zeros, by the gradient of a layer that has one unit
    for each row.
    """
    n, n_features = shape
    network = spec.Network(
        (n_features,), (spec.Dense(n),), spec.LOSSES["squared_error"], input_noise=1.0
    )
    compiled = plan.compile_training(
        network, dtype=dtype, batch_size=n, optimizer=spec.SGD(nesterov=False), backend=backend,
        gradients="fused" if backend == "compiled" else None,
    )  # fmt: skip
    state = vectors.new_state(np.zeros(vectors.n_parameters(network), dtype), compiled.optimizer)
    state.seed, state.step = SEED, 3
    streams = {"X": np.zeros(shape, dtype), "y": -np.eye(n, dtype=dtype)}
    runner = backends.open_runner(compiled, state, streams)
    scalars = np.zeros((1, 1, 2, len(plan.SCALARS)))
    scalars[..., plan.SCALARS.index("rate")] = -n
    runner.run(None, scalars, n_epochs=1)
    runner.read_state(state)
    return vectors.weight_views(network, state.parameters[0])[0][0].T


@every_backend
@pytest.mark.parametrize(("dtype", "bits"), [("float64", 32), ("float32", 23)])
def test_noise_is_normal_and_the_oracles(dtype, bits, backend):
    z = noise(backend, dtype)
    want = oracle.Random(SEED).noise(3, z.shape, bits)
    error = np.abs(z - want) / np.maximum(np.abs(want), 1e-3)
    assert error.max() < (1e-11 if dtype == "float64" else 2e-6)
    z = z.ravel().astype(np.float64)
    n = z.size
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / n)
    assert stats.kstest(z, "norm").pvalue > 1e-4


@pytest.mark.parametrize("bits", [32, 23])
def test_the_ends_of_the_words_are_numbers(bits):
    """The largest and smallest are finite and opposite, and all of them grow with the words."""
    words = [0, 1, 2**9, 2**28, 2**31 - 1, 2**31, 2**32 - 2**28, 2**32 - 2, 2**32 - 1]
    z = [philox.normal(np.uint64(word), bits) for word in words]
    assert z == sorted(z)
    assert z[0] == -z[-1]
    assert abs(z[0]) < 6.4
    scaled = [((word >> (32 - bits)) + 0.5) / 2.0**bits for word in words]
    np.testing.assert_allclose(z, stats.norm.ppf(scaled), rtol=1e-9)


# PyTorch.


def test_twenty_steps_agree_with_pytorch_under_our_masks():
    """Modules of PyTorch with our masks between them, and two losses under mixup."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    random = drawn(0.5, 0.2, **ALL)
    case = Case((12, 24, 16, 4), ("relu", "tanh"), "log_loss", random, "nesterov", n=30, batch=30)
    problem = problem_of(case, DEFAULT_BACKEND, "float64")
    scalars = scalars_of(case, 20)
    scalars[..., :3] = 0.05, 0.9, 0.0
    runner, state = runner_of(case, problem, "float64")
    losses = runner.run(None, scalars, n_epochs=20)[0]
    runner.read_state(state)

    linear = [torch.nn.Linear(i, o, dtype=torch.float64) for i, o in zip(
        case.widths[:-1], case.widths[1:], strict=True)]  # fmt: skip
    with torch.no_grad():
        for k, (w, b) in enumerate(zip(*vectors.weight_views(problem.network, problem.parameters),
                                       strict=True)):  # fmt: skip
            linear[k].weight[:], linear[k].bias[:] = torch.tensor(w.T), torch.tensor(b)
    optimizer = torch.optim.SGD(
        [p for layer in linear for p in layer.parameters()], lr=0.05, momentum=0.9, nesterov=True
    )
    y = torch.tensor(problem.streams["y"]).long()
    for step in range(20):
        h = torch.tensor(random.input(step, problem.X, 32))
        for k, activate in enumerate((torch.relu, torch.tanh)):
            h = activate(linear[k](h))
            h = h * torch.tensor(random.kept(k, step, random.dropout[k], h.shape))
        z, mix = linear[2](h), random.mix(step)
        entropy = torch.nn.functional.cross_entropy
        loss = mix * entropy(z, y) + (1 - mix) * entropy(z, y[oracle.partners(30)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert losses[step] == pytest.approx(loss.item(), rel=1e-6)
    weights, biases = vectors.weight_views(problem.network, state.parameters[0])
    for layer, w, b in zip(linear, weights, biases, strict=True):
        np.testing.assert_allclose(w.T, layer.weight.detach(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(b, layer.bias.detach(), rtol=0, atol=1e-6)


# Estimators.

X, Y = load_iris(return_X_y=True)
SETTINGS = {
    "dropout": {"dropout": 0.3},
    "each layer": {"dropout": [0.1, 0.0], "hidden_layer_sizes": (20, 10)},
    "input": {"input_dropout": 0.1, "input_noise": 0.2},
    "mixup": {"mixup": 0.4},
}
every_setting = pytest.mark.parametrize("setting", SETTINGS)


def network(setting="dropout", **more):
    return MLPClassifier(
        **{"random_state": 0, "max_iter": 8, "hidden_layer_sizes": 20, **SETTINGS[setting], **more}
    )


def same(one, two):
    return all(np.array_equal(a, b) for a, b in zip(one.coefs_, two.coefs_, strict=True))


@every_setting
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_seed_says_what_is_drawn(solver, setting):
    """The same fit twice is the same; another seed, and no drawing, are others."""
    one = network(setting, solver=solver).fit(X, Y)
    assert same(one, network(setting, solver=solver).fit(X, Y))
    off = {"dropout": 0.0, "input_dropout": 0.0, "input_noise": 0.0, "mixup": 0.0}
    assert not same(one, network(setting, solver=solver, **off).fit(X, Y))
    shared = np.random.RandomState(0)
    first = network(setting, solver=solver, random_state=shared).fit(X, Y)
    assert same(first, one)
    assert first._seed != network(setting, random_state=shared).fit(X, Y)._seed


def test_the_seed_is_drawn_after_the_weights_and_only_if_needed():
    """Without what draws, no bit and no draw is another; with it, all comes later."""
    plain, zero = (np.random.RandomState(3) for _ in range(2))
    one = network(random_state=plain, dropout=0.0).fit(X, Y)
    two = network(random_state=zero, dropout=[0.0], input_noise=0, mixup=0.0).fit(X, Y)
    assert same(one, two)
    assert one._seed is None
    assert plain.get_state()[1].tolist() == zero.get_state()[1].tolist()
    rng = np.random.RandomState(3)
    for shape in ((4, 20), 20, (20, 3), 3):
        rng.uniform(size=shape)
    three = network(random_state=np.random.RandomState(3), max_iter=1).fit(X, Y)
    assert three._seed == int(rng.randint(0, 2**64, dtype=np.uint64))


@every_setting
def test_partial_fit_goes_on_counting_steps(setting):
    """Three calls are one fit of three epochs: no mask is drawn twice."""
    how = {"shuffle": False, "batch_size": 50}
    whole = network(setting, max_iter=3, **how).fit(X, Y)
    parts = network(setting, **how)
    for _ in range(3):
        parts.partial_fit(X, Y, classes=[0, 1, 2])
    assert same(whole, parts)
    assert parts._seed == whole._seed
    assert parts._n_steps == whole._n_steps == 9


def test_warm_start_goes_on_counting_steps():
    """The optimizer starts anew, masks do not: a second fit is no repetition."""
    model = network(warm_start=True, max_iter=2, batch_size=50).fit(X, Y)
    seed = model._seed
    model.fit(X, Y)
    assert (model._seed, model._n_steps) == (seed, 12)
    assert model.set_params(warm_start=False).fit(X, Y)._n_steps == 6


def test_a_pickle_goes_on_where_it_was():
    one = network().partial_fit(X, Y, classes=[0, 1, 2])
    two = pickle.loads(pickle.dumps(one))
    assert same(one.partial_fit(X, Y), two.partial_fit(X, Y))


def test_an_interrupt_counts_the_steps_that_were_taken(monkeypatch):
    """So many, and no more: the next call has the masks that come next."""
    run = backends.TableRunner.run

    def interrupted(self, *args, **kwargs):
        run(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(backends.TableRunner, "run", interrupted)
    with pytest.warns(UserWarning, match="interrupted"):
        model = network(batch_size=50, max_iter=3).fit(X, Y)
    assert model._n_steps == model._optimizer.step > 0


@every_setting
def test_predictions_draw_nothing(setting):
    """Twice the same, and those of the weights; early stopping scores by such."""
    model = network(setting, early_stopping=True, max_iter=30).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), model.predict_proba(X))
    bare = network(setting, dropout=0.0, input_dropout=0.0, input_noise=0.0, mixup=0.0)
    bare = bare.set_params(max_iter=1).fit(X, Y)
    bare.coefs_, bare.intercepts_ = model.coefs_, model.intercepts_
    np.testing.assert_array_equal(bare.predict_proba(X), model.predict_proba(X))
    assert max(model.validation_scores_) == model.best_validation_score_


@pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
@every_setting
def test_backends_draw_the_same(setting):
    one, two = (
        network(setting, max_iter=5, backend=backend).fit(X, Y)
        for backend in ("compiled" if backends.kernels.COMPILED else "numba", "numba")
    )  # fmt: skip
    for a, b in zip(one.coefs_, two.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "loss", ["log_loss", "focal", "hinge", "squared_error", "huber", "quantile"]
)
def test_a_row_that_is_its_own_partner_loses_what_it_did(loss):
    """Every kind of loss: mixed with a copy of itself a batch trains as without mixup."""
    Estimator = MLPClassifier if loss in ("log_loss", "focal", "hinge") else MLPRegressor
    twice, y = np.vstack([X, X]), np.concatenate([Y, Y])
    how = {"loss": loss, "shuffle": False, "batch_size": 300, "max_iter": 20, "random_state": 0}
    plain = Estimator(**how).fit(twice, y)
    mixed = Estimator(**how, mixup=0.5).fit(twice, y)
    np.testing.assert_allclose(mixed.loss_curve_, plain.loss_curve_, rtol=1e-9)
    for a, b in zip(plain.coefs_, mixed.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_searches_and_clones():
    search = GridSearchCV(network(), {"dropout": [0.0, 0.5, [0.9]], "mixup": [0.0, 0.2]}, cv=2)
    search.fit(X, Y)
    assert clone(search.best_estimator_).get_params()["dropout"] in (0.0, 0.5, [0.9])


def test_sparse_input_drops_outputs_of_hidden_layers():
    dense = network(max_iter=5).fit(X, Y)
    csr = network(max_iter=5).fit(scipy.sparse.csr_array(X), Y)
    for a, b in zip(dense.coefs_, csr.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_dropout_keeps_noise_from_being_learnt():
    """The network that drops half of its units predicts better where most of y is noise."""
    rng = np.random.RandomState(1)
    wide = rng.normal(size=(600, 20))
    y = wide[:, 0] + rng.normal(size=600)
    how = {"learning_rate_init": 0.01, "max_iter": 150, "tol": 0, "batch_size": 50}
    plain, dropping = (
        MLPRegressor(dropout=rate, random_state=1, **how)
        .fit(wide[:100], y[:100])
        .score(wide[100:], y[100:])
        for rate in (0.0, 0.5)
    )
    assert dropping > plain + 0.05


BAD = [
    ({"dropout": 1.0}, "dropout"),
    ({"dropout": -0.1}, "dropout"),
    ({"dropout": [0.1, 0.2]}, "one for each of the 1 hidden layers"),
    ({"dropout": [1.5]}, r"rates in \[0, 1\)"),
    ({"dropout": ["a"]}, r"rates in \[0, 1\)"),
    ({"dropout": "half"}, "dropout"),
    ({"input_dropout": 1.0}, "input_dropout"),
    ({"input_noise": -1.0}, "input_noise"),
    ({"input_noise": np.inf}, "input_noise"),
    ({"mixup": -1.0}, "mixup"),
    ({"mixup": np.nan}, "mixup"),
    ({"solver": "lbfgs"}, "solver='lbfgs' minimises one loss of all rows, which dropout would"),
    ({"solver": "lbfgs", "dropout": 0.0, "mixup": 0.1}, "set mixup=0"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD, ids=lambda v: str(v)[:40])
def test_what_cannot_be_used_is_refused(wrong, message):
    model = network().fit(X, Y)
    coefs = [w.copy() for w in model.coefs_]
    with pytest.raises(ValueError, match=message):
        model.set_params(**wrong).fit(X, Y)
    for a, b in zip(coefs, model.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["input_dropout", "input_noise", "mixup"])
def test_sparse_input_is_not_changed(name):
    with pytest.raises(ValueError, match=f"X is sparse, and {name} would change whole rows"):
        MLPClassifier(**{name: 0.1}).fit(scipy.sparse.csr_array(X), Y)
    network = spec.Network((4,), (spec.Dense(3),), spec.LOSSES["log_loss"], **{name: 0.1})
    with pytest.raises(ValueError, match="need a dense X"):
        plan.compile_training(network, dtype="f8", batch_size=9, optimizer=spec.Adam(), sparse=True)
    with pytest.raises(ValueError, match="for training in steps"):
        plan.compile_gradients(network, dtype="f8")


def test_records_that_cannot_be():
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\)"):
        spec.Dense(3, dropout=1.0)
    with pytest.raises(ValueError, match="outputs are never dropped"):
        spec.Network((4,), (spec.Dense(3, dropout=0.5),), spec.LOSSES["log_loss"])
    for name in ("input_dropout", "input_noise", "mixup"):
        with pytest.raises(ValueError, match=name):
            spec.Network((4,), (spec.Dense(3),), spec.LOSSES["log_loss"], **{name: -1.0})


def test_ops_are_there_only_when_asked_for():
    """A plan without them is the one there was."""
    new = {KINDS[name] for name in ("DROPOUT", "NOISE", "PARTNER_GATHER", "PARTNER_LOSS", "MIX")}
    problem = problem_of(replace(CASES["all"], random=drawn(0.0, 0.0)), "compiled", "float64")
    how = {"dtype": "f8", "batch_size": 9, "optimizer": spec.Adam()}
    assert not new & set(plan.compile_training(problem.network, **how).ops["kind"].tolist())
    problem = problem_of(CASES["all"], "compiled", "float64")
    table = plan.compile_training(problem.network, **how)
    assert new <= set(table.ops["kind"].tolist())
    assert not new & set(table.inference_ops["kind"].tolist())
