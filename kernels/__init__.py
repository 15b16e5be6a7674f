"""The hot loops, and the vocabulary that plans are written in.

Everything here is read from abi.h, through the compiled engine or, in an install without that, from
its text: there is no second list.
"""

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

#: Whether this install has compiled kernels.
COMPILED = find_spec(f"{__name__}.engine") is not None
if COMPILED:
    from . import engine as _source
else:
    from . import abi as _source

OP_DTYPE, STAGES, vocabulary = _source.OP_DTYPE, _source.STAGES, _source.vocabulary
isa, provider, usable = _source.isa, _source.provider, _source.usable

KINDS = vocabulary("kinds")
DTYPES = vocabulary("dtypes")
LAYOUTS = vocabulary("layouts")
ACTIVATIONS = vocabulary("activations")
LOSSES = vocabulary("losses")
GRADIENTS = vocabulary("gradients")
OPTIMIZERS = vocabulary("optimizers")
NORMALIZATIONS = vocabulary("normalizations")
#: Vectors that are kept of the columns of a batch, see abi.h.
COLUMN_STATISTICS = 6
SCALARS = tuple(vocabulary("scalars"))

#: The library that a driver for GPUs comes with.
CUDA_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_ENDLESS = 2**40
#: The geometry (see abi.h) of who works on plain rows: one panel, one unit, nothing padded.
ROW_MAJOR = {
    "vector_lanes": 1,
    "panel_width": _ENDLESS,
    "unit_rows": _ENDLESS,
    "most_unit_rows": _ENDLESS,
    "narrow_columns": _ENDLESS,
    "unit_size": 0,
    "packed_size": 0,
    "reduction": _ENDLESS,
    "counted_steps": 0,
}


class Backend(NamedTuple):
    """What plans and estimators need to know of who runs a plan.

    Attributes
    ----------
    device : {"cpu", "cuda"}
        Where it computes.
    geometry : callable
        From a value of DTYPES to the sizes that a plan lays buffers out by.
    in_place : bool
        Whether predictions can read weights where the user has them, a few rows one by one.
    rounds : bool
        Whether products can read bfloat16.
    divides : bool
        Whether a step is divided: among threads, and by interrupts.
    whole_csr_gradient : bool
        Whether it keeps the gradient of a whole weight on CSR input, beside the store.
    mirrors : bool
        Whether it keeps the transpose of a weight, for the gradient of the input.
    shard_rows : int or None
        Batches of more rows have the gradients of shards of so many summed apart; None: never.
    chunks : int
        How many times as many rows as stay in a core's cache are predicted together.
    """

    device: str
    geometry: Callable[[int], dict[str, int]]
    in_place: bool = False
    rounds: bool = False
    divides: bool = False
    whole_csr_gradient: bool = False
    mirrors: bool = True
    shard_rows: int | None = None
    chunks: int = 1


def _row_major(dtype: int) -> dict[str, int]:
    return ROW_MAJOR


#: Every backend there may be, by name.
BACKENDS = {
    "compiled": Backend("cpu", _source.geometry, in_place=True, rounds=True, divides=True),
    "numba": Backend("cpu", _row_major, whole_csr_gradient=True),
    "cuda": Backend("cuda", _row_major, mirrors=False, shard_rows=1024, chunks=64),
}


def backend_of(name: str) -> Backend:
    """A backend by its name; ValueError if there is none."""
    if name not in BACKENDS:
        raise ValueError(f"backend {name!r} is not known; it must be one of {list(BACKENDS)}.")
    return BACKENDS[name]


#: Those that `backend=` chooses from; the others are chosen by their device.
CPU_BACKENDS = tuple(name for name, backend in BACKENDS.items() if backend.device == "cpu")
#: Who runs a plan unless something else is said.
DEFAULT_BACKEND = os.environ.get("HOTLOOP_BACKEND") or CPU_BACKENDS[not COMPILED]
if DEFAULT_BACKEND not in CPU_BACKENDS:
    raise ImportError(
        f"HOTLOOP_BACKEND={DEFAULT_BACKEND!r} is no backend. Set it to one of "
        f"{', '.join(CPU_BACKENDS)}, or unset it."
    )


__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "COLUMN_STATISTICS",
    "COMPILED",
    "CPU_BACKENDS",
    "CUDA_DRIVER",
    "DEFAULT_BACKEND",
    "DTYPES",
    "GRADIENTS",
    "KINDS",
    "LAYOUTS",
    "LOSSES",
    "NORMALIZATIONS",
    "OPTIMIZERS",
    "OP_DTYPE",
    "SCALARS",
    "STAGES",
    "backend_of",
    "isa",
    "provider",
    "usable",
    "vocabulary",
]
