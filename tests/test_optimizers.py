"""Optimizers beyond SGD and Adam, and what a step does besides its rule, against the oracle.

PyTorch judges the rules that it has, the oracle all of them and all that may be combined with them.
"""

import pickle
import signal
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import hotloop
import oracle
from hotloop import MLPClassifier, MLPRegressor, backends, plan, spec, vectors
from stacks import ALPHA, LR, Stack, build, gradient_kinds, make_orders, scalars_of, stepped

pytestmark = pytest.mark.filterwarnings("ignore:.*Maximum iterations")

#: Each rule: its record, the momentum or beta_1 that comes with a step, and the oracle's.
RULES = {
    "sgd": (spec.SGD(nesterov=False), 0.9, oracle.sgd),
    "nesterov": (spec.SGD(), 0.9, oracle.sgd),
    "adam": (spec.Adam(beta_2=0.99, epsilon=1e-3), 0.9, oracle.adam),
    "adamw": (spec.Adam(beta_2=0.99, epsilon=1e-3, adds_to_corrected=True), 0.9, oracle.adamw),
    "amsgrad": (spec.Adam(beta_2=0.9, epsilon=1e-3, amsgrad=True), 0.8, oracle.adamw),
    "nadam": (spec.NAdam(beta_2=0.99, epsilon=1e-3), 0.9, oracle.nadam),
    "rmsprop": (spec.RMSprop(beta_2=0.95, epsilon=1e-3), 0.7, oracle.rmsprop),
    "adagrad": (spec.Adagrad(epsilon=1e-3), 0.0, oracle.adagrad),
    "lion": (spec.Lion(), 0.9, oracle.lion),
}
#: What may be asked for besides, as fields of a record.
BESIDES = {
    "nothing": {},
    "decay": {"weight_decay": 0.3},
    "l1": {"l1_ratio": 0.7},
    "clip_value": {"clip_value": 0.02},
    "clip_norm": {"clip_norm": 0.1},
    "max_norm": {"max_norm": 0.8},
    "average": {"average_decay": 0.8},
    "all": {
        **{"weight_decay": 0.2, "l1_ratio": 0.4, "clip_value": 0.05, "clip_norm": 0.3},
        **{"max_norm": 0.9, "average_decay": 0.7},
    },
}
#: The same that sparse input has.
SPARSE = {k: v for k, v in BESIDES.items() if not {"clip_norm", "max_norm"} & {*v}} | {
    "all": {"weight_decay": 0.2, "l1_ratio": 0.4, "clip_value": 0.05, "average_decay": 0.7}
}
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
STACK = Stack((9, 40, 2), ("tanh",), n=33, weighted=True)

both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
every_rule = pytest.mark.parametrize("rule", RULES)


def record_of(rule, besides):
    return replace(RULES[rule][0], **besides)


def run(problem, rule, besides, **how):
    """The state and the losses after some epochs on hotloop."""
    return stepped(problem, record_of(rule, besides), RULES[rule][1], **how)


def run_oracle(problem, rule, besides, *, batch=10, n_epochs=2):
    record = record_of(rule, besides)
    how = {"lr": LR, "alpha": ALPHA, "beta_1": RULES[rule][1], "momentum": RULES[rule][1]}
    for name in (*besides, "beta_2", "epsilon", "nesterov"):
        if hasattr(record, name):
            how[name] = getattr(record, name)
    how["average"] = record.average_decay or 0.0
    net = problem.net.with_parameters([p.value for p in problem.net.parameters])
    data = (problem.X, problem.Y, problem.sample_weight)
    orders, chosen = make_orders(problem, n_epochs)[0], RULES[rule][2]
    return oracle.train_with(net, record.moments, data, orders, batch, chosen, how)


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


def assert_close(got, expected, tolerance):
    assert np.linalg.norm(got - expected) <= tolerance * np.linalg.norm(expected)


def assert_as_oracle(problem, rule, besides, **how):
    """Parameters, slots and losses of hotloop are the oracle's."""
    tolerance = TOLERANCE[problem.stack.dtype]
    state, losses = run(problem, rule, besides, **how)
    known = {k: v for k, v in how.items() if k in ("batch", "n_epochs")}
    net, slots, expected = run_oracle(problem, rule, besides, **known)
    start = problem.parameters.astype(np.float64)
    assert_close(state.parameters[0] - start, flat(net.parameters) - start, 10 * tolerance)
    assert set(state.slots) == set(slots)
    for name, arrays in slots.items():
        assert_close(state.slots[name][0], flat(arrays), 10 * tolerance)
    np.testing.assert_allclose(losses, expected, rtol=tolerance)


# Rules, and what goes with them.


@both_dtypes
@every_rule
@pytest.mark.parametrize("besides", BESIDES)
def test_every_rule_with_everything_beside_it(besides, rule, dtype):
    """Two epochs with a short last batch; layers of both layouts."""
    assert_as_oracle(build(replace(STACK, dtype=dtype)), rule, BESIDES[besides])


@both_dtypes
@every_rule
@pytest.mark.parametrize("besides", SPARSE)
def test_every_rule_on_sparse_input(besides, rule, dtype):
    """Features that a batch has nothing of take their steps later, one by one."""
    stack = replace(STACK, widths=(60, 40, 2), dtype=dtype, sparse=True)
    problem = build(stack)
    problem.X[:] *= np.random.default_rng(5).random(problem.X.shape) < 0.05
    problem.streams["X"] = sp.csr_matrix(problem.X.astype(dtype))
    assert_as_oracle(problem, rule, SPARSE[besides], batch=4)


@pytest.mark.parametrize("alpha", [0.0, 0.2])
def test_sparse_input_is_as_dense_over_many_missed_steps(alpha):
    """More than the history holds at once, with features that come up rarely or never."""
    stack = replace(STACK, widths=(50, 20, 2), n=300)
    both = []
    for sparse in (False, True):
        problem = build(replace(stack, sparse=True))  # one target for both
        rng = np.random.default_rng(0)
        X = rng.normal(size=problem.X.shape) * (rng.random(problem.X.shape) < 0.003)
        problem.streams["X"] = sp.csr_matrix(X) if sparse else X
        record = spec.Adam(adds_to_corrected=True, weight_decay=0.1, average_decay=0.95)
        compiled = plan.compile_training(
            problem.network, dtype="f8", batch_size=2, optimizer=record, sparse=sparse
        )
        state = vectors.new_state(problem.parameters.copy(), record)
        runner = backends.open_runner(compiled, state, problem.streams)
        losses = runner.run(make_orders(problem, 2), scalars_of(record, 0.9, 300, alpha))
        runner.read_state(state)
        both.append([state.parameters, *state.slots.values(), losses])
    for got, expected in zip(*both, strict=True):
        assert_close(got, expected, 1e-12)


@pytest.mark.parametrize("widths", [(9, 2), (130, 70, 3), (5, 200, 40, 1), (300, 33)], ids=str)
@pytest.mark.parametrize("kind", gradient_kinds(sparse=False))
# Other backends keep the gradients of rules beyond the first three.
@pytest.mark.compiled
@pytest.mark.parametrize("rule", ["adamw", "lion", "amsgrad"])
def test_every_shape_whatever_becomes_of_gradients(widths, kind, rule):
    """Panels of all widths, narrow weights, units of several kinds."""
    besides = {k: v for k, v in BESIDES["all"].items() if k != "clip_norm"}
    problem = build(Stack(widths, ("relu",) * (len(widths) - 2), "squared_error", 30))
    assert_as_oracle(problem, rule, besides, gradients=kind)


@both_dtypes
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.compiled
@every_rule
def test_kept_gradients_give_the_bits_of_fused_ones(rule, sparse, dtype):
    """Steps are the same wherever the gradient was in between."""
    problem = build(replace(STACK, dtype=dtype, sparse=sparse))
    results = [run(problem, rule, SPARSE["all"], gradients=kind) for kind in ("fused", "kept")]
    for one, other in zip(*([s.parameters, *s.slots.values()] for s, _ in results), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("besides", ["all", "clip_norm", "max_norm"])
def test_bits_do_not_depend_on_threads(besides, sparse):
    """All stages of a step, on one thread and on two."""
    if sparse and besides != "all":
        pytest.skip("refused for sparse input, see below")
    stack = Stack((300, 200, 30), ("relu",), n=1500, sparse=sparse, dtype="float32")
    problem, asked = build(stack), (SPARSE if sparse else BESIDES)[besides]
    (one, losses), (two, others) = (
        run(problem, "amsgrad", asked, batch=500, n_jobs=n_jobs) for n_jobs in (1, 2)
    )
    np.testing.assert_array_equal(losses, others)
    np.testing.assert_array_equal(one.parameters, two.parameters)
    for name in one.slots:
        np.testing.assert_array_equal(one.slots[name], two.slots[name])


@pytest.mark.compiled
def test_bfloat16_operands_are_made_of_the_limited_weights():
    """Rounded copies follow when weights are shrunk: predictions of the next step see it."""
    stack = Stack((40, 64, 30), ("tanh",), "squared_error", 20, "float32")
    exact, rounded = build(stack), build(replace(stack, operands="bfloat16_emulated"))
    for besides in ({"max_norm": 0.3}, {"clip_norm": 0.1}, {"weight_decay": 0.5}):
        (one, _), (two, _) = (run(p, "adamw", besides, n_epochs=5) for p in (exact, rounded))
        moved = one.parameters - exact.parameters
        assert_close(two.parameters - rounded.parameters, moved, 0.05)


def test_a_clipped_value_of_nothing_and_of_all():
    """A limit that no element reaches changes no bit; NaN comes through every limit."""
    problem = build(STACK)
    free, _ = run(problem, "adamw", {})
    wide, _ = run(problem, "adamw", {"clip_value": 1e9})
    np.testing.assert_array_equal(free.parameters, wide.parameters)
    problem.streams["X"][0, 0] = np.nan
    for besides in ({"clip_value": 0.1}, {"clip_norm": 0.1}, {"max_norm": 0.1}, {"l1_ratio": 0.5}):
        for rule in RULES:
            state, losses = run(problem, rule, besides)
            assert np.isnan(losses).all()
            assert np.isnan(state.parameters).any(), (rule, besides)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(list(RULES)),
    st.floats(1e-3, 2),
    st.lists(st.integers(1, 70), min_size=2, max_size=4),
    st.sampled_from(["float32", "float64"]),
)
def test_max_norm_holds_after_any_step(rule, most, widths, dtype):
    """No unit's incoming weights are longer, of any layer, by more than a rounding."""
    stack = Stack(tuple(widths), ("tanh",) * (len(widths) - 2), "squared_error", 7, dtype)
    problem = build(stack)
    state, _ = run(problem, rule, {"max_norm": most, "average_decay": 0.5}, batch=3)
    for array in (state.parameters, state.slots["average"]):
        for weight in vectors.weight_views(problem.network, array[0])[0]:
            norms = np.linalg.norm(weight.astype(np.float64), axis=0)
            assert norms.max() <= most * (1 + 100 * np.finfo(dtype).eps)


def test_what_is_refused():
    """Sparse input where a step reads all weights, and gradients that cannot be clipped."""
    problem = build(replace(STACK, sparse=True))
    for name in ("clip_norm", "max_norm"):
        with pytest.raises(ValueError, match=f"{name}=0.5 needs dense X"):
            run(problem, "adamw", {name: 0.5})
    with pytest.raises(ValueError, match='gradients="kept"'):
        run(build(STACK), "adamw", {"clip_norm": 0.5}, gradients="fused")


@pytest.mark.parametrize("besides", ["clip_norm", "max_norm", "average"])
def test_an_interrupt_leaves_whole_steps(besides):
    """What is read after one is what as many steps make, the average and the limits included."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are for the main thread")
    problem = build(Stack((200, 300, 10), ("relu",), n=2000, dtype="float32"))
    record = record_of("adamw", BESIDES[besides])
    compiled = plan.compile_training(
        problem.network, dtype="f4", batch_size=100, optimizer=record, backend=problem.stack.backend
    )

    def opened():
        state = vectors.new_state(problem.parameters.copy(), record)
        return backends.open_runner(compiled, state, problem.streams), state

    (runner, state), scalars = opened(), scalars_of(record, 0.9, 20_000)
    runner.run(None, scalars_of(record, 0.9, 20), n_epochs=1)
    killer = threading.Timer(0.15, lambda: signal.raise_signal(signal.SIGINT))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        runner.run(None, scalars, n_epochs=1000)
    n_steps = runner.steps - 20
    assert n_steps > 0
    runner.read_state(state)
    other, expected = opened()
    other.run(None, scalars_of(record, 0.9, 20), n_epochs=1)
    n_epochs, rest = divmod(n_steps, 20)
    if n_epochs:
        other.run(None, scalars[:, : 20 * n_epochs], n_epochs=n_epochs)
    if rest:
        rows = np.arange(100 * rest, dtype=np.intp)[None, None]
        other.run(rows, scalars[:, 20 * n_epochs : n_steps])
    other.read_state(expected)
    np.testing.assert_array_equal(state.parameters, expected.parameters)
    for name in state.slots:
        np.testing.assert_array_equal(state.slots[name], expected.slots[name])


# PyTorch.


def torch_optimizers(torch):
    """Of each solver: what makes PyTorch's of parameter groups."""
    o = torch.optim
    return {
        "sgd": (
            hotloop.SGD(momentum=0.8, nesterov=True),
            lambda p: o.SGD(p, 0.01, 0.8, 0, 0, True),
        ),
        "adamw": (hotloop.AdamW(weight_decay=0.3), lambda p: o.AdamW(p, 0.01, weight_decay=0.3)),
        "adamw, amsgrad": (
            hotloop.AdamW(amsgrad=True, beta_2=0.9),
            lambda p: o.AdamW(p, 0.01, (0.9, 0.9), amsgrad=True),
        ),
        "amsgrad": (hotloop.Adam(amsgrad=True), lambda p: o.Adam(p, 0.01, amsgrad=True)),
        "nadam": (hotloop.NAdam(), lambda p: o.NAdam(p, 0.01)),
        "nadamw": (
            hotloop.NAdam(weight_decay=0.2, momentum_decay=0.1),
            lambda p: o.NAdam(
                p, 0.01, weight_decay=0.2, momentum_decay=0.1, decoupled_weight_decay=True
            ),
        ),
        "rmsprop": (hotloop.RMSprop(), lambda p: o.RMSprop(p, 0.01)),
        "rmsprop, momentum": (
            hotloop.RMSprop(momentum=0.7, beta_2=0.9),
            lambda p: o.RMSprop(p, 0.01, alpha=0.9, momentum=0.7),
        ),
        "adagrad": (hotloop.Adagrad(), lambda p: o.Adagrad(p, 0.01)),
    }


CASES = (
    *("sgd", "adamw", "adamw, amsgrad", "amsgrad", "nadam", "nadamw", "rmsprop"),
    *("rmsprop, momentum", "adagrad"),
)


@pytest.mark.parametrize("clip", [None, "norm", "value"])
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_pytorchs(case, clip):
    """From equal weights, in double precision, the L2 penalty in the loss of both."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    rng = np.random.RandomState(0)
    X, y, alpha = rng.randn(60, 6), rng.randn(60), 0.5
    solver, make = torch_optimizers(torch)[case]
    how = {"norm": {"clip_norm": 0.3}, "value": {"clip_value": 0.05}, None: {}}[clip]
    regr = MLPRegressor(hidden_layer_sizes=(9,), solver=solver, max_iter=4, tol=0, **how)
    regr.set_params(
        learning_rate_init=0.01,
        alpha=alpha,
        batch_size=12,
        shuffle=False,
        random_state=1,
        activation="tanh",
    )
    started = clone(regr).set_params(max_iter=1, learning_rate_init=1e-300, solver="sgd", alpha=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started.fit(X, y)
        regr.fit(X, y)
    weights = [torch.tensor(w, requires_grad=True) for w in started.coefs_]
    biases = [torch.tensor(b, requires_grad=True) for b in started.intercepts_]
    other = make([{"params": weights}, {"params": biases, "weight_decay": 0.0}])
    for step in range(20):
        rows = slice(step % 5 * 12, step % 5 * 12 + 12)
        h = torch.tanh(torch.tensor(X[rows]) @ weights[0] + biases[0]) @ weights[1] + biases[1]
        loss = 0.5 * ((h.ravel() - torch.tensor(y[rows])) ** 2).mean()
        loss = loss + 0.5 * alpha * sum((w**2).sum() for w in weights) / 12
        other.zero_grad()
        loss.backward()
        if clip == "norm":
            torch.nn.utils.clip_grad_norm_([*weights, *biases], 0.3)
        if clip == "value":
            torch.nn.utils.clip_grad_value_([*weights, *biases], 0.05)
        other.step()
    for got, expected in zip([*regr.coefs_, *regr.intercepts_], [*weights, *biases], strict=True):
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-6, atol=1e-8)


# Estimators.

X = np.random.RandomState(0).randn(120, 6)
Y = (X[:, 0] * X[:, 1] > 0).astype(int)
NAMES = tuple(hotloop.options.SOLVERS)


def classifier(**params):
    return MLPClassifier((10,), max_iter=6, random_state=0, learning_rate_init=0.01, **params)


def weights_of(estimator):
    return flat([*estimator.coefs_, *estimator.intercepts_])


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_its_object_with_its_defaults(name):
    """And the same with X that is sparse, up to rounding."""
    given = hotloop.options.SOLVERS[name]()
    if name == "amsgrad":
        given.amsgrad = True
    fitted = classifier(solver=name).fit(X, Y)
    np.testing.assert_array_equal(
        weights_of(fitted), weights_of(classifier(solver=given).fit(X, Y))
    )
    sparse = classifier(solver=name).fit(sp.csr_matrix(X), Y)
    np.testing.assert_allclose(weights_of(sparse), weights_of(fitted), rtol=1e-7, atol=1e-9)
    copied = pickle.loads(pickle.dumps(clone(fitted).fit(X, Y)))
    np.testing.assert_array_equal(weights_of(copied), weights_of(fitted))


def test_the_plain_solvers_keep_their_bits():
    """An object that asks for nothing more is the name."""
    for name, thing in (("sgd", hotloop.SGD()), ("adam", hotloop.Adam())):
        one, other = (classifier(solver=s).fit(X, Y) for s in (name, thing))
        np.testing.assert_array_equal(weights_of(one), weights_of(other))
    nothing = {"l1_ratio": 0, "clip_value": None, "averaging": None}
    np.testing.assert_array_equal(
        weights_of(classifier().fit(X, Y)), weights_of(classifier(**nothing).fit(X, Y))
    )


@pytest.mark.parametrize(
    "params",
    [
        *({"solver": name} for name in NAMES),
        {"solver": hotloop.AdamW(weight_decay=0.5), "averaging": "ema"},
        {"averaging": hotloop.EMA(decay=0.9), "max_norm": 0.7},
        {"clip_norm": 0.05, "l1_ratio": 0.5},
    ],
    ids=str,
)
def test_partial_fits_are_one_longer_fit(params):
    """Moments, corrections and the weights behind an average go on where they were."""
    whole = classifier(shuffle=False, **params).fit(X, Y)
    parts = classifier(shuffle=False, **params)
    for _ in range(6):
        parts = pickle.loads(pickle.dumps(parts.partial_fit(X, Y, classes=[0, 1])))
    np.testing.assert_array_equal(weights_of(parts), weights_of(whole))
    np.testing.assert_allclose(parts.loss_curve_, whole.loss_curve_, rtol=1e-15)


def test_flat_parameters_are_taken_where_they_mean_the_same():
    """Otherwise they are refused, as beside an object."""
    one = classifier(solver="adamw", beta_1=0.5).fit(X, Y)
    other = classifier(solver=hotloop.AdamW(beta_1=0.5)).fit(X, Y)
    np.testing.assert_array_equal(weights_of(one), weights_of(other))
    with pytest.raises(ValueError, match=r"momentum=0.5 is not used by solver='rmsprop'.*RMSprop"):
        classifier(solver="rmsprop", momentum=0.5).fit(X, Y)
    with pytest.raises(ValueError, match=r"beta_1=.* beside solver=Lion"):
        classifier(solver=hotloop.Lion(), beta_1=0.5).fit(X, Y)
    with pytest.raises(ValueError, match="weight_decay"):
        classifier(solver=hotloop.AdamW(weight_decay=-1)).fit(X, Y)
    with pytest.raises(ValueError, match="solver__weight_decay cannot be set"):
        classifier(solver="adamw").set_params(solver__weight_decay=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("l1_ratio", 0.5), ("max_norm", 1.0), ("clip_norm", 1.0), ("clip_value", 1.0)),
        ("averaging", "ema"),
    ],
)
def test_lbfgs_refuses_what_steps_do(name, value):
    """It has none; and a bad value is refused whatever the solver."""
    with pytest.raises(ValueError, match=f"{name}=.* and solver is 'lbfgs'"):
        classifier(solver="lbfgs", **{name: value}).fit(X, Y)
    with pytest.raises(ValueError, match=name):
        classifier(**{name: -1.0}).fit(X, Y)
    if name in ("clip_norm", "max_norm"):
        with pytest.raises(ValueError, match="needs dense X"):
            classifier(**{name: value}).fit(sp.csr_matrix(X), Y)


def test_a_grid_search_over_the_fields_of_a_solver():
    """More decay, smaller weights; the search sees every field."""
    grid = {"solver__weight_decay": [0.0, 1.0], "solver__beta_1": [0.5, 0.9]}
    search = GridSearchCV(classifier(solver=hotloop.AdamW(), alpha=0), grid, cv=2).fit(X, Y)
    assert len(search.cv_results_["params"]) == 4
    sizes = [
        np.linalg.norm(classifier(solver=hotloop.AdamW(weight_decay=d)).fit(X, Y).coefs_[0])
        for d in (0.0, 1.0, 10.0)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_l1_drives_weights_to_zero():
    """A smaller sum of |w| with more of it, and weights of inputs that say nothing vanish."""
    sums = []
    for l1_ratio in (0.0, 0.5, 1.0):
        clf = classifier(alpha=3.0, l1_ratio=l1_ratio, solver="sgd").set_params(max_iter=150)
        sums.append(np.abs(clf.fit(X, Y).coefs_[0]).sum())
    assert sums == sorted(sums, reverse=True)
    assert np.median(np.abs(clf.coefs_[0])) < 0.01


def test_the_average_of_all_weights_is_handed_out():
    """It is the mean that its definition says, whoever asks for it, and scores validation rows."""
    decay, path = 0.7, []
    averaged = classifier(averaging=hotloop.EMA(decay=decay), batch_size=120).fit(X, Y)
    plain = classifier(batch_size=120)
    for _ in range(6):
        path.append(weights_of(plain.partial_fit(X, Y, classes=[0, 1])))
    # partial_fit draws its orders anew, but a batch of all rows is the same up to its order.
    counts = np.array([(1 - decay) * decay ** (6 - i) / (1 - decay**6) for i in range(1, 7)])
    np.testing.assert_allclose(weights_of(averaged), counts @ path, rtol=1e-9)
    stopped = classifier(averaging="ema", early_stopping=True).fit(X, Y)
    best = int(np.argmax(stopped.validation_scores_)) + 1
    again = classifier(averaging="ema", early_stopping=True).set_params(max_iter=best).fit(X, Y)
    np.testing.assert_array_equal(weights_of(again), weights_of(stopped))


def test_an_average_that_never_begins_says_so():
    """Early stopping may end a fit before."""
    model = classifier(averaging="swa", n_iter_no_change=2, tol=1.0).set_params(max_iter=2000)
    with pytest.warns(UserWarning, match="the weights are no average"):
        model.fit(X, Y)


@pytest.mark.parametrize("changes", [{"clip_norm": 1e-9}, {"max_norm": 1e-3}, {"averaging": "ema"}])
def test_partial_fit_follows_a_change_of_what_steps_do(changes):
    """With the moments there are."""
    one, other = (classifier().partial_fit(X, Y, classes=np.unique(Y)) for _ in range(2))
    one.partial_fit(X, Y)
    other.set_params(**changes).partial_fit(X, Y)
    assert not np.array_equal(weights_of(one), weights_of(other))
    assert other._optimizer.step == one._optimizer.step
    back = other.set_params(**dict.fromkeys(changes)).partial_fit(X, Y)
    assert back._optimizer.trajectory is None


def test_swa_is_the_mean_of_the_last_epochs():
    """From the part of max_iter that `start` says; before, the weights as they are."""
    params = {"shuffle": False, "tol": 0.0, "n_iter_no_change": 99}
    path, plain = [], classifier(**params)
    for _ in range(6):
        path.append(weights_of(plain.partial_fit(X, Y, classes=[0, 1])))
    for start, first in ((0.0, 0), (0.5, 3), (0.75, 4), (0.99, 5)):
        swa = classifier(averaging=hotloop.SWA(start=start), **params).fit(X, Y)
        np.testing.assert_allclose(weights_of(swa), np.mean(path[first:], axis=0), rtol=1e-12)
    with pytest.raises(ValueError, match="partial_fit does not support averaging by SWA"):
        classifier(averaging="swa").partial_fit(X, Y, classes=[0, 1])


def test_warm_start_begins_at_the_average():
    """A new average, and new moments, as every warm start has."""
    clf = classifier(averaging="ema", warm_start=True).fit(X, Y)
    start = weights_of(clf).copy()
    clf.set_params(learning_rate_init=1e-300, max_iter=1).fit(X, Y)
    np.testing.assert_array_equal(weights_of(clf), start)
