"""The hot loops, and the vocabulary that plans are written in.

Everything here is read from abi.h through the compiled engine: there is no second list.
"""

from .engine import OP_DTYPE, STAGES, geometry, isa, provider, usable, vocabulary

KINDS = vocabulary("kinds")
DTYPES = vocabulary("dtypes")
LAYOUTS = vocabulary("layouts")
ACTIVATIONS = vocabulary("activations")
LOSSES = vocabulary("losses")
GRADIENTS = vocabulary("gradients")
OPTIMIZERS = vocabulary("optimizers")
SCALARS = tuple(vocabulary("scalars"))

__all__ = [
    "ACTIVATIONS",
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
