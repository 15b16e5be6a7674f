"""Shared by all test files: the header that says what is under test, and hypothesis' profile."""

import signal

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "hotloop", deadline=None, derandomize=True, print_blob=True, database=None
)
hypothesis.settings.load_profile("hotloop")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores it in what it starts in the background, and so would the children of tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def always_shared(monkeypatch):
    """Every step is long enough to be shared, by all threads that are asked for and allowed; a list
    that says of each run how many took part.
    """
    from hotloop import backends, plan
    from hotloop.estimators import perceptron

    for name in ("SMALL_SECONDS", "LARGE_SECONDS"):
        monkeypatch.setattr(plan, name, 0.0)
    monkeypatch.setenv("HOTLOOP_NUM_THREADS", "8")
    run, taken = backends.TableRunner.run, []

    def noted(self, *args, **kwargs):
        losses = run(self, *args, **kwargs)
        taken.append(self._engine.threads)
        return losses

    monkeypatch.setattr(backends.TableRunner, "run", noted)
    perceptron._training_plan.cache_clear()  # plans of other steps
    yield taken
    perceptron._training_plan.cache_clear()


def pytest_runtest_setup(item):
    """Skip what only the compiled kernels do where others run a plan."""
    if item.get_closest_marker("compiled"):
        from hotloop.kernels import DEFAULT_BACKEND

        if DEFAULT_BACKEND != "compiled":
            pytest.skip(f"only compiled kernels do that, and plans are run by {DEFAULT_BACKEND}")


def pytest_report_header():
    """Say who runs what is tested, and on which instruction set."""
    try:
        from hotloop import backends
    except ImportError as error:
        return f"hotloop: not importable ({error})"
    return f"hotloop: {backends.config()}"
