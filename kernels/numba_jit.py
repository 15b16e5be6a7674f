"""What numba compiles with for one thread: the vocabulary, and a cache that notices its sources."""

from collections import namedtuple
from hashlib import sha256
from pathlib import Path

from numba import njit

from . import (
    ACTIVATIONS,
    GRADIENTS,
    KINDS,
    LOSSES,
    NORMALIZATIONS,
    OP_DTYPE,
    OPTIMIZERS,
    SCALARS,
)

#: Names of abi.h's vocabularies with their values, an argument of what is compiled.
_WORDS = {
    **KINDS,
    **ACTIVATIONS,
    **LOSSES,
    **GRADIENTS,
    **OPTIMIZERS,
    **NORMALIZATIONS,
    **{name: k for k, name in enumerate(SCALARS)},
    "n_scalars": len(SCALARS),
}
Words = namedtuple("Words", list(_WORDS))  # type: ignore[misc]
WORDS = Words(**_WORDS)


def digest_of(words, dtype, sources):
    """A name for a vocabulary, a record and other files."""
    return sha256(repr((words, dtype, sources)).encode()).hexdigest()[:16]


#: All that compiled code may take something from: numba's cache notices changes of its own file.
_FILES = sorted(Path(__file__).parent.glob("*.py"))
_SOURCES = "".join(path.read_text(encoding="utf-8") for path in _FILES)
_DIGEST = digest_of(_WORDS, OP_DTYPE, _SOURCES)


def jit(function):
    """Compiles when first called: once for this source on a machine, or in each process where
    nothing can be kept.
    """
    function.__qualname__ += f"_{_DIGEST}"  # which the cache names its files by
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to write to
        return njit(nogil=True, error_model="numpy")(function)
