"""exp, log, tanh and erf for the functions that `activation=` and `loss=` take; needs numba.

Examples
--------
>>> from hotloop.elementwise import exp
>>> def silu(z):
...     return z / (1 + exp(-z))
>>> print(silu(1.0).round(3))
0.731
"""

from hotloop.kernels.elementwise import erf, exp, log, tanh

__all__ = ["erf", "exp", "log", "tanh"]
