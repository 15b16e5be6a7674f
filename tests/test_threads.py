"""Threads: the same bits at any number, how many there are, forks, interrupts, concurrent use."""

import os
import re
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from hotloop import MLPClassifier, MLPRegressor, backends, plan, vectors
from hotloop.threads import thread_count
from stacks import (
    OPTIMIZERS,
    Stack,
    build,
    child,
    gradient_kinds,
    make_orders,
    make_scalars,
    steps_per_epoch,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

#: Networks whose steps are cut in every way: many layers, narrow outputs, odd sizes, few rows,
#: more units than threads and fewer, packed inputs, CSR, kept gradients.
STACKS = (
    Stack((20, 70, 1), ("relu",), "binary_log_loss", n=403, dtype="float32"),
    Stack((64, 100, 10), ("tanh",), "log_loss", n=500, dtype="float32", weighted=True),
    Stack((33, 65, 130, 3), ("relu", "logistic"), "squared_error", n=257, dtype="float64"),
    Stack((150, 300, 4), ("relu",), "log_loss", n=620, dtype="float32"),
    Stack((90, 64, 5), ("identity",), "log_loss", n=300, dtype="float64", sparse=True),
)


@pytest.fixture(autouse=True)
def _no_limits(monkeypatch):
    """The environment of the machine that tests run on says nothing here."""
    for name in ("HOTLOOP_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def trained(problem, n_jobs, *, optimizer="adam", batch_size=601, gradients="fused"):
    """Parameters, losses and predictions after two epochs, and the threads that took part."""
    stack = problem.stack
    compiled = plan.compile_training(
        problem.network,
        dtype=np.dtype(stack.dtype),
        batch_size=min(batch_size, stack.n),
        optimizer=OPTIMIZERS[optimizer],
        sparse=stack.sparse,
        gradients=gradients,
    )
    state = vectors.new_state(problem.parameters.copy(), OPTIMIZERS[optimizer])
    runner = backends.open_runner(compiled, state, problem.streams, n_jobs=n_jobs)
    n_steps = 2 * steps_per_epoch(stack.n, compiled.batch_size)
    losses = runner.run(make_orders(problem, 2), make_scalars(optimizer, n_steps))
    threads = runner._engine.threads
    runner.read_state(state)
    out = np.empty((stack.n, stack.widths[-1]), stack.dtype)
    runner.predict(problem.streams["X"], out)
    return (state.parameters, losses, out), threads


# ---- the same bits ---------------------------------------------------------------------


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("stack", "gradients"), [(s, g) for s in STACKS for g in gradient_kinds(s.sparse)], ids=str
)
def test_any_number_of_threads_gives_the_same_bits(stack, gradients, monkeypatch, always_shared):
    """Over batches, optimizers and 2, 3, 4 and 8 threads, all of which take part."""
    monkeypatch.setenv("HOTLOOP_NUM_THREADS", "8")
    problem = build(stack)
    for optimizer, batch_size in (("adam", 601), ("nesterov", 97)):
        kind = {"optimizer": optimizer, "batch_size": batch_size, "gradients": gradients}
        expected, alone = trained(problem, 1, **kind)
        assert alone == 1
        for n_jobs in (2, 3, 4, 8):
            got, threads = trained(problem, n_jobs, **kind)
            assert threads == n_jobs
            for one, other in zip(got, expected, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("forced", [None, "1", "2", "4", "8"])
@pytest.mark.parametrize("n_jobs", [None, 1, 2, -1, -2])
@pytest.mark.parametrize("openmp", [None, "1", "2", "2,1"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_limits_of_the_environment_do_not_change_a_bit(solver, openmp, n_jobs, forced, monkeypatch):
    """200 settings of n_jobs and the environment: one fit, one result."""
    for name, value in (("HOTLOOP_NUM_THREADS", forced), ("OMP_NUM_THREADS", openmp)):
        if value is not None:
            monkeypatch.setenv(name, value)
    X, y = load_digits(return_X_y=True)
    network = MLPClassifier((70, 40), solver=solver, max_iter=2, random_state=0, batch_size=600)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = clone(network).set_params(n_jobs=n_jobs).fit(X, y)
        if solver not in BASELINE:
            BASELINE[solver] = clone(network).set_params(n_jobs=1).fit(X, y)
    for one, other in zip(got.coefs_, BASELINE[solver].coefs_, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(got.predict_proba(X), BASELINE[solver].predict_proba(X))


BASELINE = {}


@pytest.mark.parametrize("n", [1, 2, 47, 700, 2999, 3000, 4400, 6001])
def test_predictions_of_any_number_of_rows(n, monkeypatch, always_shared):
    """Chunks of a prediction fit the buffers of the threads that they fall to."""
    monkeypatch.setenv("HOTLOOP_NUM_THREADS", "5")
    problem = build(Stack((30, 30, 3), ("relu",), "log_loss", n=8, dtype="float32"))
    compiled = plan.compile_inference(problem.network, dtype=np.float32)
    weights = vectors.weight_views(problem.network, problem.parameters.ravel())
    X = np.random.default_rng(0).normal(size=(n, 30)).astype(np.float32)
    one, other = (backends.predict(compiled, *weights, X, n_jobs=k) for k in (1, 5))
    np.testing.assert_array_equal(one, other)


@pytest.mark.compiled
def test_workers_take_denormals_for_zero_as_the_caller_does(monkeypatch, always_shared):
    """Moments that decay below the normal range become 0 on every thread."""
    monkeypatch.setenv("HOTLOOP_NUM_THREADS", "4")
    problem = build(Stack((200, 300, 3), ("relu",), "log_loss", n=64, dtype="float32"))
    streams = {**problem.streams, "X": np.zeros((64, 200), np.float32)}  # no gradient of weight_0
    compiled = plan.compile_training(
        problem.network, dtype=np.float32, batch_size=64, optimizer=OPTIMIZERS["adam"]
    )
    for n_jobs in (1, 4):
        state = vectors.new_state(problem.parameters.copy(), OPTIMIZERS["adam"])
        for slot in state.slots.values():
            slot[:] = 1.18e-38  # a little more than the smallest normal number
        runner = backends.open_runner(compiled, state, streams, n_jobs=n_jobs)
        runner.run(None, make_scalars("adam", 1, alpha=0.0), n_epochs=1)
        assert runner._engine.threads == n_jobs
        runner.read_state(state)
        for slot in state.slots.values():
            assert not slot[0, : 200 * 300].any()


def test_workers_keep_denormals_where_the_caller_does(monkeypatch, always_shared):
    """Predictions do not flush, though the threads were made by a training step that does."""
    monkeypatch.setenv("HOTLOOP_NUM_THREADS", "4")
    trained(build(STACKS[1]), 4)
    network = build(Stack((8, 300), (), "squared_error", n=4, dtype="float32")).network
    compiled = plan.compile_inference(network, dtype=np.float32)
    tiny = np.full(8 * 300 + 300, 1e-20, np.float32)
    tiny[8 * 300 :] = 0
    weights = vectors.weight_views(network, tiny)
    X = np.full((5000, 8), 1e-20, np.float32)
    for n_jobs in (1, 4):
        assert backends.predict(compiled, *weights, X, n_jobs=n_jobs).all()


# ---- how many --------------------------------------------------------------------------


def test_what_n_jobs_means(monkeypatch):
    """The table of its docstring, on a machine of six processors."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    wanted = [thread_count(n).wanted for n in (None, 1, 2, 6, 7, -1, -2, -6, -7)]
    assert wanted == [6, 1, 2, 6, 6, 6, 5, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert [thread_count(n).wanted for n in (None, 5, -1, -2)] == [4, 5, 4, 3]
    assert thread_count(None).limit == 6
    monkeypatch.setenv("HOTLOOP_NUM_THREADS", "8")
    assert [thread_count(n).wanted for n in (None, 5, 9, -1, -2)] == [8, 5, 8, 8, 7]
    assert thread_count(None).limit == 8


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_meaningless_number_in_the_environment_is_refused(value, monkeypatch):
    """HOTLOOP_NUM_THREADS is ours: it says what it got. OMP_NUM_THREADS is not: it is ignored."""
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert thread_count(None).wanted == thread_count(None).limit
    monkeypatch.setenv("HOTLOOP_NUM_THREADS", value)
    with pytest.raises(ValueError, match=f"HOTLOOP_NUM_THREADS.*{re.escape(repr(value))}"):
        MLPRegressor().fit(np.eye(4), np.arange(4.0))


@pytest.mark.parametrize("value", [0, 1.5, "all"])
def test_a_meaningless_n_jobs_is_refused(value):
    """As any other parameter, at fit."""
    with pytest.raises(ValueError, match="n_jobs"):
        MLPRegressor(n_jobs=value).fit(np.eye(4), np.arange(4.0))


def test_small_steps_and_single_rows_stay_on_one_thread():
    """What takes less time than sharing it out is not shared: no thread is made for it."""
    child(
        """
        import os
        os.environ["HOTLOOP_NUM_THREADS"] = "4"
        import numpy as np
        from hotloop import MLPRegressor
        from hotloop.kernels import engine
        network = MLPRegressor(hidden_layer_sizes=5, max_iter=3, n_jobs=4)
        network.fit(np.eye(30), np.arange(30.0)).predict(np.eye(30)[:1])
        assert engine.pool_size() == 0
        """,
        "-W",
        "ignore",
    )


@pytest.mark.compiled
@pytest.mark.parametrize("n_epochs", [2, 20])
def test_in_between_both_are_tried(n_epochs, monkeypatch):
    """A runner times one thread and all, in training and for gradients of the whole."""
    monkeypatch.setattr(plan, "SMALL_SECONDS", 0.0)
    monkeypatch.setattr(plan, "LARGE_SECONDS", 1e9)
    monkeypatch.setenv("HOTLOOP_NUM_THREADS", "2")
    problem = build(Stack((30, 40, 3), ("relu",), "log_loss", n=200, dtype="float32"))
    assert trained(problem, 2, batch_size=20)[1] == 2  # 20 steps, of which 6 are on one thread
    compiled = plan.compile_gradients(problem.network, dtype=np.float32, n_rows=200)
    runner = backends.open_runner(compiled, None, problem.streams, n_jobs=2)
    flat, threads = problem.parameters.ravel(), []
    for _ in range(n_epochs):
        runner.gradients(flat, np.empty_like(flat), decay=0.1)
        threads.append(runner._engine.threads)
    assert threads[:12] == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2][:n_epochs]


@pytest.mark.compiled
def test_the_pool_is_as_large_as_the_largest_fit_and_shared(monkeypatch):
    """Four threads mean three workers, however many fits there are; and no others appear."""
    code = """
        import os, threading, time, numpy as np
        from concurrent.futures import ThreadPoolExecutor
        os.environ["HOTLOOP_NUM_THREADS"] = "4"
        from hotloop import MLPRegressor
        from hotloop.kernels import engine
        TASKS = "/proc/self/task"
        count = lambda: len(os.listdir(TASKS)) if os.path.isdir(TASKS) else 0
        X, y = np.random.default_rng(0).normal(size=(2000, 200)), np.arange(2000.0)
        new = lambda *_: MLPRegressor(hidden_layer_sizes=200, max_iter=2)
        new().fit(X, y)
        assert engine.pool_size() == 3, engine.pool_size()
        before = count()
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda k: new().fit(X, y), range(12)))
        assert engine.pool_size() == 3
        for _ in range(100):
            if count() == before:
                break
            time.sleep(0.05)
        assert count() == before
    """
    child(code, "-W", "ignore")


# ---- side by side ----------------------------------------------------------------------


def test_predictions_from_64_threads_on_one_estimator():
    """No wrong bit."""
    X, y = load_digits(return_X_y=True)
    network = MLPClassifier((64, 48), max_iter=3, random_state=0).fit(X, y)
    expected = network.predict_proba(X)
    start = threading.Barrier(64)

    def look(k):
        start.wait()
        return all(
            np.array_equal(network.predict_proba(X[: k + i]), expected[: k + i])
            for i in range(1, 1700, 170)
        )

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(look, range(64)))


def test_clones_fitted_in_threads_equal_the_serial_bits():
    """They share the processors and nothing else."""
    X, y = load_digits(return_X_y=True)
    network = MLPClassifier((100,), max_iter=4)
    seeds = range(12)
    serial = [clone(network).set_params(random_state=s).fit(X, y) for s in seeds]
    with ThreadPoolExecutor(6) as pool:
        parallel = list(
            pool.map(lambda s: clone(network).set_params(random_state=s).fit(X, y), seeds)
        )
    for one, other in zip(serial, parallel, strict=True):
        for a, b in zip(one.coefs_, other.coefs_, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_second_fit_of_the_same_estimator_is_refused():
    """With its name and what to do; the first goes on, and another may follow it."""
    X, y = load_digits(return_X_y=True)
    network = MLPClassifier((50,), max_iter=3000, tol=0.0, n_iter_no_change=10**6)
    heard = []

    def first():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            heard.append(network.fit(X, y))

    thread = threading.Thread(target=first)
    thread.start()
    time.sleep(0.2)
    for again in (network.fit, network.partial_fit):
        with pytest.raises(RuntimeError, match=r"MLPClassifier is being fitted already.*clone"):
            again(X, y)
    thread.join()
    assert heard == [network]
    assert network.n_iter_ == 3000
    network.set_params(max_iter=1).fit(X, y)


def test_a_search_in_threads_equals_a_serial_one():
    """joblib's threading backend over estimators that use threads themselves."""
    X, y = load_digits(return_X_y=True)
    search = GridSearchCV(
        MLPClassifier(max_iter=5, random_state=0), {"alpha": [1e-4, 1.0]}, cv=3, n_jobs=1
    )
    serial = clone(search).fit(X, y)
    with joblib.parallel_config(backend="threading", n_jobs=3):
        parallel = clone(search).set_params(n_jobs=None).fit(X, y)
    for key in ("mean_test_score", "split0_test_score"):
        np.testing.assert_array_equal(serial.cv_results_[key], parallel.cv_results_[key])


def test_the_interpreter_may_end_while_a_daemon_thread_fits():
    """With borrowed threads at work, and without."""
    for n_jobs in (1, 4):
        code = f"""
            import os, threading, time, warnings
            os.environ["HOTLOOP_NUM_THREADS"] = "4"
            import numpy as np
            from hotloop import MLPRegressor
            warnings.simplefilter("ignore")
            X, y = np.random.default_rng(0).normal(size=(2048, 512)), np.arange(2048.0)
            network = MLPRegressor(
                hidden_layer_sizes=(512, 512), batch_size=2048, max_iter=10**6, tol=0.0,
                n_jobs={n_jobs})
            threading.Thread(target=network.fit, args=(X, y), daemon=True).start()
            time.sleep(0.3)
        """
        for _ in range(3):
            child(code)


# ---- forks -----------------------------------------------------------------------------

FORKS = """
    import hashlib, multiprocessing, os, sys, warnings
    import numpy as np
    from hotloop import MLPClassifier
    warnings.simplefilter("ignore")

    def digest(seed):
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(900, 120)).astype("f4"), rng.integers(5, size=900)
        network = MLPClassifier((150,), max_iter=2, random_state=seed, batch_size=450).fit(X, y)
        bits = network.coefs_[0].tobytes() + network.predict(X).tobytes()
        return hashlib.sha256(bits).hexdigest()

    def nested(seed):
        # a child that has fitted forks again
        one = digest(seed)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return {one, pool.apply_async(digest, (seed,)).get(10)}

    if __name__ == "__main__":
        expected = [digest(seed) for seed in range(3)]
        for turn in range(int(sys.argv[1])):
            for method in ("fork", "forkserver", "spawn")[: 1 if turn % 10 else 3]:
                if method not in multiprocessing.get_all_start_methods():
                    continue
                with multiprocessing.get_context(method).Pool(2) as pool:
                    jobs = [pool.apply_async(digest, (seed,)) for seed in range(3)]
                    limit = 10 if method == "fork" else 60  # imports take what they take
                    assert [job.get(limit) for job in jobs] == expected, method
                    if method == "fork":
                        assert digest(turn % 3) == expected[turn % 3]
        if "fork" in multiprocessing.get_all_start_methods():
            process = multiprocessing.get_context("fork").Process(target=nested, args=(0,))
            process.start()
            process.join(20)
            assert process.exitcode == 0
"""


@pytest.mark.parametrize("turns", [6, pytest.param(150, marks=pytest.mark.slow)])
def test_fits_before_in_and_after_children_of_every_kind(turns, tmp_path):
    """fork, forkserver and spawn, two processes each: no hang (10 s each at most), no changed bit.
    The long form has 300 forked children and 30 of each other kind.
    """
    script = tmp_path / "forks.py"
    script.write_text(textwrap.dedent(FORKS))
    done = subprocess.run(
        [sys.executable, str(script), str(turns)],
        env={**os.environ, "HOTLOOP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120 + 10 * turns,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_loky_workers_fit_as_the_parent_does():
    """Fits in the parent, in workers that live on, and in the parent again."""
    X, y = load_digits(return_X_y=True)
    network = MLPClassifier((100,), max_iter=2, random_state=0)

    def coefs(k=0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return clone(network).fit(X, y).coefs_[0]

    expected = coefs()
    for got in joblib.Parallel(n_jobs=2, backend="loky")(
        joblib.delayed(coefs)(k) for k in range(6)
    ):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(coefs(), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_by_a_signal_handler_ends_with_an_error_in_the_child():
    """Its threads and what they had begun are not there; it does not wait for them."""
    child(
        """
        import os, signal, time, warnings
        import numpy as np
        from hotloop import MLPRegressor
        warnings.simplefilter("ignore")
        X, y = np.random.default_rng(0).normal(size=(4096, 500)), np.arange(4096.0)
        network = MLPRegressor(hidden_layer_sizes=(500,), batch_size=4096, max_iter=8, n_jobs=2)
        children = []
        def fork(*_):
            children.append(os.fork())
        signal.signal(signal.SIGALRM, fork)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            network.fit(X, y)
        except RuntimeError as error:
            assert children == [0] and "forked" in str(error)
        if children == [0]:
            network.fit(X[:100], y[:100])
            os._exit(0)
        for _ in range(200):
            pid, status = os.waitpid(children[0], os.WNOHANG)
            if pid:
                break
            time.sleep(0.05)
        else:
            os.kill(children[0], signal.SIGKILL)
            raise AssertionError("the child hangs")
        assert status == 0, status
        """
    )


# ---- interrupts ------------------------------------------------------------------------

INTERRUPTS = """
    import os, random, signal, sys, threading, time, warnings
    import numpy as np
    import hotloop
    from hotloop.kernels import engine

    turns, case = int(sys.argv[1]), sys.argv[2]
    n, width, batch, solver = {
        "small": (2000, 64, 200, "adam"),
        "large": (1024, 512, 1024, "sgd"),
        "long step": (4096, 2048, 4096, "adam"),
        "lbfgs": (1500, 256, 200, "lbfgs"),
    }[case]
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n, width)).astype(np.float32), rng.integers(4, size=n)
    new = lambda max_iter: hotloop.MLPClassifier(
        (width, width), solver=solver, max_iter=max_iter, max_fun=10**9, batch_size=batch, tol=0.0,
        n_iter_no_change=10**6, random_state=0)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    fitted = new(1).fit(X, y)
    one = time.perf_counter() - began
    waits, pool = [], engine.pool_size()
    for turn in range(turns):
        sent = []
        def interrupt():
            time.sleep(random.uniform(0.005, 1.2 * one + 0.05))
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)
        thread = threading.Thread(target=interrupt)
        network, raised = new(10**6), False
        try:
            thread.start()
            network.fit(X, y)
        except KeyboardInterrupt:
            raised = True
        waits.append(time.perf_counter() - sent[0])
        thread.join()
        if hasattr(network, "coefs_"):
            assert all(np.isfinite(c).all() for c in network.coefs_)
            assert network.predict(X[:50]).shape == (50,)
            if solver != "lbfgs" and turn % 10 == 0:
                network.set_params(max_iter=1).partial_fit(X[:100], y[:100], classes=range(4))
        else:
            assert raised
        assert engine.pool_size() == pool
    print(*waits)
"""


@pytest.mark.compiled
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent in another way there")
@pytest.mark.parametrize("case", ["small", "large", "long step", "lbfgs"])
@pytest.mark.parametrize("turns", [4, pytest.param(75, marks=pytest.mark.slow)])
def test_interrupts_at_random_moments_are_answered_within_100_ms(turns, case):
    """Also where one step takes longer; what is left is finite and usable, no thread is lost.
    In all, the long form has 300. A busy machine may keep the test itself waiting: in the
    short form it is the second slowest that counts, against 400 ms.
    """
    waits = sorted(map(float, child(INTERRUPTS, timeout=600, args=(str(turns), case)).split()))
    assert len(waits) == turns
    assert np.percentile(waits, 99 if turns > 4 else 66) < (0.1 if turns > 4 else 0.4), waits


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is sent in another way there")
def test_ctrl_c_ends_a_search():
    """A fit in a search answers as elsewhere; the next one is interrupted by the next Ctrl-C."""
    code = """
        import os, signal, threading, time, warnings
        import numpy as np
        from sklearn.model_selection import GridSearchCV
        from hotloop import MLPClassifier
        warnings.simplefilter("ignore")
        X, y = np.random.default_rng(0).normal(size=(20_000, 300)), np.arange(20_000) % 3
        network = MLPClassifier(max_iter=10**6, tol=0.0, n_iter_no_change=10**6, solver="lbfgs",
                                max_fun=10**9)
        sent = []
        def interrupt():
            time.sleep(0.5)
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            GridSearchCV(network, {"alpha": [1e-9, 1e-8]}, cv=2).fit(X, y)
        except KeyboardInterrupt:
            print(time.perf_counter() - sent[0])
    """
    assert float(child(code)) < 0.4
