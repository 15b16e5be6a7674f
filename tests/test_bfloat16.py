"""precision="bfloat16": rounded operands against the oracle, equal bits, what is refused.

The oracle rounds what products read, and a bound knows where a value lies so close to a tie that
either neighbour may be right. Run once per instruction set with HOTLOOP_ISA set.
"""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hotloop.kernels import DTYPES, provider
from sklearn.base import clone

import hotloop
import oracle
from hotloop import backends, plan, spec, vectors
from stacks import (
    ACTIVATIONS,
    LOSSES,
    OPTIMIZERS,
    Stack,
    build,
    layers_of,
    oracle_train,
    train,
)
from test_kernels import SHAPES, assert_trained_match, assert_training_matches, hidden

pytestmark = pytest.mark.compiled

BOTH = ("bfloat16", "bfloat16_emulated")
HERE = [name for name in BOTH if provider(DTYPES[name])]
every_way = pytest.mark.parametrize("operands", HERE)
native = pytest.mark.skipif("bfloat16" not in HERE, reason="this set has no AVX512_BF16")
dense_and_sparse = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])


def stack_of(widths, activation, loss="squared_error", n=40, **how):
    names = (activation,) * (len(widths) - 2) if isinstance(activation, str) else activation
    return Stack(widths, names, loss, n, "float32", **how)


def test_the_oracle_rounds_to_8_bits_and_ties_to_even():
    """1 + 2^-8 lies half-way between 1 and 1 + 2^-7; 1 + 3 2^-8 between that and 1 + 2^-6."""
    x = np.array([0, 1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -3.0e5, 1e-30])
    expected = [0, 1, 1, 1 + 2**-6, 1 + 2**-7, -299008, None]
    got = oracle.bfloat16(x)
    assert list(got[:-1]) == expected[:-1]
    assert abs(got[-1] / x[-1] - 1) <= 2**-8


@every_way
@pytest.mark.parametrize(("x", "rounded"), [(1 + 2**-8, 1), (1 + 3 * 2**-8, 1 + 2**-6)])
def test_ties_are_rounded_to_even(x, rounded, operands):
    """What multiplies is seen in the loss of w x = rounded x, whose half square it is."""
    layers = spec.Network((1,), (spec.Dense(1),), spec.LOSSES["squared_error"])
    compiled = plan.compile_training(
        layers, dtype=operands, batch_size=1, optimizer=OPTIMIZERS["sgd"]
    )
    state = vectors.new_state(np.array([1, 0], np.float32), OPTIMIZERS["sgd"])
    streams = {"X": np.full((1, 1), x, np.float32), "y": np.zeros((1, 1), np.float32)}
    runner = backends.open_runner(compiled, state, streams)
    scalars = np.zeros((1, 1, len(plan.GROUPS), len(plan.SCALARS)))
    assert runner.run(None, scalars, n_epochs=1)[0, 0] == rounded**2 / 2


@every_way
@dense_and_sparse
@pytest.mark.parametrize("gradients", ["fused", "kept"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_training_with_every_optimizer(loss, optimizer, gradients, sparse, operands):
    """Two epochs in batches, the last one short: parameters, slots and losses."""
    stack = stack_of(
        (6, 9, 5, 3), ("relu", "tanh"), loss, 23, sparse=sparse, weighted=True, operands=operands
    )
    assert_training_matches(build(stack), optimizer, 10, gradients=gradients)


@every_way
@dense_and_sparse
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_training_on_every_shape(widths, sparse, operands):
    """Odd tails along every axis: inputs, units, outputs and rows."""
    for n in (1, 5, 41):
        how = {"sparse": sparse, "operands": operands, "seed": 6}
        stack = stack_of(widths, hidden(widths, 2), "binary_log_loss", n, **how)
        assert_training_matches(build(stack), "sgd", n, n_epochs=1)


@every_way
def test_every_width_from_1_to_40(operands):
    """No tail of a pair, a vector or a tile is wrong."""
    for width in range(1, 41):
        for widths in ((width, 5, 3), (4, width, 3), (4, 6, width)):
            stack = stack_of(widths, "tanh", n=1 + width % 19, seed=width, operands=operands)
            assert_training_matches(build(stack), "sgd", 40, n_epochs=1)


#: Longer than the blocks that kernels cut pairs of operands into: inputs, units and rows.
LARGE = (((2060, 9, 3), 6), ((2100, 1), 33), ((9, 2100, 5), 5), ((20, 9, 4), 2100), ((70, 3), 1201))


@every_way
@pytest.mark.parametrize(("widths", "n"), LARGE, ids=str)
def test_long_reductions_and_large_batches(widths, n, operands):
    """Nothing is lost or added twice where a sum is cut in blocks."""
    problem = build(stack_of(widths, "tanh", n=n, operands=operands))
    assert_training_matches(problem, "sgd", n, n_epochs=1)


@every_way
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_training_of_every_pair(loss, activation, operands):
    """Every hidden activation with every loss; slopes come from what is kept, rounded."""
    stack = stack_of((5, 12, 7, 3), activation, loss, 20, operands=operands, seed=6)
    assert_training_matches(build(stack), "adam", 8, n_epochs=1)


@every_way
def test_the_bound_tells_rounded_operands_from_others(operands):
    """A step in float32 is not within the bound of one in bfloat16, nor the other way round."""
    rounded = build(stack_of((30, 20, 3), "tanh", operands=operands))
    plain = build(replace(rounded.stack, operands=None))
    for problem, other in ((rounded, plain), (plain, rounded)):
        parameters, _, _ = train(problem, "sgd", 40, n_epochs=1)
        expected, _, _ = oracle_train(problem, "sgd", 40, n_epochs=1)
        assert_trained_match(parameters, expected, problem)
        wrong, _, _ = oracle_train(other, "sgd", 40, n_epochs=1)
        with pytest.raises(AssertionError, match="out of bounds"):
            assert_trained_match(parameters, wrong, other)


@every_way
@dense_and_sparse
def test_threads_do_not_change_a_bit(sparse, operands):
    """Parameters, slots and losses on one thread and on two."""
    stack = stack_of((150, 300, 70, 4), "relu", "log_loss", 403, sparse=sparse, operands=operands)
    one, two = (train(build(stack), "adam", 130, n_jobs=n_jobs) for n_jobs in (1, 2))
    assert one[0].tobytes() == two[0].tobytes()
    assert one[2].tobytes() == two[2].tobytes()
    assert all(one[1][name].tobytes() == two[1][name].tobytes() for name in one[1])


@native
@dense_and_sparse
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_emulation_has_the_bits_of_the_instruction(activation, sparse):
    """On the same set all of training is the same, sums that cancel included."""
    stack = stack_of((97, 130, 33), activation, "log_loss", 203, sparse=sparse)
    one, two = (train(build(replace(stack, operands=name)), "adam", 64) for name in BOTH)
    assert one[0].tobytes() == two[0].tobytes()
    assert one[2].tobytes() == two[2].tobytes()


BITS_OF_A_STEP = """
import hashlib
from stacks import Stack, build, train
stack = Stack((97, 130, 33), ("relu",), "squared_error", 203, "float32", operands="{operands}")
print(hashlib.sha256(train(build(stack), "sgd", 64)[0].tobytes()).hexdigest())
"""


def bits_of_training(isa, operands):
    environment = {**os.environ, "HOTLOOP_ISA": isa, "PYTHONPATH": str(Path(__file__).parent)}
    code = BITS_OF_A_STEP.format(operands=operands)
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_sets_with_fma_agree_to_the_bit():
    """Each element of a product is the same chain on all of them."""
    usable = [name for name in backends.config()["usable_instruction_sets"] if name != "baseline"]
    if len(usable) < 2:
        pytest.skip(f"only {usable} of the sets with fma can be used here")
    assert len({bits_of_training(isa, "bfloat16_emulated") for isa in usable}) == 1


def test_rows_take_little_more_than_half_the_memory():
    """What is kept is 2 bytes an element; float32 rows are there once, not for CSR of any width."""
    for sparse in (False, True):
        widths = (100_000 if sparse else 250, 250, 250, 250, 250, 30)
        network = build(stack_of((4, 3), "relu", n=1)).network
        network = replace(network, in_shape=widths[:1], layers=layers_of(stack_of(widths, "relu")))
        plain, rounded = (
            plan.compile_training(
                network,
                dtype=dtype,
                batch_size=200,
                optimizer=OPTIMIZERS["adam"],
                sparse=sparse,
            )
            for dtype in ("float32", "bfloat16_emulated")
        )
        assert rounded.arena_bytes < 0.75 * plain.arena_bytes
        assert rounded.store_bytes <= 1.05 * plain.store_bytes


# The estimators.

rng = np.random.default_rng(0)
X = rng.normal(size=(150, 12))
CODES = (X @ rng.normal(size=(12, 3))).argmax(axis=1)
CLASSES = (hotloop.MLPClassifier, hotloop.MLPRegressor)
every_class = pytest.mark.parametrize("make", CLASSES, ids=lambda c: c.__name__)


def fitted(make, precision, data=X, **how):
    how = {"hidden_layer_sizes": (20, 10), "max_iter": 20, "tol": 0, "random_state": 0, **how}
    return make(precision=precision, **how).fit(data, CODES)


@every_way
@every_class
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_it_learns_what_float32_learns(make, operands):
    """Not the same, but nearly: the loss after 20 epochs within 1 %, weights in float32."""
    plain, rounded = fitted(make, "float32"), fitted(make, operands)
    assert {a.dtype.name for a in rounded.coefs_ + rounded.intercepts_} == {"float32"}
    assert rounded.coefs_[0].tobytes() != plain.coefs_[0].tobytes()
    assert abs(rounded.loss_ / plain.loss_ - 1) < 0.01


@every_way
@every_class
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_predictions_are_those_of_float32_with_the_same_weights(make, operands):
    """So that a model may go to a machine that cannot train so; pickled, it is the same."""
    estimator = fitted(make, operands)
    expected = estimator.predict(X)
    assert (pickle.loads(pickle.dumps(estimator)).predict(X) == expected).all()
    assert (estimator.set_params(precision="float32").predict(X) == expected).all()
    assert clone(estimator.set_params(precision=operands)).precision == operands


@every_way
@every_class
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_one_epoch_after_another_is_as_two_at_once(make, solver, operands):
    """partial_fit and warm_start go on from float32 weights and moments: nothing is lost."""
    how = {"shuffle": False, "batch_size": 40, "solver": solver}
    whole = fitted(make, operands, max_iter=2, **how)
    parts = make(precision=operands, hidden_layer_sizes=(20, 10), random_state=0, **how)
    extra = {"classes": range(3)} if make is hotloop.MLPClassifier else {}
    parts.partial_fit(X, CODES, **extra).partial_fit(X, CODES)
    assert all((a == b).all() for a, b in zip(whole.coefs_, parts.coefs_, strict=True))
    again = fitted(make, operands, max_iter=1, warm_start=True, **how).fit(X, CODES)
    assert np.isfinite(again.coefs_[0]).all()


@every_way
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_early_stopping_scores_what_predict_predicts(operands):
    """Validation rows are predicted in float32, too."""
    how = {"early_stopping": True, "validation_fraction": 0.5, "max_iter": 5}
    estimator = fitted(hotloop.MLPRegressor, operands, **how)
    state = np.random.RandomState(0)
    for i, o in ((12, 20), (20, 10), (10, 1)):
        state.uniform(size=(i + 1) * o)
    held_out = state.permutation(150)[:75]
    score = estimator.score(X[held_out].astype(np.float32), CODES[held_out])
    assert abs(estimator.best_validation_score_ - score) < 1e-5


@every_way
@every_class
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_sparse_rows_are_not_rounded(make, operands):
    """A network without hidden layers on CSR has no product to round: it is float32's."""
    rows = scipy.sparse.csr_matrix(np.where(np.abs(X) > 0.7, X, 0))
    plain, rounded = (
        fitted(make, name, rows, hidden_layer_sizes=()) for name in ("float32", operands)
    )
    assert plain.coefs_[0].tobytes() == rounded.coefs_[0].tobytes()
    deep = fitted(make, operands, rows)
    assert abs(deep.loss_ / fitted(make, "float32", rows).loss_ - 1) < 0.01


@every_class
@pytest.mark.parametrize("precision", BOTH)
def test_lbfgs_computes_in_float64_and_says_so(make, precision):
    """It is refused rather than given another precision than was asked for."""
    with pytest.raises(ValueError, match="'lbfgs' computes in float64"):
        fitted(make, precision, solver="lbfgs")


@every_class
def test_without_the_instruction_it_is_refused_with_what_may_be_chosen(make, monkeypatch):
    """And nothing else runs in its place; the error and show_config say the same."""
    monkeypatch.setattr("hotloop.kernels.provider", lambda dtype: None)
    with pytest.raises(ValueError, match=r"AVX512_BF16.*'float32'.*'bfloat16_emulated'"):
        fitted(make, "bfloat16")
    assert backends.config()["products"]["bfloat16"].startswith("absent: it needs AVX512_BF16")


def test_show_config_says_what_multiplies():
    """By name of the set or its extension; only avx512 has one."""
    products = backends.config()["products"]
    isa = backends.config()["instruction_set"]
    assert products["bfloat16_emulated"] == isa
    assert (products["bfloat16"] == "avx512_bf16") == ("bfloat16" in HERE)
    assert isa == "avx512" or "bfloat16" not in HERE
