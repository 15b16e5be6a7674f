"""Activations and losses of the user: the same as the built-in ones, judged, refused, pickled."""

import math
import pickle
import subprocess
import sys
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import special
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV

import oracle
from hotloop import MLPClassifier, MLPRegressor, backends, plan, spec, vectors

numba = pytest.importorskip("numba", reason="custom functions are compiled by numba")

from hotloop.kernels import custom  # noqa: E402

from hotloop import elementwise  # noqa: E402
from hotloop.elementwise import erf, exp, log, tanh  # noqa: E402

BACKENDS = [name for name in backends.CPU_BACKENDS if backends.why_unavailable(name) is None]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
no_convergence = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
THRESHOLD = 1.0


def relu(z):
    return z if z > 0 else 0.0


def relu_slope(z):
    return 1.0 if z > 0 else 0.0


def logistic(z):
    return 1 / (1 + exp(-z))


def logistic_slope(z):
    p = 1 / (1 + exp(-z))
    return p * (1 - p)


def tangent(z):
    return tanh(z)


def tangent_slope(z):
    return 1 - tanh(z) ** 2


def silu(z):
    return z / (1 + exp(-z))


def silu_slope(z):
    p = 1 / (1 + exp(-z))
    return p * (1 + z * (1 - p))


def wave(z):
    return z + np.sin(z)


def wave_slope(z):
    return 1 + np.cos(z)


def cube(z):
    return z**3


def cube_slope(z):
    return 3 * z**2


def gelu(z):
    return 0.5 * z * (1 + erf(z / 1.4142135623730951))


def squared(y, z):
    return 0.5 * (y - z) ** 2


def squared_slope(y, z):
    return z - y


def log_cosh(y, z):
    d = abs(z - y)
    return d + log(1 + exp(-2 * d)) - 0.6931471805599453


def log_cosh_slope(y, z):
    return tanh(z - y)


def huber(y, z):
    d = abs(z - y)
    return 0.5 * d * d if d < THRESHOLD else THRESHOLD * (d - 0.5 * THRESHOLD)


def huber_slope(y, z):
    return max(-THRESHOLD, min(THRESHOLD, z - y))


def cross_entropy(y, z):
    return max(z, 0.0) - y * z + log(1 + exp(-abs(z)))


def cross_entropy_slope(y, z):
    return 1 / (1 + exp(-z)) - y


BUILT_IN = {
    "relu": (relu, relu_slope),
    "logistic": (logistic, logistic_slope),
    "tanh": (tangent, tangent_slope),
}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 7))
Y = X @ RNG.normal(size=(7, 3)) + np.sin(X[:, :1])
HOW = {"hidden_layer_sizes": (19, 5), "max_iter": 8, "random_state": 0, "tol": 0.0}


def close(one, two, dtype):
    tol = 1e-4 if dtype == np.float32 else 1e-10
    assert np.linalg.norm(one - two) <= tol * np.linalg.norm(two)


@no_convergence
class TestTraining:
    """Fits with functions are fits."""

    @both_dtypes
    @every_backend
    @pytest.mark.parametrize("name", BUILT_IN)
    def test_an_activation_trains_like_the_built_in_one(self, name, backend, dtype):
        fits = [
            MLPRegressor(warm_start=True, backend=backend, **HOW).fit(X.astype(dtype), Y)
            for _ in range(2)
        ]
        for fit, activation in zip(fits, (name, BUILT_IN[name]), strict=True):
            fit.set_params(activation=activation).fit(X.astype(dtype), Y)
        for one, two in zip(fits[1].coefs_, fits[0].coefs_, strict=True):
            close(one, two, dtype)
        close(fits[1].predict(X.astype(dtype)), fits[0].predict(X.astype(dtype)), dtype)
        close(fits[1].predict(X[:1].astype(dtype)), fits[0].predict(X[:1].astype(dtype)), dtype)

    @both_dtypes
    @every_backend
    @pytest.mark.parametrize("n_outputs", [1, 3])
    def test_a_loss_trains_like_the_built_in_one(self, n_outputs, backend, dtype):
        """Summed over outputs, where squared_error reports the mean."""
        weight = RNG.uniform(0, 2, len(X))
        y = Y[:, 0] if n_outputs == 1 else Y
        how = {**HOW, "alpha": 0.0, "backend": backend}
        one = MLPRegressor(loss=(squared, squared_slope), **how).fit(X.astype(dtype), y, weight)
        two = MLPRegressor(**how).fit(X.astype(dtype), y, weight)
        for a, b in zip(one.coefs_, two.coefs_, strict=True):
            close(a, b, dtype)
        close(np.array(one.loss_curve_), n_outputs * np.array(two.loss_curve_), dtype)

    @every_backend
    @pytest.mark.parametrize("labels", ["binary", "indicator"])
    def test_a_loss_of_a_classifier_trains_like_log_loss(self, labels, backend):
        y = (Y[:, 0] > 0).astype(int) if labels == "binary" else (Y > 0).astype(int)
        how = {**HOW, "backend": backend}
        one = MLPClassifier(loss=(cross_entropy, cross_entropy_slope), **how).fit(X, y)
        two = MLPClassifier(**how).fit(X, y)
        close(one.predict_proba(X), two.predict_proba(X), np.float64)
        assert (one.predict(X) == two.predict(X)).all()
        close(one.decision_function(X), two.decision_function(X), np.float64)

    @pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
    def test_every_solver_takes_them(self, solver):
        how = {**HOW, "solver": solver, "activation": BUILT_IN["tanh"]}
        one = MLPRegressor(loss=(squared, squared_slope), **how).fit(X, Y[:, 0])
        two = MLPRegressor(**{**how, "activation": "tanh"}).fit(X, Y[:, 0])
        close(one.coefs_[0], two.coefs_[0], np.float64)

    @every_backend
    def test_sparse_input_takes_them(self, backend):
        import scipy.sparse

        sparse = scipy.sparse.csr_matrix(np.where(np.abs(X) > 1, X, 0))
        how = {**HOW, "backend": backend}
        one = MLPRegressor(activation=BUILT_IN["tanh"], **how).fit(sparse, Y)
        two = MLPRegressor(activation="tanh", **how).fit(sparse, Y)
        close(one.coefs_[0], two.coefs_[0], np.float64)

    def test_bits_do_not_depend_on_threads(self):
        big, target = RNG.normal(size=(700, 20)), RNG.normal(size=700)
        fits = [
            MLPRegressor(
                activation=(silu, silu_slope), loss=(huber, huber_slope), batch_size=350,
                n_jobs=n, **{**HOW, "hidden_layer_sizes": (150, 70)}
            ).fit(big, target)
            for n in (1, 2)
        ]  # fmt: skip
        for one, two in zip(*(fit.coefs_ for fit in fits), strict=True):
            assert (one == two).all()
        rows = [fits[0].predict(big[k : k + 1])[0] for k in range(9)]
        assert (fits[0].predict(big)[:9] == rows).all()

    @pytest.mark.skipif(
        backends.why_no_operands("bfloat16_emulated") is not None, reason="no bfloat16 here"
    )
    def test_bfloat16_takes_them(self):
        how = {**HOW, "precision": "bfloat16_emulated"}
        one = MLPRegressor(activation=(silu, silu_slope), **how).fit(X, Y)
        two = MLPRegressor(activation=(silu, silu_slope), **HOW).fit(X, Y)
        assert abs(one.loss_ - two.loss_) < 0.02 * two.loss_

    @every_backend
    def test_gradients_are_those_of_the_oracle(self, backend):
        """Of silu and log-cosh, by central differences of a loss in plain NumPy."""
        network = spec.Network(
            (7,),
            (spec.Dense(6, spec.Function("activation", silu, silu_slope)), spec.Dense(3)),
            spec.custom_loss(spec.Function("loss", log_cosh, log_cosh_slope), "identity"),
        )
        compiled = plan.compile_gradients(network, dtype=np.float64, backend=backend)
        flat = vectors.init_parameters(network, np.random.RandomState(0), np.float64)
        state = vectors.new_state(flat.copy(), spec.SGD())
        runner = backends.open_runner(compiled, state, {"X": X, "y": Y})
        gradient = np.empty_like(flat)
        value = runner.gradients(flat, gradient, decay=0.3)

        def objective(parameters):
            (w1, w2), (b1, b2) = vectors.weight_views(network, parameters)
            z = X @ w1 + b1
            d = z * special.expit(z) @ w2 + b2 - Y
            squares = sum((w * w).sum() for w in (w1, w2))
            return (np.log(np.cosh(d)).sum() + 0.15 * squares) / len(X)

        assert_allclose(value, objective(flat), rtol=1e-12)
        h = 1e-6
        for k in RNG.choice(flat.size, 25, replace=False):
            moved = flat.copy()
            moved[k] += h
            above = objective(moved)
            moved[k] -= 2 * h
            assert_allclose(gradient[k], (above - objective(moved)) / (2 * h), atol=1e-7)
        flat[3] += 1e-3  # a corrupted weight is seen
        assert abs(runner.gradients(flat, gradient, decay=0.3) - value) > 1e-7


@no_convergence
class TestDerivatives:
    """Where derivatives come from, and that they are right."""

    @pytest.mark.parametrize(
        ("function", "how", "exact"),
        [
            (wave, "by complex steps", wave_slope),
            (silu, "by differences", silu_slope),  # e^800 has no complex form
            (cube, "by differences", cube_slope),  # numba's power loses the imaginary part
            (tangent, "by complex steps", tangent_slope),
            (gelu, "by differences", None),
            (relu, "by differences", relu_slope),
            (math.tanh, "by differences", tangent_slope),
        ],
    )
    def test_a_derivative_that_is_not_given_is_computed_with_a_warning(self, function, how, exact):
        record = spec.Function("activation", function)
        assert custom.judge(record, "float64") == how
        z = np.linspace(-3, 3, 50)
        _, slopes = custom.evaluate(record, "float64", None, z)
        if exact is None:
            exact = np.vectorize(
                lambda z: (
                    0.5 * (1 + math.erf(z / 2**0.5))
                    + z * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
                )
            )
        assert_allclose(slopes, np.vectorize(exact)(z), atol=1e-9)
        with pytest.warns(UserWarning, match=f"has no derivative: it is computed {how}"):
            MLPRegressor(activation=function, **{**HOW, "max_iter": 1, "tol": 1e9}).fit(X, Y)

    def test_a_complex_step_is_refused_for_what_it_cannot_go_through(self):
        def comparing(z):
            return z * z if z > 1 else 2 * z

        def taking_abs(z):
            return abs(z) * z

        def taking_max(z):
            return max(z, 0.1 * z)

        inner = numba.njit(comparing)

        def calling(z):
            return inner(z) + 1

        for function in (comparing, taking_abs, taking_max, calling):
            assert not custom.analytic(function)
        assert custom.analytic(silu)

    def test_constants_do_not_make_float32_wider(self):
        """Literals and globals become float32, exponents stay integers."""

        def with_constants(z):
            return 0.5 * z * THRESHOLD + z**2 / 3 - max(z, 0)

        f = custom.jitted(with_constants, "activation", "float32")
        f.compile((numba.float32,))
        assert f.overloads[(numba.float32,)].signature.return_type == numba.float32
        z = np.float32(1.7)
        assert_allclose(f(z), with_constants(float(z)), rtol=1e-6)

    @pytest.mark.parametrize("solver", ["adam", "lbfgs"])
    def test_what_counts_is_compiled_for_float32_too(self, solver):
        """Shifts and loops need integers, and bounds beyond float32 stay what they are."""

        def counting(z):
            k, total = 3, 0.0
            while k > 0:
                k -= 1
                total += z / (1 << k)
            return max(-1e300, min(1e300, total))

        def counting_slope(z):
            return 1.75

        how = {**HOW, "solver": solver, "activation": (counting, counting_slope)}
        fitted = MLPRegressor(**how).fit(X.astype(np.float32), Y)
        assert fitted.predict(X.astype(np.float32)).dtype == np.float32


@no_convergence
class TestRefusals:
    """What cannot be trained with is refused before anything changes."""

    @pytest.mark.parametrize(
        ("activation", "words"),
        [
            ((relu,), "a function or a pair of functions"),
            ((relu, 3), "a function or a pair of functions"),
            (squared, r"must be a function of \(z\)"),
            (lambda z: z.upper(), "cannot be compiled by numba as a function of 1 number"),
            (lambda z: 1j * z, "must return a real number, not complex"),
            ((lambda z: math.log(z), lambda z: 1 / z), "NaN at z = -"),
            ((silu, lambda z: 1.0), "differences of its value say"),
            ((silu, lambda z: z / (z - z)), "the derivative of .* is NaN"),
            ((wave, lambda z: 1.02 * (1 + np.cos(z))), "differences of its value say"),
            ((lambda z: 1e-6 * z, lambda z: 5e-4), "differences of its value say"),
            ((relu, lambda z: 1.0 if 0 < z < 30 else 0.0), "is 0 at z = 50"),
            (sum, "cannot be compiled"),
        ],
    )
    def test_an_activation_that_cannot_be_used(self, activation, words):
        estimator = MLPRegressor(activation=activation, **HOW)
        with pytest.raises(ValueError, match=words):
            estimator.fit(X, Y)
        assert not [name for name in vars(estimator) if name.endswith("_")]

    def test_a_function_that_raises(self):
        def strict(z):
            if z < 0:
                raise ValueError("no")
            return z

        inner = numba.njit(strict)
        for function in (strict, lambda z: inner(z)):
            with pytest.raises(ValueError, match="raises or asserts"):
                MLPRegressor(activation=function, **HOW).fit(X, Y)

    def test_a_loss_is_compared_around_its_targets(self):
        """Huber with a wrong inner slope, far from zero; and a right one on large targets."""
        record = spec.Function("loss", huber, numba.njit(huber_slope))
        for target in (200.0, 1e8):
            squares = spec.Function("loss", squared, squared_slope)
            assert custom.judge(squares, "float64", (target,)) == "given"
        assert custom.judge(record, "float64", (200.0,)) == "given"
        slope = numba.njit(huber_slope)
        wrong = huber, lambda y, z: 7 * (z - y) if abs(z - y) < 1 else slope(y, z)
        with pytest.raises(ValueError, match="differences of its value say"):
            custom.judge(spec.Function("loss", *wrong), "float64", (200.0,))

    def test_a_loss_is_tried_on_large_targets_too(self):
        def rooted(y, z):
            return 0.5 * (y - z) ** 2 + 0.0 * math.sqrt(3 - y)

        estimator = MLPRegressor(loss=(rooted, squared_slope), **HOW)
        with pytest.raises(ValueError, match="NaN at y = 4"):
            estimator.fit(X, np.linspace(0, 4, len(X)))

    def test_what_is_set_after_a_fit_is_judged_by_predict(self):
        fitted = MLPRegressor(**HOW).fit(X, Y)
        fitted.set_params(activation=lambda z: 1j * z)
        with pytest.raises(ValueError, match="must return a real number"):
            fitted.predict(X)

    def test_what_has_no_hash_is_refused(self):
        class Callable:
            __hash__ = None

            def __call__(self, z):
                return z

        with pytest.raises(ValueError, match="has no hash"):
            MLPRegressor(activation=Callable(), **HOW).fit(X, Y)

    def test_a_loss_is_tried_on_the_targets_there_are(self):
        def gamma(y, z):
            return y * exp(-z) + z + 0.0 * math.log(y)

        def gamma_slope(y, z):
            return 1 - y * exp(-z)

        loss = (gamma, gamma_slope)
        backends.judge(spec.Function("loss", *loss), np.dtype(float), np.array([1.0, 2.0]))
        with pytest.raises(ValueError, match=r"NaN at y = -.*, z ="):
            MLPRegressor(loss=loss, **HOW).fit(X, -np.abs(Y[:, 0]) - 1)

    def test_three_classes_have_no_loss_of_one_output(self):
        with pytest.raises(ValueError, match=r"has 3 classes.*OneVsRestClassifier"):
            MLPClassifier(loss=(cross_entropy, cross_entropy_slope)).fit(X, np.arange(80) % 3)

    def test_without_numba_the_message_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr(backends, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"pip install 'hotloop\[numba\]'"):
            MLPRegressor(activation=(silu, silu_slope), backend="compiled").fit(X, Y)

    @pytest.mark.parametrize("kind", ["lambda", "local"])
    def test_what_has_no_import_path_is_not_pickled(self, kind):
        def local(z):
            return z

        one = (lambda z: 1.0 * z) if kind == "lambda" else local
        for parameters in (
            {"activation": (one, relu_slope)},
            {"activation": numba.njit(one)},
            {"loss": one},
        ):
            with pytest.raises(pickle.PicklingError, match=r"Define it by `def` at the top level"):
                pickle.dumps(MLPRegressor(**parameters))


@no_convergence
class TestScikitLearn:
    """They are parameters like others."""

    def test_clone_and_pickle(self):
        estimator = MLPRegressor(activation=(silu, silu_slope), loss=huber)
        assert clone(estimator).activation == (silu, silu_slope)
        fitted = MLPRegressor(activation=(silu, silu_slope), **HOW).fit(X, Y)
        kept = pickle.dumps(fitted)
        assert b"silu_slope" in kept
        assert len(kept) < 8 * (7 * 19 + 19 * 5 + 5 * 3 + 27) * 3 + 20_000
        again = pickle.loads(kept)
        assert again.activation[0] is silu
        assert (again.predict(X) == fitted.predict(X)).all()

    def test_a_pickle_opens_in_another_process(self, tmp_path):
        module = tmp_path / "mine.py"
        module.write_text("def f(z):\n    return z * z\n\ndef d(z):\n    return 2 * z\n")
        code = (
            "import pickle, sys; sys.path.insert(0, sys.argv[1]); import numpy as np\n"
            "from hotloop import MLPRegressor; import mine\n"
            "X = np.arange(12.0).reshape(6, 2) / 9\n"
            "m = MLPRegressor(activation=(mine.f, mine.d), max_iter=2, tol=9.0,"
            " n_iter_no_change=1).fit(X, X[:, 0])\n"
            "sys.stdout.buffer.write(pickle.dumps((m, m.predict(X))))\n"
        )
        command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
        kept = subprocess.run(command, capture_output=True, check=True).stdout
        sys.path.insert(0, str(tmp_path))
        try:
            estimator, predicted = pickle.loads(kept)
        finally:
            sys.path.remove(str(tmp_path))
        assert (estimator.predict(np.arange(12.0).reshape(6, 2) / 9) == predicted).all()

    def test_they_are_searched_over(self):
        data, y = make_classification(n_samples=60, random_state=0)
        grid = {"activation": ["relu", (silu, silu_slope)], "alpha": [1e-4, 1e-2]}
        search = GridSearchCV(MLPClassifier(max_iter=5, random_state=0), grid, cv=2)
        assert len(search.fit(data, y).cv_results_["params"]) == 4


class TestElementwise:
    """exp, log, tanh and erf against scipy in double precision, in units of the last place."""

    WITHIN = MappingProxyType({"exp": 2.5, "log": 2.5, "tanh": 2.5, "erf": 3.0})
    EXACT = MappingProxyType({"exp": np.exp, "log": np.log, "tanh": np.tanh, "erf": special.erf})

    @staticmethod
    def run(name, x):
        f = getattr(elementwise, name)

        @numba.njit
        def loop(x, out):
            for i in range(x.size):
                out[i] = f(x[i])

        out = np.empty_like(x)
        loop(x, out)
        return out

    @both_dtypes
    @pytest.mark.parametrize("name", WITHIN)
    def test_accuracy(self, name, dtype):
        """float64 is judged by scipy's own, so to its last place as well."""
        x = np.concatenate([RNG.uniform(-9, 9, 4000), RNG.normal(size=3000) * 0.3])
        x = np.abs(x).astype(dtype) if name == "log" else x.astype(dtype)
        right = self.EXACT[name](x.astype(np.float64))
        ulp = np.spacing(np.abs(right).astype(dtype)).astype(np.float64)
        off = np.abs(self.run(name, x).astype(np.float64) - right) / ulp
        assert off.max() <= self.WITHIN[name] + (dtype == np.float64)

    @both_dtypes
    @pytest.mark.parametrize("name", WITHIN)
    def test_the_ends(self, name, dtype):
        """Infinities, NaN, zero, numbers below the normal range."""
        tiny = np.finfo(dtype).smallest_subnormal
        x = np.array([0, np.inf, -np.inf, np.nan, tiny, 1e4, -1e4], dtype)
        with np.errstate(all="ignore"):
            right = self.EXACT[name](x)
        assert_allclose(self.run(name, x), right, rtol=4 * np.finfo(dtype).eps)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 70), st.integers(0, 2**32 - 1))
    def test_an_element_does_not_depend_on_its_place(self, n, seed):
        """Vectors and what is left of them after: the same bits."""
        record = spec.Function("activation", silu, silu_slope)
        z = np.random.default_rng(seed).normal(size=n) * 4
        for dtype in ("float32", "float64"):
            together = custom.evaluate(record, dtype, None, z)
            alone = [custom.evaluate(record, dtype, None, z[k : k + 1]) for k in range(n)]
            for part in (0, 1):
                assert (together[part] == np.ravel([a[part] for a in alone])).all()

    def test_plain_python_takes_them_too(self):
        assert_allclose(silu(2.0), 2 * oracle.expit(2.0))
        assert_allclose(erf(np.array([0.5])), special.erf([0.5]))


def test_hotloop_is_imported_without_numba():
    code = "import sys, hotloop; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
