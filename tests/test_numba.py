"""The numba backend: estimators on it, what it shares with the compiled one, and its refusals.

What the ops compute is tested where those of the compiled kernels are: ``make test`` runs
test_kernels.py and others once more under HOTLOOP_BACKEND=numba.
"""

import inspect
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from hotloop.kernels import KINDS, abi
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits

import hotloop
import test_optimizers as optimizers
from hotloop import MLPClassifier, MLPRegressor, backends, kernels
from stacks import build

pytest.importorskip("numba", reason="numba is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

#: Relative norm of the difference after 10 epochs, as the backends are to agree.
BOUNDS = {"float32": 1e-3, "float64": 1e-9}


def digits(dtype, sparse):
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(dtype)
    return (scipy.sparse.csr_array(X) if sparse else X), y


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("dtype", list(BOUNDS))
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_ten_epochs_end_where_the_compiled_kernels_end(solver, dtype, sparse):
    """Same seed, same weights up to rounding, on both backends; and the same predictions."""
    X, y = digits(dtype, sparse)
    network = MLPClassifier((50, 20), solver=solver, max_iter=10, random_state=0)
    one = clone(network).set_params(backend="compiled").fit(X, y)
    two = clone(network).set_params(backend="numba").fit(X, y)
    assert not np.array_equal(one.coefs_[0], two.coefs_[0])  # else it was the same code
    for a, b in zip(one.coefs_ + one.intercepts_, two.coefs_ + two.intercepts_, strict=True):
        assert a.dtype == b.dtype == dtype
        assert np.linalg.norm(a - b) <= BOUNDS[dtype] * np.linalg.norm(a)
    np.testing.assert_allclose(two.predict_proba(X), one.predict_proba(X), rtol=0, atol=1e-3)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_lbfgs_takes_its_gradients_from_numba(loss):
    X, y = load_diabetes(return_X_y=True)
    network = MLPRegressor(
        loss=loss, hidden_layer_sizes=8, solver="lbfgs", max_iter=15, random_state=0
    )
    one = clone(network).set_params(backend="compiled").fit(X, y)
    two = clone(network).set_params(backend="numba").fit(X, y)
    assert two.loss_ == pytest.approx(one.loss_, rel=1e-6)


def test_a_model_of_one_backend_opens_and_predicts_on_the_other():
    """The pickle of a fit by numba predicts compiled, and the other way round."""
    X, y = digits("float64", sparse=False)
    for trained, predicts in (("numba", "compiled"), ("compiled", "numba")):
        model = MLPClassifier(20, max_iter=3, random_state=0, backend=trained).fit(X, y)
        expected = model.predict_proba(X)
        other = pickle.loads(pickle.dumps(model)).set_params(backend=predicts)
        np.testing.assert_allclose(other.predict_proba(X), expected, rtol=1e-12)
        np.testing.assert_allclose(other.predict_proba(X[:1]), expected[:1], rtol=1e-12)


def test_a_row_has_the_same_bits_alone_and_in_a_batch():
    X, y = digits("float32", sparse=False)
    model = MLPClassifier(20, max_iter=2, random_state=0, backend="numba").fit(X, y)
    together = model.predict_proba(X)
    for r in (0, 7, 1796):
        np.testing.assert_array_equal(model.predict_proba(X[r : r + 1])[0], together[r])


def test_how_calls_are_paced_shows_in_no_bit(monkeypatch):
    """Neither in weights nor in losses, of training or of validation rows: calls of one step or
    chunk, and of ever more.
    """
    from hotloop.kernels import numba_cpu

    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20_000, 20)), rng.integers(0, 3, 20_000)
    results = []
    for factor in (1, 2):
        monkeypatch.setattr(numba_cpu, "next_most", lambda most, *_, by=factor: most * by)
        model = MLPClassifier((64, 64), max_iter=4, random_state=0, backend="numba")
        model.fit(X[:300], y[:300], X_val=X, y_val=y)
        losses = model.loss_curve_ + model.validation_loss_curve_
        results.append((losses, [c.tobytes() for c in model.coefs_]))
    assert results[0] == results[1]


def test_early_stopping_partial_fit_and_lazy_updates_run_on_it():
    X, y = digits("float64", sparse=True)
    settings = {"sparse_updates": "lazy", "early_stopping": True, "max_iter": 5, "random_state": 0}
    one, two = (MLPClassifier(20, backend=name, **settings) for name in ("compiled", "numba"))
    for model in (one, two):
        model.fit(X, y).set_params(early_stopping=False).partial_fit(X, y)
    assert two.validation_scores_ is None
    np.testing.assert_allclose(two.loss_curve_, one.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(two.coefs_[0], one.coefs_[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("dtype", list(BOUNDS))
def test_optimizers_step_as_the_oracle_does(dtype, sparse):
    """Every rule by itself and with all that may be asked for besides."""
    stack = replace(optimizers.STACK, backend="numba", dtype=dtype, sparse=sparse)
    for rule in optimizers.RULES:
        for besides in (optimizers.SPARSE if sparse else optimizers.BESIDES).values():
            optimizers.assert_as_oracle(build(stack), rule, besides)


def test_bfloat16_is_refused_with_the_reason():
    X, y = digits("float32", sparse=False)
    with pytest.raises(ValueError, match=r"bfloat16.*numba.*computes in float32 and float64"):
        MLPClassifier(precision="bfloat16", backend="numba").fit(X, y)


def test_a_backend_that_is_not_there_is_refused_with_the_remedy(monkeypatch):
    """As if numba were not installed: the message says what to install, the fit changes nothing."""
    reason = "numba is not installed; pip install 'hotloop[numba]'"
    X, y = digits("float32", sparse=False)
    model = MLPClassifier(5, max_iter=1, random_state=0).fit(X, y)
    before = model.coefs_[0].copy()
    monkeypatch.setattr(backends, "ENGINES", {**backends.ENGINES, "numba": reason})
    with pytest.raises(ValueError, match=r"pip install 'hotloop\[numba\]'"):
        model.set_params(backend="numba").fit(X, y)
    np.testing.assert_array_equal(model.coefs_[0], before)
    assert backends.config()["backends"]["numba"] == f"absent: {reason}"


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="'backend' parameter of MLPClassifier"):
        MLPClassifier(backend="abacus").fit(np.eye(4), [0, 1, 0, 1])


def in_fresh_process(code, **environment):
    environment = {k: v for k, v in {**os.environ, **environment}.items() if v}
    command = [sys.executable, "-c", code]
    start = time.perf_counter()
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip(), time.perf_counter() - start


def test_a_name_in_the_environment_that_is_no_backend_is_refused_at_import():
    command = [sys.executable, "-c", "import hotloop"]
    environment = {**os.environ, "HOTLOOP_BACKEND": "abacus"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert (
        "HOTLOOP_BACKEND='abacus' is no backend. Set it to one of compiled, numba" in answer.stderr
    )


@pytest.mark.parametrize("changed", ["X", "weights", "coefs"])
def test_what_is_read_only_is_not_another_type(changed):
    """joblib maps large arrays read-only: they are computed with by the same compiled code."""
    X, y = digits("float64", sparse=True)
    weights = np.ones(len(y))
    model = MLPClassifier(5, max_iter=1, random_state=0, backend="numba")
    model.fit(X, y, weights).predict(X)
    numba_cpu = sys.modules[backends.engine_of("numba").__module__]
    before = [len(f.signatures) for f in (numba_cpu.train, numba_cpu.predict)]
    for array in {"X": [X.data, X.indices], "weights": [weights], "coefs": model.coefs_}[changed]:
        array.flags.writeable = False
    model.predict(X)
    model.fit(X, y, weights)
    assert [len(f.signatures) for f in (numba_cpu.train, numba_cpu.predict)] == before


def test_compiled_code_is_kept_apart_for_each_source():
    """Its file is named by all that it takes from other files, which numba does not look at."""
    numba_cpu = sys.modules[backends.engine_of("numba").__module__]
    numba_jit = sys.modules[numba_cpu.jit.__module__]
    words = {**numba_jit._WORDS, "relu": 99}
    changed = (
        (words, kernels.OP_DTYPE, numba_jit._SOURCES),
        (numba_jit._WORDS, kernels.OP_DTYPE, ""),
    )
    for parts in changed:
        assert numba_jit.digest_of(*parts) != numba_jit._DIGEST
    assert "def dropout(" in numba_jit._SOURCES
    assert numba_jit._DIGEST in numba_cpu.walk.py_func.__qualname__
    assert any(numba_jit._DIGEST in path for path in cached_files(numba_cpu.walk))


def cached_files(dispatcher):
    return os.listdir(dispatcher.stats.cache_path)


def test_importing_hotloop_does_not_import_numba():
    said, _ = in_fresh_process("import sys, hotloop; print('numba' in sys.modules)")
    assert said == "False"


def test_a_second_process_takes_compiled_code_from_the_cache():
    """Its first fit, imports and all, takes seconds and not the half minute of compiling."""
    code = (
        "import numpy as np, time; from hotloop import MLPClassifier\n"
        "X = np.random.default_rng(0).normal(size=(40, 3)).astype('f4')\n"
        "model = MLPClassifier(4, max_iter=2, backend='numba', random_state=0)\n"
        "start = time.perf_counter(); model.fit(X, X[:, 0] > 0); model.predict(X)\n"
        "print(time.perf_counter() - start)"
    )
    in_fresh_process(code)
    seconds = min(float(in_fresh_process(code)[0]) for _ in range(3))
    assert seconds < 2


def test_numba_has_a_function_for_every_op():
    """All kinds are told apart by its walk, but for ROUND, which is of bfloat16."""
    numba_cpu = sys.modules[backends.engine_of("numba").__module__]
    walks = numba_cpu.walk, numba_cpu.augment, numba_cpu.muon_op, numba_cpu.norm_op
    told = "".join(inspect.getsource(function.py_func) for function in walks)
    assert [kind for kind in KINDS if f"words.{kind}" not in told] == ["ROUND"]


def test_the_text_of_the_abi_says_what_the_library_says():
    """The op record, to the byte, and all vocabularies: who reads one finds the other."""
    assert abi.OP_DTYPE == kernels.OP_DTYPE
    assert abi.OP_DTYPE.itemsize == kernels.OP_DTYPE.itemsize
    assert abi.STAGES == kernels.STAGES
    for name in ("kinds", "dtypes", "layouts", "activations", "losses", "gradients", "scalars"):
        assert abi.vocabulary(name) == kernels.vocabulary(name)
    with pytest.raises(KeyError):
        abi.vocabulary("colours")


def test_an_install_without_compiled_kernels_works():
    """As if the engine had not been built: fits, predicts, and says what there is."""
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "def absent(name, *rest):\n"
        "    return None if name == 'hotloop.kernels.engine' else find(name, *rest)\n"
        "importlib.util.find_spec = absent\n"
        "sys.modules['hotloop.kernels.engine'] = None\n"
        "import hotloop; from sklearn.datasets import load_iris\n"
        "X, y = load_iris(return_X_y=True)\n"
        "model = hotloop.MLPClassifier(max_iter=300, random_state=0, tol=1e-3).fit(X, y)\n"
        "print(model.score(X, y) > 0.95, model.predict(X[:2]), len(hotloop.show_config() or ''))\n"
        "model.set_params(backend='compiled')\n"
        "for call in ('fit(X, y)', 'predict(X)', 'predict(X[:1])'):\n"
        "    try: eval('model.' + call)\n"
        "    except ValueError as error: print(error)\n"
    )
    said, _ = in_fresh_process(code, HOTLOOP_BACKEND="")
    assert "True [0 0]" in said
    assert said.count("built without compiled kernels; use 'numba'") >= 3
    assert "built without compiled kernels; use 'numba'" in said


def test_the_environment_names_the_backend_of_auto():
    code = (
        "import hotloop; from hotloop import backends\n"
        "print(backends.chosen('auto'), backends.chosen('compiled'))"
    )
    assert in_fresh_process(code, HOTLOOP_BACKEND="numba")[0] == "numba compiled"
    assert hotloop.MLPClassifier().backend == "auto"
