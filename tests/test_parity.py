"""Seed for seed, hotloop's fitted arrays are scikit-learn's: the contract of drop-in.

:mod:`parity` holds the random configurations and the rule of comparison.
"""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import sklearn.datasets
import sklearn.neural_network
from sklearn.utils.fixes import parse_version

import hotloop
import parity

N_CONFIGURATIONS = 240
NAMES = ("MLPClassifier", "MLPRegressor")
pytestmark = pytest.mark.skipif(
    parse_version(sklearn.__version__) < parse_version("1.9"),
    reason=f"parity is with scikit-learn 1.9, this is {sklearn.__version__}",
)
EXACT = ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_")


class Outcome:
    """A configuration run by scikit-learn, by scikit-learn with reversed sums, and by hotloop."""

    def __init__(self, config):
        self.config = config
        self.theirs = parity.run(parity.sklearn_class(config), config)
        with parity.reversed_summation():
            other_order = parity.run(parity.sklearn_class(config), config)
        self.ours = parity.run(getattr(hotloop, config.name), config)
        self.tolerance = parity.TOLERANCE[config.dtype]
        self.distance = parity.distance(self.ours, self.theirs)
        stable = parity.distance(other_order, self.theirs) <= self.tolerance / 100
        stopped_otherwise = getattr(self.ours, "n_iter_", 0) != getattr(self.theirs, "n_iter_", 0)
        undecided = config.dtype == "float32" and parity.decisions_are_close(self.theirs)
        self.counts = stable and not (undecided and stopped_otherwise)

    def differences(self):
        """What is not as the contract says, in words."""
        if self.distance > self.tolerance:
            yield f"distance {self.distance:.2g}, allowed {self.tolerance:.0e}: {self.ours}"
        if isinstance(self.theirs, Exception) or isinstance(self.ours, Exception):
            return
        for name in EXACT:
            got, expected = getattr(self.ours, name), getattr(self.theirs, name)
            if got != expected:
                yield f"{name} = {got!r}, not {expected!r}"
        if self.config.name == "MLPClassifier":
            np.testing.assert_array_equal(self.ours.classes_, self.theirs.classes_)
        if {p.dtype for p in self.ours.coefs_ + self.ours.intercepts_} != {self.config.X.dtype}:
            yield "coefs_ and intercepts_ do not follow the dtype of X"
        method = "predict_proba" if self.config.name == "MLPClassifier" else "predict"
        ours, theirs = (getattr(m, method)(self.config.X) for m in (self.ours, self.theirs))
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            yield f"{method}: {ours.dtype}{ours.shape}, not {theirs.dtype}{theirs.shape}"
        elif np.linalg.norm(ours - theirs) > self.tolerance * np.linalg.norm(theirs):
            yield f"{method} differs"


@pytest.fixture(scope="module")
def outcomes():
    return [Outcome(parity.configuration(seed)) for seed in range(N_CONFIGURATIONS)]


def test_every_configuration_that_counts_agrees(outcomes):
    """Arrays within tol, counts and shapes equal, predictions within tol."""
    failed = [
        f"{outcome.config}: {'; '.join(said)}"
        for outcome in outcomes
        if outcome.counts and (said := list(outcome.differences()))
    ]
    assert not failed, f"{len(failed)} of {len(outcomes)}:\n" + "\n".join(failed)


def test_at_most_five_percent_are_left_out(outcomes, capsys):
    """The exclusion rule is not an excuse: what it leaves out is counted and printed."""
    left_out = [o for o in outcomes if not o.counts]
    with capsys.disabled():
        print(f"\nparity: {len(outcomes)} configurations, {len(left_out)} left out", end=" ")
    assert len(outcomes) - len(left_out) >= 200
    assert len(left_out) <= 0.05 * len(outcomes), "\n".join(str(o.config) for o in left_out)


def test_the_configurations_cover_the_contract(outcomes):
    """Each solver, activation, kind of target, input and call occurs at least five times."""
    counted = [o.config for o in outcomes if o.counts and not isinstance(o.theirs, Exception)]
    words = [w for c in counted for w in {*c.labels, *map(str, c.parameters.values())}]
    words += [k for c in counted for k in c.parameters if k in ("early_stopping", "warm_start")]
    for word in (
        *("adam", "sgd", "lbfgs", "identity", "relu", "logistic", "tanh", "float32", "float64"),
        *("binary", "multiclass", "multilabel", "strings", "one output", "several outputs"),
        *("poisson", "weighted", "csr_matrix", "csc_matrix", "csr_array", "partial_fit"),
        *("early_stopping", "warm_start", "constant", "invscaling", "adaptive", "()"),
    ):
        assert words.count(word) >= 5, word


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_comparison_notices_one_corrupted_weight(dtype):
    """A weight off by a hundredth of its array's size is far outside the tolerance."""
    configurations = (parity.configuration(seed) for seed in range(100))
    for config in [c for c in configurations if c.dtype == dtype and c.calls == ("fit",)][:5]:
        one, two = (parity.run(parity.sklearn_class(config), config) for _ in range(2))
        assert parity.distance(one, two) == 0
        coef = one.coefs_[-1]
        coef.flat[-1] += 0.01 * np.abs(coef).max()
        assert parity.distance(one, two) > parity.TOLERANCE[dtype]


def test_reversed_summation_changes_bits_and_nothing_else():
    """The reversed run differs in the last bits, so it does probe the order of summation."""
    config = replace(parity.configuration(0), calls=("fit",))
    cls = parity.sklearn_class(config)
    plain = parity.run(cls, config)
    with parity.reversed_summation():
        other = parity.run(cls, config)
    assert 0 < parity.distance(other, plain) < parity.TOLERANCE[config.dtype]


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("name", NAMES)
def test_the_callers_generator_is_left_where_sklearn_leaves_it(name, solver, early_stopping):
    """A RandomState given is advanced by the same draws, also where training stops early."""
    X, y = sklearn.datasets.load_iris(return_X_y=True)
    after = []
    for module in (hotloop, sklearn.neural_network):
        rng = np.random.RandomState(5)
        estimator = getattr(module, name)(
            hidden_layer_sizes=(9,),
            solver=solver,
            early_stopping=early_stopping,
            tol=1e-2,
            n_iter_no_change=3,
            random_state=rng,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator.fit(X, y)
        after.append((rng.uniform(), estimator.n_iter_))
    assert after[0] == after[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_default_fit_stops_after_sklearns_number_of_epochs(name):
    """To convergence on real data: the same n_iter_, and close losses all the way."""
    X, y = sklearn.datasets.load_iris(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = (
            getattr(module, name)(random_state=1, max_iter=600, tol=1e-3).fit(X, y)
            for module in (hotloop, sklearn.neural_network)
        )
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_lbfgs_on_float32_computes_in_float64_and_casts(name):
    """Initial weights are rounded to X's dtype, the search is float64's, its result is cast."""
    X, y = sklearn.datasets.load_iris(return_X_y=True)
    X = X.astype(np.float32)

    class RoundedStart(getattr(sklearn.neural_network, name)):
        def _init_coef(self, fan_in, fan_out, dtype):
            return (a.astype(dtype) for a in super()._init_coef(fan_in, fan_out, np.float32))

    how = {"hidden_layer_sizes": (7,), "solver": "lbfgs", "max_iter": 20, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = getattr(hotloop, name)(**how).fit(X, y)
        theirs = RoundedStart(**how).fit(X.astype(np.float64), y)
    for got, expected in zip(
        ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True
    ):
        assert got.dtype == np.float32
        assert np.linalg.norm(got - expected) <= 1e-6 * np.linalg.norm(expected)
