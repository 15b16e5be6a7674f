"""Losses in Python, for all who compile Python; by other code than loss.h, which has the formulas.

The functions run as they stand, on numbers of Python or NumPy, and :func:`compiled` makes those of
another backend of them. All is computed in double precision. A row is `n` elements of a flat array
from `at` on, since a slice costs something on a graphics card; its constants are those of
`constants` from `first` on.
"""

from collections import namedtuple
from math import exp, log, log1p, pow, tanh
from types import FunctionType

from numpy import float64

from . import ACTIVATIONS, LOSSES

WORDS = namedtuple("Losses", list(LOSSES))(**LOSSES)  # type: ignore[misc]
SOFTMAXES = ACTIVATIONS["softmaxes"]


# ------------------------------------------------------------- of an output by itself


def sided(d, above, below):
    """`above` where d is above 0, `below` where it is below; else d, which is 0 or no number."""
    return above if d > 0 else below if d < 0 else d


def deviance(loss, z, y, constants, first):
    """(delta, loss) of half a gamma or Tweedie deviance."""
    if loss == WORDS.gamma:
        ratio = y * exp(-z)
        return 1 - ratio, ratio - (log(y) - z) - 1
    p = constants[first]
    own = pow(y, 2 - p) if y > 0 else y * y if p == 0 else 0.0
    own /= (1 - p) * (2 - p)
    if y == 0:  # which must not meet an infinity
        mean = exp((2 - p) * z)
        return mean, own + mean / (2 - p)
    # Factors of a difference: what overflows keeps its sign.
    power, mean = exp((1 - p) * z), exp(z)
    return power * (mean - y), own + power * (mean / (2 - p) - y / (1 - p))


def of_label(loss, u, gamma):
    """(slope, loss) of a label by its logit."""
    if loss == WORDS.binary_focal:
        tail = log1p(exp(-abs(u)))
        entropy = tail + (-u if u < 0 else 0.0)
        factor = exp(-gamma * (tail + (u if u > 0 else 0.0)))
        return -factor * (gamma * entropy / (1 + exp(-u)) + 1 / (1 + exp(u))), factor * entropy
    margin = 0.0 if u >= 1 else 1 - u
    if loss == WORDS.binary_squared_hinge:
        return -2 * margin, margin * margin
    return -1.0 if margin > 0 else 0.0, margin


def by_label(loss, z, y, constants, first):
    """(delta, loss) of a label, 0 or 1; in between a mean of both."""
    one, zero, gamma = y, 1 - y, 0.0
    if loss == WORDS.binary_focal:
        gamma, one, zero = constants[first], one * constants[first + 1], zero * constants[first + 2]
    up, gain = of_label(loss, z, gamma)
    down, pain = of_label(loss, -z, gamma)
    return one * up - zero * down, one * gain + zero * pain


def loss_element(loss, z, y, constants, first):
    """(delta, loss) of an output z before its activation."""
    d = z - y
    a = abs(d)
    if loss == WORDS.absolute_error:
        return sided(d, 1.0, -1.0), a
    if loss == WORDS.huber:
        bound = constants[first]
        if a > bound:
            return sided(d, bound, -bound), bound * (a - 0.5 * bound)
        return d, 0.5 * d * d
    if loss == WORDS.log_cosh:
        if a < 1:
            return tanh(d), -0.5 * log1p(-tanh(d) * tanh(d))
        return tanh(d), a + log1p(exp(-2 * a)) - 0.6931471805599453
    if loss == WORDS.quantile:
        slope = sided(d, 1 - constants[first], -constants[first])
        return slope, slope * d
    if loss == WORDS.gamma or loss == WORDS.tweedie:
        return deviance(loss, z, y, constants, first)
    return by_label(loss, z, y, constants, first)


# -------------------------------------------------------------------- of a class code


def softmax_loss(loss, row, at, n, code, constants, first):
    """Cross entropy with smoothed targets, or the focal loss; the row becomes its delta."""
    top, others, below = float64(row[at]), 0.0, 0.0
    for o in range(1, n):
        top = float64(row[at + o]) if row[at + o] > top else top
    right = top - row[at + code]
    for o in range(n):
        below += (top - row[at + o]) / n
        others += exp(row[at + o] - top) if o != code else 0.0
    total = others + exp(-right)
    q, factor, smoothing = others / total, 1.0, 0.0
    if loss == WORDS.focal:
        entropy = -log1p(-q) if q < 0.5 else log(total) + right
        scale = pow(q, constants[first])
        ratio = entropy / q if q > 0 else 1.0
        factor = scale * (1 + constants[first] * (1 - q) * ratio)
        value = scale * entropy
    else:
        smoothing = constants[first]
        value = log(total) + (1 - smoothing) * right + smoothing * below
    for o in range(n):
        p = smoothing - q if o == code else exp(row[at + o] - top) / total
        row[at + o] = factor * (p - smoothing / n)
    return value


def hinge(loss, row, at, n, code):
    """Crammer and Singer's hinge, or its square; the row becomes its delta."""
    rival = 0 if code > 0 else n - 1
    for o in range(n):
        ahead = row[at + o] > row[at + rival] or (row[at + o] == row[at + rival] and o < rival)
        if o != code and ahead:
            rival = o
    margin = 1 + float64(row[at + rival]) - float64(row[at + code])
    margin = 0.0 if margin <= 0 else margin
    slope, value = 1.0 if margin > 0 else 0.0, margin
    if loss == WORDS.squared_hinge:
        slope, value = 2 * margin, margin * margin
    for o in range(n):
        row[at + o] = 0
    row[at + rival] += slope
    row[at + code] -= slope
    return value


def code_loss(loss, row, at, n, code, constants, first):
    """The loss of a row of outputs before their activation; the row becomes its delta."""
    if loss == WORDS.hinge or loss == WORDS.squared_hinge:
        return hinge(loss, row, at, n, code)
    return softmax_loss(loss, row, at, n, code, constants, first)


def joint_log_loss(row, at, n, codes, index, constants, first):
    """The sum of smoothed log-losses, one a run of outputs, whose lengths follow the first
    constant; the row becomes its delta. Codes are those of row `index`, one a run.
    """
    value, done, runs = 0.0, 0, 0
    while done < n:
        done, runs = done + int(constants[first + 1 + runs]), runs + 1
    done = 0
    for k in range(runs):
        length, code = int(constants[first + 1 + k]), codes[index * runs + k]
        kind, start = WORDS.smooth_log_loss, at + done
        value += softmax_loss(kind, row, start, length, code, constants, first)
        done += length
    return value


def softmaxes(row, at, n, constants, first):
    """Overwrites a row with a softmax of each such run."""
    start, run = at, first + 1
    while start < at + n:
        end, top, total = start + int(constants[run]), float64(row[start]), 0.0
        for o in range(start, end):
            top = float64(row[o]) if row[o] > top else top
        for o in range(start, end):
            total += exp(row[o] - top)
        for o in range(start, end):
            row[o] = exp(row[o] - top) / total
        start, run = end, run + 1


# ----------------------------------------------------------------- of ordered outputs


def rise(row, at, o):
    """How far output o lies above the last one, or where the first is."""
    z = float64(row[at + o])
    if o == 0:
        return z
    return log1p(exp(-abs(z))) + (z if z > 0 else 0.0)


def ordered(row, at, n):
    """Overwrites a row with outputs that never fall."""
    out = 0.0
    for o in range(n):
        out += rise(row, at, o)
        row[at + o] = out


def ordered_quantiles(row, at, n, targets, start, constants, first):
    """Pinball losses of ordered outputs; the row becomes its delta. Targets are from `start` on."""
    out = above = value = 0.0
    for o in range(n):
        out += rise(row, at, o)
        d, level = out - targets[start + o], constants[first + o]
        above += sided(d, 1 - level, -level)
        value += sided(d, 1 - level, -level) * d
    out = 0.0
    for o in range(n):
        out += rise(row, at, o)
        d, level = out - targets[start + o], constants[first + o]
        row[at + o] = above * (1 / (1 + exp(-float64(row[at + o]))) if o > 0 else 1.0)
        above -= sided(d, 1 - level, -level)
    return value


def end_row(activation, row, at, n, constants, first):
    """Overwrites a row with an activation of several outputs, but for softmax."""
    if activation == SOFTMAXES:
        softmaxes(row, at, n, constants, first)
    else:
        ordered(row, at, n)


def row_loss(loss, row, at, n, y, constants, first):
    """The loss of a row that is no sum over its outputs; the row becomes its delta. y is what has
    codes and targets, and the index of the row there.
    """
    streams, index = y
    if loss == WORDS.ordered_quantiles:
        return ordered_quantiles(row, at, n, streams.targets, index * n, constants, first)
    if loss == WORDS.joint_log_loss:
        return joint_log_loss(row, at, n, streams.codes, index, constants, first)
    return code_loss(loss, row, at, n, streams.codes[index], constants, first)


def compiled(jit, **maths):
    """`loss_element`, `row_loss` and `end_row` of another backend.

    Parameters
    ----------
    jit : callable
        Compiles a function: numba's, for some device.
    **maths : callables
        exp, log, log1p, tanh and pow of it, where they are not those of ``math``.
    """
    names = {**globals(), **maths}
    functions = (sided, deviance, of_label, by_label, loss_element)
    functions += (softmax_loss, hinge, code_loss, joint_log_loss, softmaxes)
    functions += (rise, ordered, ordered_quantiles, end_row, row_loss)
    for function in functions:  # each after those it calls
        names[function.__name__] = jit(FunctionType(function.__code__, names, function.__name__))
    return tuple(names[name] for name in ("loss_element", "row_loss", "end_row"))
