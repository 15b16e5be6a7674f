"""Shared by all test files: the header that says what is under test, and hypothesis' profile."""

import hypothesis

hypothesis.settings.register_profile(
    "hotloop", deadline=None, derandomize=True, print_blob=True, database=None
)
hypothesis.settings.load_profile("hotloop")


def pytest_report_header():
    """Say which instruction set the compiled backend chose."""
    try:
        from hotloop import backends
    except ImportError as error:
        return f"hotloop: not importable ({error})"
    return f"hotloop: {backends.config()}"
