"""Random problems for the kernels: a stack of layers, its parameters, data, and its oracle.

A :class:`Stack` says what is wanted and is printed when a test fails; :func:`build` makes the
arrays from its seed. :func:`train`, :func:`gradients` and :func:`predict` run a problem on
hotloop, :func:`oracle_train` and so on on the oracle with error bounds; :func:`child` runs what
might not come back.
"""

import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import scipy.sparse
from hotloop.kernels import DEFAULT_BACKEND

import oracle
from bounds import Bounded
from hotloop import backends, plan, spec, vectors

LOSSES = tuple(oracle.OUTPUT_ACTIVATION)
ACTIVATIONS = ("identity", "relu", "logistic", "tanh")
OPTIMIZERS = {
    "sgd": spec.SGD(nesterov=False),
    "nesterov": spec.SGD(nesterov=True),
    "adam": spec.Adam(beta_2=0.99, epsilon=0.02),
}


@dataclass(frozen=True)
class Stack:
    """What a problem is made of; widths are (I, hidden ..., O)."""

    widths: tuple = (5, 7, 3)
    activations: tuple = ("relu",)
    loss: str = "log_loss"
    n: int = 13
    dtype: str = "float64"
    sparse: bool = False
    weighted: bool = False
    seed: int = 0
    operands: str | None = None  # of products in training, if they are rounded
    backend: str = DEFAULT_BACKEND


@dataclass(frozen=True)
class Problem:
    """A stack's arrays; ``net`` is its oracle, its parameters carry error bounds."""

    stack: Stack
    network: spec.Network
    parameters: np.ndarray  # (P,)
    streams: dict
    net: oracle.Net
    X: np.ndarray  # dense, float64
    Y: np.ndarray  # dense, float64

    @property
    def sample_weight(self):
        return self.streams.get("sample_weight")


def layers_of(stack):
    """The stack's widths and activations as layer records."""
    hidden = [
        spec.Dense(units, activation)
        for units, activation in zip(stack.widths[1:-1], stack.activations, strict=True)
    ]
    return (*hidden, spec.Dense(stack.widths[-1]))


def build(stack):
    """The problem of a stack: parameters and data of order one, by its seed alone."""
    rng = np.random.default_rng(stack.seed)
    dtype = np.dtype(stack.dtype)
    network = spec.Network((stack.widths[0],), layers_of(stack), spec.LOSSES[stack.loss])
    weights, biases = [], []
    for i, o in zip(stack.widths[:-1], stack.widths[1:], strict=True):
        weights.append(rng.normal(size=(i, o)) / np.sqrt(i))
        biases.append(rng.normal(size=o) / 2)
    parameters = np.concatenate([p.ravel() for p in (*weights, *biases)]).astype(dtype)
    net = oracle.Net(
        tuple(weights), tuple(biases), stack.activations, stack.loss, np.finfo(dtype).eps
    ).with_parameters(
        [
            Bounded.rounded(p, dtype)
            for p in oracle.split(parameters.astype(np.float64), stack.widths)
        ]
    )
    if stack.operands:
        net = replace(net, operand=partial(_rounded, stack.sparse))
    X = rng.normal(size=(stack.n, stack.widths[0])).astype(dtype)
    if stack.sparse:
        X[rng.random(X.shape) < 0.6] = 0
    y, Y = _targets(stack, rng, dtype)
    streams = {"X": scipy.sparse.csr_matrix(X) if stack.sparse else X, "y": y}
    if stack.weighted:
        streams["sample_weight"] = rng.uniform(0.2, 2, stack.n)
        if stack.n > 2:
            streams["sample_weight"][stack.n // 2] = 0  # one row counts for nothing
    return Problem(stack, network, parameters, streams, net, X.astype(np.float64), Y)


def _rounded(sparse, layer, x):
    """What products with bfloat16 operands read; a first layer on CSR rounds nothing."""
    if sparse and layer == 0:
        return x
    return x.through(oracle.bfloat16) if isinstance(x, Bounded) else oracle.bfloat16(x)


def _targets(stack, rng, dtype):
    """The stream y the kernels read, and the same as dense float64."""
    shape = (stack.n, stack.widths[-1])
    if stack.loss == "log_loss":
        codes = rng.integers(shape[1], size=stack.n).astype(np.int32)
        return codes, oracle.one_hot(codes, shape[1])
    y = {
        "binary_log_loss": lambda: rng.integers(2, size=shape),
        "squared_error": lambda: rng.normal(size=shape),
        "poisson": lambda: rng.poisson(2.0, size=shape),
    }[stack.loss]().astype(dtype)
    return y, y.astype(np.float64)


def steps_per_epoch(n, batch_size):
    return -(-n // batch_size)


def make_scalars(optimizer, n_steps, *, rate=0.003, alpha=0.1):
    """Scalars (1, n_steps, 2, kinds): rate and momentum vary from step to step and by group."""
    scalars = np.zeros((1, n_steps, len(plan.GROUPS), len(plan.SCALARS)))
    for t in range(n_steps):
        if optimizer == "adam":
            scalars[0, t, :, :3] = oracle.adam_rate(rate, t + 1), 0.9, alpha
        else:
            scalars[0, t, :, :3] = rate / (1 + t), 0.9 - 0.1 * (t % 3), alpha
    scalars[0, :, 1, 2] = 0  # biases do not decay
    return scalars


def make_orders(problem, n_epochs):
    """Row orders (1, n_epochs, n)."""
    rng = np.random.default_rng(problem.stack.seed + 1)
    n = problem.stack.n
    return np.stack([rng.permutation(n) for _ in range(n_epochs)])[None].astype(np.intp)


def gradient_kinds(sparse):
    """What may become of gradients, see `compile_training`."""
    return ("fused", "kept") if sparse else ("fused", "kept", "sharded")


def open_training(
    problem, optimizer, batch_size, *, gradients="fused", lazy=False, state=None, n_jobs=1
):
    """A runner for the problem, and the state it started from."""
    chosen = OPTIMIZERS[optimizer]
    compiled = plan.compile_training(
        problem.network,
        dtype=problem.stack.operands or problem.stack.dtype,
        batch_size=batch_size,
        optimizer=chosen,
        sparse=plan.CSRInput(lazy=lazy) if problem.stack.sparse else False,
        gradients=gradients,
        backend=problem.stack.backend,
    )
    state = vectors.new_state(problem.parameters.copy(), chosen) if state is None else state
    return backends.open_runner(compiled, state, problem.streams, n_jobs=n_jobs), state


def train(problem, optimizer, batch_size, *, n_epochs=2, gradients="fused", alpha=0.1, n_jobs=1):
    """Whole epochs on hotloop: parameters (P,), slots {name: (P,)}, losses (n_epochs,)."""
    n_steps = n_epochs * steps_per_epoch(problem.stack.n, batch_size)
    runner, state = open_training(
        problem, optimizer, batch_size, gradients=gradients, n_jobs=n_jobs
    )
    losses = runner.run(
        make_orders(problem, n_epochs), make_scalars(optimizer, n_steps, alpha=alpha)
    )
    runner.read_state(state)
    runner.close()
    return state.parameters[0], {k: v[0] for k, v in state.slots.items()}, losses[0]


def oracle_train(problem, optimizer, batch_size, *, n_epochs=2, alpha=0.1):
    """The same on the oracle, with bounds: net, slots {name: list}, losses."""
    scalars = make_scalars(
        optimizer, n_epochs * steps_per_epoch(problem.stack.n, batch_size), alpha=alpha
    )

    def step(parameters, slots, grads, rates, momenta):
        if optimizer != "adam":
            return oracle.sgd_step(
                parameters, slots, grads, rates, momenta, optimizer == "nesterov"
            )
        adam = OPTIMIZERS["adam"]
        return oracle.adam_step(parameters, slots, grads, rates, momenta, adam.beta_2, adam.epsilon)

    zeros = [Bounded(np.zeros(p.shape), 0, p.dtype) for p in problem.net.parameters]
    slots = dict.fromkeys(OPTIMIZERS[optimizer].slots, zeros)
    data = (problem.X, problem.Y, problem.sample_weight)
    orders = make_orders(problem, n_epochs)[0]
    return oracle.train(problem.net, slots, data, orders, scalars[0], batch_size, step)


def _how(stack):
    return {"dtype": np.dtype(stack.dtype), "sparse": stack.sparse, "backend": stack.backend}


def gradients(problem, *, alpha=0.1, parameters=None):
    """Loss and flat gradient (P,) of the whole data set on hotloop."""
    compiled = plan.compile_gradients(problem.network, **_how(problem.stack))
    state = vectors.new_state(problem.parameters.copy(), OPTIMIZERS["sgd"])
    runner = backends.open_runner(compiled, state, problem.streams)
    parameters = problem.parameters if parameters is None else parameters
    out = np.full_like(problem.parameters, np.nan)
    value = runner.gradients(parameters, out, decay=alpha)
    runner.close()
    return value, out


def oracle_gradients(problem, *, alpha=0.1):
    """The same on the oracle, with bounds: loss, list of gradients."""
    return oracle.gradients(problem.net, problem.X, problem.Y, problem.sample_weight, alpha)


def predict(problem, X=None, parameters=None):
    """Output activations (n, O) of hotloop's inference."""
    compiled = plan.compile_inference(problem.network, **_how(problem.stack))
    flat = problem.parameters if parameters is None else parameters
    coefs, intercepts = vectors.weight_views(problem.network, flat)
    return backends.predict(compiled, coefs, intercepts, problem.streams["X"] if X is None else X)


def evaluate(problem, *, chunk_rows=None, parameters=None, n_jobs=1):
    """Output activations (n, O) and mean loss of a plan that trains, some rows at a time."""
    stack = problem.stack
    compiled = plan.compile_training(
        problem.network,
        dtype=stack.operands or stack.dtype,
        batch_size=3,
        optimizer=OPTIMIZERS["adam"],
        sparse=stack.sparse,
        backend=stack.backend,
    )
    compiled = replace(compiled, inference_rows=chunk_rows or compiled.inference_rows)
    flat = problem.parameters if parameters is None else parameters
    state = vectors.new_state(flat.copy(), OPTIMIZERS["adam"])
    runner = backends.open_runner(compiled, state, problem.streams, n_jobs=n_jobs)
    out = np.full((stack.n, problem.network.n_outputs), np.nan, stack.dtype)
    loss = runner.evaluate(problem.streams, out)
    runner.close()
    return out, loss


def oracle_predict(problem):
    """The same on the oracle, with bounds."""
    return oracle.forward(problem.net, problem.X)[-1]


def child(code, *options, args=(), timeout=60):
    """Runs Python code in a process of its own, which must end well and in time."""
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


#: Of the steps that other optimizers than the first three are compared in.
LR, ALPHA = 0.01, 0.2


def scalars_of(record, momentum, n_steps, alpha=ALPHA):
    """What the steps take, of shape (1, n_steps, groups, kinds)."""
    scalars = np.zeros((1, n_steps, len(plan.GROUPS), len(plan.SCALARS)))
    steps = np.arange(1.0, n_steps + 1)
    found = record.scalars(np.full(n_steps, LR), np.full(n_steps, momentum), steps)
    for name, values in found.items():
        scalars[0, :, :, plan.SCALARS.index(name)] = values[:, None]
    scalars[0, :, 0, plan.SCALARS.index("decay")] = alpha
    scalars[0, :, 1, plan.SCALARS.index("shrink")] = 1
    return scalars


def stepped(problem, record, momentum, *, batch=10, n_epochs=2, n_jobs=1, **how):
    """The state and the losses after some epochs by any optimizer's record."""
    stack = problem.stack
    compiled = plan.compile_training(
        problem.network,
        dtype=stack.operands or stack.dtype,
        batch_size=batch,
        optimizer=record,
        sparse=stack.sparse,
        backend=stack.backend,
        **how,
    )
    state = vectors.new_state(problem.parameters.copy(), record)
    runner = backends.open_runner(compiled, state, problem.streams, n_jobs=n_jobs)
    scalars = scalars_of(record, momentum, n_epochs * steps_per_epoch(stack.n, batch))
    losses = runner.run(make_orders(problem, n_epochs), scalars)[0]
    runner.read_state(state)
    runner.close()
    return state, losses
