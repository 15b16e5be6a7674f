"""Shared by all test files: the header that says what is under test, and hypothesis' profile."""

import signal

import hypothesis

hypothesis.settings.register_profile(
    "hotloop", deadline=None, derandomize=True, print_blob=True, database=None
)
hypothesis.settings.load_profile("hotloop")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores it in what it starts in the background, and so would the children of tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header():
    """Say who runs what is tested, and on which instruction set."""
    try:
        from hotloop import backends
    except ImportError as error:
        return f"hotloop: not importable ({error})"
    return f"hotloop: {backends.config()}"
