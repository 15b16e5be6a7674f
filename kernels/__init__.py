"""The hot loops, and the vocabulary that plans are written in.

Everything here is read from abi.h, through the compiled engine or, in an install without that, from
its text: there is no second list.
"""

import os
from importlib.util import find_spec

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
SCALARS = tuple(vocabulary("scalars"))

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


BACKENDS = ("compiled", "numba")
#: Who runs a plan unless something else is said.
DEFAULT_BACKEND = os.environ.get("HOTLOOP_BACKEND") or BACKENDS[not COMPILED]
if DEFAULT_BACKEND not in BACKENDS:
    raise ImportError(
        f"HOTLOOP_BACKEND={DEFAULT_BACKEND!r} is no backend. Set it to one of "
        f"{', '.join(BACKENDS)}, or unset it."
    )


def geometry(dtype: int, backend: str) -> dict[str, int]:
    """Sizes that a plan lays buffers out by, for a value of DTYPES and who runs it."""
    return _source.geometry(dtype) if backend == "compiled" else ROW_MAJOR


__all__ = [
    "ACTIVATIONS",
    "COMPILED",
    "DEFAULT_BACKEND",
    "DTYPES",
    "GRADIENTS",
    "KINDS",
    "LAYOUTS",
    "LOSSES",
    "OPTIMIZERS",
    "OP_DTYPE",
    "SCALARS",
    "STAGES",
    "geometry",
    "isa",
    "provider",
    "usable",
    "vocabulary",
]
