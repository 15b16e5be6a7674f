"""Functions of the user on a CUDA device: one that calls them by their number in a plan."""

import numpy as np

from .cuda_words import device
from .custom import source_of


@device
def no_function(index, y, z):
    """Value and derivative of a function of the user, by its number in the plan."""
    return z, z


def with_function(function, real, number, others):
    """The same, of one more function; its derivative by differences if the user gave none."""
    kind, cast, width = function.kind, np.dtype(real).type, 6e-6
    value = device(source_of(function.value, kind))

    @device
    def value_at(y, z):
        return value(y, z) if kind == "loss" else value(z)

    if function.derivative is not None:
        derivative = device(source_of(function.derivative, kind))

        @device
        def slope_at(y, z):
            return derivative(y, z) if kind == "loss" else derivative(z)

    else:

        @device
        def slope_at(y, z):
            h = width * (abs(z) if abs(z) > 1 else 1.0)
            above, below = np.float64(z) + h, np.float64(z) - h
            return (value_at(y, above) - value_at(y, below)) / (above - below)

    @device
    def choose(index, y, z):
        if index == number:
            return cast(value_at(y, z)), cast(slope_at(y, z))
        return others(index, y, z)

    return choose
