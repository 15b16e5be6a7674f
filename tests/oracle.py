"""Float64 oracle: what every kernel must compute, in plain NumPy; imports nothing of ours.

The formulas are those of scikit-learn 1.9.1, ``sklearn/neural_network/_base.py`` and
``_multilayer_perceptron.py`` (``_backprop``, ``_compute_loss_grad``), and of its
``_stochastic_optimizers.py``. They are written with operators and ufuncs only, so they also
run on the numbers of :mod:`bounds`, which carry an error bound along.

Shapes: ``B`` rows of a batch, ``I`` inputs, ``O`` outputs. Targets ``Y`` are dense (B, O)
here, whatever the kernels read: :func:`one_hot` turns codes into them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.special import betaincinv, erf, expit, log_expit, log_softmax, ndtri, xlogy

OUTPUT_ACTIVATION = {
    "log_loss": "softmax",
    "binary_log_loss": "logistic",
    "squared_error": "identity",
    "poisson": "exp",
}


@dataclass(frozen=True)
class Net:
    """Parameters and what is done with them: weights[l] (I, O), biases[l] (O,)."""

    weights: tuple
    biases: tuple
    activations: tuple  # of the hidden layers: one fewer than weights
    loss: str
    clip: float = np.finfo(np.float64).eps  # probabilities are clipped to [clip, 1 - clip]
    operand: Callable = lambda layer, x: x  # what a layer's products make of what they read

    @property
    def parameters(self):
        return (*self.weights, *self.biases)

    def with_parameters(self, parameters):
        n = len(self.weights)
        return replace(self, weights=tuple(parameters[:n]), biases=tuple(parameters[n:]))


def one_hot(codes, n_classes):
    """Codes (B,) -> dense targets (B, n_classes) of zeros and ones."""
    return (np.asarray(codes)[:, None] == np.arange(n_classes)).astype(float)


def split(flat, widths):
    """Flat vector (P,) -> weights row-major, then biases, for layer widths (I, ..., O)."""
    shapes = [*pairwise(widths), *((o,) for o in widths[1:])]
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(s) for part, s in zip(np.split(flat, ends), shapes, strict=True)]


def philox(counter, key, rounds=10):
    """Philox4x32 (Salmon et al. 2011, section 4.3) on ints: four words of a counter of four words
    and a key of two.
    """
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(rounds):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def random_words(place, shape):
    """Words (B, n) of a generator from (seed, step, op, row, column) on."""
    seed, step, op, row, column = place
    words = np.empty(shape, np.uint32)
    for r in range(shape[0]):
        for i in range(shape[1]):
            counter = (column + i) // 4, row + r, op, step % 2**32
            words[r, i] = philox(counter, (seed % 2**32, seed // 2**32))[(column + i) % 4]
    return words


def bfloat16(x):
    """To the nearest number of 8 significant bits, ties to even; of any exponent."""
    mantissa, exponent = np.frexp(np.asarray(x, dtype=np.float64))
    return np.ldexp(np.rint(mantissa * 2**8), exponent - 8)


# Activations and their derivatives, the derivative from the activation's value h.


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


ACTIVATE = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "logistic": expit,
    "tanh": np.tanh,
    "exp": np.exp,
    "softmax": softmax,
}

SELU_SCALE, SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848
GELU_ROOT, GELU_CUBIC = np.sqrt(8 / np.pi), 0.044715


def _elu(z):
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))


def _softplus(z):
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


def _normal(z):
    return (1 + erf(z / np.sqrt(2))) / 2


def _gelu_sum(z):
    """(1 + tanh(x / 2)) / 2 is expit(x)."""
    return GELU_ROOT * (z + GELU_CUBIC * z**3)


#: Those whose derivative needs the sum z that a unit makes; not for numbers of :mod:`bounds`.
ACTIVATE |= {
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "elu": _elu,
    "selu": lambda z: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * _elu(z)),
    "gelu": lambda z: z * _normal(z),
    "gelu_tanh": lambda z: z * expit(_gelu_sum(z)),
    "silu": lambda z: z * expit(z),
    "mish": lambda z: z * np.tanh(_softplus(z)),
    "softplus": _softplus,
    "softsign": lambda z: z / (1 + np.abs(z)),
    "hard_sigmoid": lambda z: np.clip(z / 6 + 0.5, 0, 1),
    "hard_swish": lambda z: z * np.clip(z / 6 + 0.5, 0, 1),
}

DERIVATIVE_AT = {
    "leaky_relu": lambda z: np.where(z > 0, 1, 0.01),
    "elu": lambda z: np.exp(np.minimum(z, 0)),
    "selu": lambda z: SELU_SCALE * np.where(z > 0, 1, SELU_ALPHA * np.exp(np.minimum(z, 0))),
    "gelu": lambda z: _normal(z) + z * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi),
    "gelu_tanh": lambda z: (
        expit(_gelu_sum(z))
        * (1 + z * expit(-_gelu_sum(z)) * GELU_ROOT * (1 + 3 * GELU_CUBIC * z**2))
    ),
    "silu": lambda z: expit(z) * (1 + z * expit(-z)),
    "mish": lambda z: np.tanh(_softplus(z)) + z * expit(z) / np.cosh(_softplus(z)) ** 2,
    "softplus": expit,
    "softsign": lambda z: 1 / (1 + np.abs(z)) ** 2,
    "hard_sigmoid": lambda z: np.where(np.abs(z) < 3, 1 / 6, 0),
    "hard_swish": lambda z: np.where(np.abs(z) < 3, z / 3 + 0.5, z > 0),
}

DERIVATIVE = {
    "identity": lambda h: 1.0,
    "relu": lambda h: h > 0,
    "logistic": lambda h: h * (1 - h),
    "tanh": lambda h: 1 - h * h,
}


def forward(net, X):
    """Values of every layer, the input first: h[l+1] = activation(h[l] W[l] + b[l])."""
    values, last = [net.operand(0, X)], len(net.weights) - 1
    names = (*net.activations, OUTPUT_ACTIVATION[net.loss])
    for layer, (W, b, name) in enumerate(zip(net.weights, net.biases, names, strict=True)):
        h = ACTIVATE[name](values[-1] @ net.operand(layer, W) + b)
        values.append(net.operand(layer + 1, h) if layer < last else h)
    return values


# Losses whose delta is not (p - y), of outputs Z (B, O) before their activation: each a function of
# (Z, dense targets Y (B, O), *constants) -> losses of rows (B,), deltas dloss/dZ (B, O).


def _summed(loss, delta):
    return np.sum(loss, axis=1), delta


def _pinball(D, levels):
    slope = np.where(D > 0, 1 - levels, np.where(D < 0, -levels, 0))
    return slope * D, slope


def _tweedie(Z, Y, power):
    P = np.exp(Z)
    own = Y**2 if power == 0 else np.maximum(Y, 0.0) ** (2 - power)
    loss = own / ((1 - power) * (2 - power)) - Y * P ** (1 - power) / (1 - power)
    return _summed(loss + P ** (2 - power) / (2 - power), P ** (1 - power) * (P - Y))


def _gamma(Z, Y):
    ratio = Y / np.exp(Z)
    return _summed(ratio - np.log(ratio) - 1, 1 - ratio)


def _binary_focal(Z, Y, gamma, one, zero):
    """Lin et al. (2017), equation 5 and appendix B, p the probability of the label there is."""
    sign, alpha = 2 * Y - 1, np.where(Y > 0, one, zero)
    p, log_p = expit(sign * Z), log_expit(sign * Z)
    rest = expit(-sign * Z)
    delta = alpha * sign * rest**gamma * (gamma * p * log_p - rest)
    return _summed(-alpha * rest**gamma * log_p, delta)


def _binary_hinge(power):
    def loss(Z, Y):
        sign = 2 * Y - 1
        margin = np.maximum(1 - sign * Z, 0)
        return _summed(margin**power, -sign * power * margin ** (power - 1) * (margin > 0))

    return loss


def _smooth_log_loss(Z, Y, smoothing):
    T = (1 - smoothing) * Y + smoothing / Z.shape[1]
    return _summed(-T * log_softmax(Z, axis=1), softmax(Z) - T)


def _focal(Z, Y, gamma):
    P, log_p = softmax(Z), log_softmax(Z, axis=1)
    p, log_p = (P * Y).sum(axis=1), (log_p * Y).sum(axis=1)
    rest = (P * (1 - Y)).sum(axis=1)
    slope = gamma * rest ** (gamma - 1) * p * log_p - rest**gamma  # p times that by p
    return -(rest**gamma) * log_p, slope[:, None] * (Y - P)


def _hinge(power):
    """Crammer and Singer (2001)."""

    def loss(Z, Y):
        rows, others = np.arange(len(Z)), np.where(Y > 0, -np.inf, Z)
        rival = one_hot(others.argmax(axis=1), Z.shape[1])
        margin = np.maximum(1 + others.max(axis=1) - Z[rows, Y.argmax(axis=1)], 0)
        slope = power * margin ** (power - 1) * (margin > 0)
        return margin**power, slope[:, None] * (rival - Y)

    return loss


def ordered(Z):
    """Outputs that never fall: the first, and then the sums of log(1 + exp(z))."""
    return np.cumsum(np.column_stack([Z[:, :1], np.logaddexp(0, Z[:, 1:])]), axis=1)


def _ordered_quantiles(Z, Y, *levels):
    loss, slope = _pinball(ordered(Z) - Y, np.array(levels))
    steps = np.column_stack([np.ones(len(Z)), expit(Z[:, 1:])])
    triangle = np.tril(np.ones((Z.shape[1], Z.shape[1])))  # d output k / d step j, k >= j
    return _summed(loss, slope @ triangle * steps)


LOSSES_OF_Z = {
    "absolute_error": lambda Z, Y: _summed(np.abs(Z - Y), np.sign(Z - Y)),
    "huber": lambda Z, Y, delta: _summed(
        np.where(np.abs(Z - Y) <= delta, 0.5 * (Z - Y) ** 2, delta * (np.abs(Z - Y) - 0.5 * delta)),
        np.clip(Z - Y, -delta, delta),
    ),
    "log_cosh": lambda Z, Y: _summed(np.logaddexp(Z - Y, Y - Z) - np.log(2), np.tanh(Z - Y)),
    "quantile": lambda Z, Y, level: _summed(*_pinball(Z - Y, level)),
    "gamma": _gamma,
    "tweedie": _tweedie,
    "binary_focal": _binary_focal,
    "binary_hinge": _binary_hinge(1),
    "binary_squared_hinge": _binary_hinge(2),
    "smooth_log_loss": _smooth_log_loss,
    "focal": _focal,
    "hinge": _hinge(1),
    "squared_hinge": _hinge(2),
    "ordered_quantiles": _ordered_quantiles,
}


# Losses per row and output, then the weighted mean over rows.


def _elementwise_loss(name, Y, P, clip):
    if name in ("log_loss", "binary_log_loss"):
        P = P.clip(clip, 1 - clip)
    if name == "log_loss":
        return -xlogy(Y, P)
    if name == "binary_log_loss":
        return -(xlogy(Y, P) + xlogy(1 - Y, 1 - P))
    if name == "squared_error":
        return 0.5 * (Y - P) ** 2
    if name == "poisson":  # half the deviance: y log(y / p) - y + p
        return xlogy(Y, Y / P) - Y + P
    raise ValueError(name)


def data_loss(name, Y, P, sample_weight, clip):
    """sum_i w_i l(y_i, p_i) / sum_i w_i, summed over outputs; averaged for squared_error."""
    w = np.ones(len(Y)) if sample_weight is None else sample_weight
    per_output = (_elementwise_loss(name, Y, P, clip) * w[:, None]).sum(axis=0) / w.sum()
    return per_output.sum() / (len(per_output) if name == "squared_error" else 1)


def penalty(net, decay, weight_sum, l1_ratio=0.0):
    """alpha (l1_ratio sum of |w| + (1 - l1_ratio) / 2 sum of w^2) / sum_i w_i; not of biases."""
    squares = 0.5 * decay * sum((W * W).sum() for W in net.weights) / weight_sum
    if l1_ratio == 0:
        return squares
    values = decay * sum(np.abs(W).sum() for W in net.weights) / weight_sum
    return l1_ratio * values + (1 - l1_ratio) * squares


def loss(net, X, Y, sample_weight=None, decay=0.0):
    """The loss scikit-learn reports for a batch."""
    weight_sum = len(Y) if sample_weight is None else sample_weight.sum()
    output = forward(net, X)[-1]
    return data_loss(net.loss, Y, output, sample_weight, net.clip) + penalty(net, decay, weight_sum)


def objective(net, X, Y, sample_weight=None, decay=0.0):
    """The function whose gradient is followed.

    It is the reported loss but for several outputs under squared_error: the loss averages
    over outputs, the gradient ``output - y`` belongs to the sum (``_backprop``).
    """
    n_outputs = len(net.biases[-1]) if net.loss == "squared_error" else 1
    weight_sum = len(Y) if sample_weight is None else sample_weight.sum()
    output = forward(net, X)[-1]
    return n_outputs * data_loss(net.loss, Y, output, sample_weight, net.clip) + penalty(
        net, decay, weight_sum
    )


def gradients(net, X, Y, sample_weight=None, decay=0.0):
    """Loss, and the gradients (weights, then biases): dW = (h'd + alpha W) / sum_i w_i.

    d of the last layer is (p - y) w for every canonical pair; below, d[l-1] = d[l] W[l]' times
    the derivative of the activation.
    """
    w = np.ones(len(Y)) if sample_weight is None else sample_weight
    values = forward(net, X)
    delta = (values[-1] - Y) * w[:, None]
    dW, db = [], []
    for layer in reversed(range(len(net.weights))):
        delta = net.operand(layer, delta)
        dW.insert(0, (values[layer].T @ delta + decay * net.weights[layer]) / w.sum())
        db.insert(0, delta.sum(axis=0) / w.sum())
        if layer:
            name = net.activations[layer - 1]
            if name in DERIVATIVE_AT:
                W, b = net.operand(layer - 1, net.weights[layer - 1]), net.biases[layer - 1]
                slope = DERIVATIVE_AT[name](values[layer - 1] @ W + b)
            else:
                slope = DERIVATIVE[name](values[layer])
            delta = (delta @ net.operand(layer, net.weights[layer]).T) * slope
    value = data_loss(net.loss, Y, values[-1], sample_weight, net.clip)
    return value + penalty(net, decay, w.sum()), [*dW, *db]


def numerical_gradients(net, X, Y, sample_weight=None, decay=0.0, step=1e-5):
    """Central differences of :func:`objective`, one parameter at a time."""
    return central_differences(net, lambda n: objective(n, X, Y, sample_weight, decay), step)


def central_differences(net, value, step):
    """Of a function of a net, by each of its parameters."""
    result = []
    for k, parameter in enumerate(net.parameters):
        slope = np.empty_like(parameter)
        for index in np.ndindex(parameter.shape):
            at = []
            for shift in (step, -step):
                moved = [p.copy() for p in net.parameters]
                moved[k][index] += shift
                at.append(value(net.with_parameters(moved)))
            slope[index] = (at[0] - at[1]) / (2 * step)
        result.append(slope)
    return result


# Optimizers: one step for a list of arrays. Slots are lists of the same shapes.


def sgd_step(parameters, slots, grads, rates, momenta, nesterov):
    """v = momentum v - rate g; p += v, or with Nesterov p += momentum v - rate g."""
    out, velocity = [], []
    for p, v, g, rate, momentum in zip(
        parameters, slots["velocity"], grads, rates, momenta, strict=True
    ):
        v = momentum * v - rate * g
        velocity.append(v)
        out.append(p + (momentum * v - rate * g if nesterov else v))
    return out, {"velocity": velocity}


def adam_step(parameters, slots, grads, rates, beta_1s, beta_2, epsilon):
    """m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= rate m / (sqrt(v) + epsilon).

    The bias corrections are in the rate: lr sqrt(1 - b2^t) / (1 - b1^t), :func:`adam_rate`.
    """
    out, first, second = [], [], []
    moments = zip(slots["first_moment"], slots["second_moment"], strict=True)
    for p, (m, v), g, rate, beta_1 in zip(parameters, moments, grads, rates, beta_1s, strict=True):
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * (g * g)
        first.append(m)
        second.append(v)
        out.append(p - rate * m / (np.sqrt(v) + epsilon))
    return out, {"first_moment": first, "second_moment": second}


def adam_rate(rate, step, beta_1=0.9, beta_2=0.999):
    """Rate of step t = 1, 2, ... with both bias corrections folded in."""
    return rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)


def train(net, slots, data, orders, scalars, batch_size, step):
    """Whole epochs: returns the net, the slots and each epoch's mean loss.

    data : (X, Y, sample_weight or None)
    orders : (E, n) row order of each epoch
    scalars : (E * S, groups, kinds): rate, momentum, decay of each step, of weights and biases
    step : function (parameters, slots, grads, rates, momenta) -> parameters, slots

    A batch's loss counts with its number of rows; a batch of zero weight is skipped whole.
    """
    X, Y, sample_weight = data
    n_layers, losses, at = len(net.weights), [], 0
    for order in orders:
        total = 0.0
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            w = None if sample_weight is None else sample_weight[rows]
            if w is not None and w.sum() == 0:
                continue
            rate, momentum, decay = (np.asarray(scalars)[at, :, kind] for kind in range(3))
            at += 1
            value, grads = gradients(net, X[rows], Y[rows], w, decay[0])
            total = total + value * len(rows)
            new, slots = step(
                net.parameters,
                slots,
                grads,
                [*[rate[0]] * n_layers, *[rate[1]] * n_layers],
                [*[momentum[0]] * n_layers, *[momentum[1]] * n_layers],
            )
            net = net.with_parameters(new)
        losses.append(total / len(order))
    return net, slots, losses


# Dropout, noise and mixup: what training does at random, by the words of the generator.

INPUT_DROPOUT, INPUT_NOISE, MIXUP = 2**30, 2**30 + 1, 2**30 + 2


@dataclass(frozen=True)
class Random:
    """What is drawn for a fit."""

    seed: int
    dropout: tuple = ()  # rate of each hidden layer
    input_dropout: float = 0.0
    input_noise: float = 0.0
    mixup: float = 0.0

    def kept(self, op, step, rate, shape):
        """0 for what is dropped, or the factor of what is not."""
        if not rate:
            return np.ones(shape)
        words = random_words((self.seed, step, op, 0, 0), shape).astype(np.float64)
        return (words >= min(np.rint(rate * 2**32), 2**32 - 1)) / (1 - rate)

    def noise(self, step, shape, bits):
        """Standard normal numbers from so many bits of a word."""
        words = random_words((self.seed, step, INPUT_NOISE, 0, 0), shape) >> (32 - bits)
        return ndtri((words + 0.5) / 2.0**bits)

    def mix(self, step):
        """The share of a row in its pair."""
        word = int(random_words((self.seed, step, MIXUP, 0, 0), (1, 1))[0, 0])
        return betaincinv(self.mixup, self.mixup, (word + 0.5) / 2**32) if self.mixup else 1.0

    def input(self, step, X, bits):
        """A batch as the first layer gets it."""
        mix = self.mix(step)
        X = mix * X + (1 - mix) * X[partners(len(X))]
        if self.input_noise:
            X = X + self.input_noise * self.noise(step, X.shape, bits)
        return X * self.kept(INPUT_DROPOUT, step, self.input_dropout, X.shape)


def partners(n):
    """Row that each of the n rows of a batch is mixed with."""
    return (np.arange(n) + n // 2) % n


def random_gradients(net, random, step, batch, decay=0.0, bits=32):
    """Loss and gradients of a step that draws, as :func:`gradients` has them without that.

    batch : (X, Y, sample_weight or None)
    """
    X, Y, sample_weight = batch
    w = np.ones(len(Y)) if sample_weight is None else sample_weight
    other, mix = partners(len(Y)), random.mix(step)
    values, made = [random.input(step, X, bits)], [None]
    for layer, name in enumerate(net.activations):
        z = values[-1] @ net.weights[layer] + net.biases[layer]
        h = ACTIVATE[name](z)
        kept = random.kept(layer, step, random.dropout[layer], h.shape)
        values.append(h * kept)
        slope = DERIVATIVE_AT[name](z) if name in DERIVATIVE_AT else DERIVATIVE[name](h)
        made.append(slope * kept)
    P = ACTIVATE[OUTPUT_ACTIVATION[net.loss]](values[-1] @ net.weights[-1] + net.biases[-1])
    pairs = [(mix, Y, w), (1 - mix, Y[other], w[other])]
    delta = sum(share * (P - y) * weight[:, None] for share, y, weight in pairs)
    value = sum(share * data_loss(net.loss, y, P, weight, net.clip) for share, y, weight in pairs)
    dW, db = [], []
    for layer in reversed(range(len(net.weights))):
        dW.insert(0, (values[layer].T @ delta + decay * net.weights[layer]) / w.sum())
        db.insert(0, delta.sum(axis=0) / w.sum())
        if layer:
            delta = (delta @ net.weights[layer].T) * made[layer]
    return value + penalty(net, decay, w.sum()), [*dW, *db]


# More optimizers: one step of one array p at rate lr by its gradient g, t = 1, 2, ...; slots is a
# dict of arrays, overwritten. The formulas are those of torch.optim, Lion's of its paper.


def adamw(p, slots, g, t, lr, how):
    """torch.optim.AdamW but for its decay, and with amsgrad."""
    b1, b2 = how.get("beta_1", 0.9), how.get("beta_2", 0.999)
    m = slots["first_moment"] = b1 * slots["first_moment"] + (1 - b1) * g
    v = slots["second_moment"] = b2 * slots["second_moment"] + (1 - b2) * g**2
    if "largest_moment" in slots:
        v = slots["largest_moment"] = np.maximum(slots["largest_moment"], v)
    root = np.sqrt(v / (1 - b2**t)) + how.get("epsilon", 1e-8)
    return p - lr * (m / (1 - b1**t)) / root


def nadam(p, slots, g, t, lr, how):
    """torch.optim.NAdam"""
    b1, b2 = how.get("beta_1", 0.9), how.get("beta_2", 0.999)
    mu = [b1 * (1 - 0.5 * 0.96 ** (i * how.get("momentum_decay", 0.004))) for i in range(t + 2)]
    m = slots["first_moment"] = b1 * slots["first_moment"] + (1 - b1) * g
    v = slots["second_moment"] = b2 * slots["second_moment"] + (1 - b2) * g**2
    root = np.sqrt(v / (1 - b2**t)) + how.get("epsilon", 1e-8)
    product = np.prod(mu[1 : t + 1])
    p = p - lr * (1 - mu[t]) / (1 - product) * g / root
    return p - lr * mu[t + 1] / (1 - product * mu[t + 1]) * m / root


def rmsprop(p, slots, g, t, lr, how):
    """torch.optim.RMSprop with momentum"""
    b2 = how.get("beta_2", 0.99)
    v = slots["second_moment"] = b2 * slots["second_moment"] + (1 - b2) * g**2
    u = g / (np.sqrt(v) + how.get("epsilon", 1e-8))
    u = slots["velocity"] = how.get("momentum", 0.0) * slots["velocity"] + u
    return p - lr * u


def adagrad(p, slots, g, t, lr, how):
    """torch.optim.Adagrad"""
    s = slots["sum_of_squares"] = slots["sum_of_squares"] + g**2
    return p - lr * g / (np.sqrt(s) + how.get("epsilon", 1e-10))


def lion(p, slots, g, t, lr, how):
    """Chen et al. (2023), algorithm 2."""
    b1, b2, m = how.get("beta_1", 0.9), how.get("beta_2", 0.99), slots["first_moment"]
    slots["first_moment"] = b2 * m + (1 - b2) * g
    return p - lr * np.sign(b1 * m + (1 - b1) * g)


def sgd(p, slots, g, t, lr, how):
    """v = momentum v - lr g; p moves by v, or with Nesterov by momentum v - lr g."""
    momentum = how.get("momentum", 0.9)
    v = slots["velocity"] = momentum * slots["velocity"] - lr * g
    return p + (momentum * v - lr * g if how.get("nesterov", True) else v)


def adam(p, slots, g, t, lr, how):
    """adam_step for one array."""
    b1, b2, epsilon = how.get("beta_1", 0.9), how.get("beta_2", 0.999), how.get("epsilon", 1e-8)
    lists = {name: [slot] for name, slot in slots.items()}
    new, moved = adam_step([p], lists, [g], [adam_rate(lr, t, b1, b2)], [b1], b2, epsilon)
    slots.update({name: slot[0] for name, slot in moved.items()})
    return new[0]


def orthogonal(G):
    """torch.optim's _zeropower_via_newtonschulz, in the dtype of G instead of bfloat16."""
    X = G.T if G.shape[0] > G.shape[1] else G
    X = X / max(np.linalg.norm(X), 1e-7)
    for _ in range(5):
        A = X @ X.T
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return X.T if G.shape[0] > G.shape[1] else X


def muon(p, slots, g, t, lr, how):
    """torch.optim.Muon of weights between hidden units, else AdamW, each with its decay."""
    decay = how["decay"] if p.ndim == 2 else 0.0
    if not how["hidden"]:
        lr = lr * how["adamw_rate"]
        return adamw(p * (1 - lr * decay), slots, g, t, lr, how)
    mu, (n_in, n_out) = how["momentum"], p.shape
    m = slots["first_moment"] = mu * slots["first_moment"] + (1 - mu) * g
    d = mu * m + (1 - mu) * g if how["nesterov"] else m
    scale = max(1, n_out / n_in) ** 0.5
    if how["adjust_lr_fn"] == "match_rms_adamw":
        scale = 0.2 * max(n_in, n_out) ** 0.5
    return p * (1 - lr * decay) - lr * scale * orthogonal(d)


def train_with(net, moments, data, orders, batch_size, rule, how):
    """Whole epochs by one of the rules above, with all that may be asked for besides it.

    how : dict with lr, alpha, l1_ratio, weight_decay, clip_norm, clip_value, max_norm, average
        (what is kept of an average by step, bias-corrected), and the rule's own constants

    Returns the net, the slots as {name: list of arrays} with the "average", and epochs' losses.
    """
    X, Y, sample_weight = data
    slots = [{name: np.zeros(p.shape) for name in moments} for p in net.parameters]
    total = [np.zeros(p.shape) for p in net.parameters]
    kept, t, losses, n = how.get("average", 0.0), 0, [], len(net.weights)
    l1_ratio, alpha = how.get("l1_ratio", 0.0), how.get("alpha", 0.0)
    for order in orders:
        loss_of_epoch = 0.0
        for start in range(0, len(order), batch_size):
            rows, t = order[start : start + batch_size], t + 1
            w = None if sample_weight is None else sample_weight[rows]
            weight = len(rows) if w is None else w.sum()
            value, grads = gradients(net, X[rows], Y[rows], w, 0.0)
            value = value + penalty(net, alpha, weight, l1_ratio)
            loss_of_epoch += value * len(rows)
            for k, W in enumerate(net.weights):
                slope = (1 - l1_ratio) * W + l1_ratio * np.sign(W)
                grads[k] = grads[k] + alpha * slope / weight
            if how.get("clip_norm"):
                norm = np.sqrt(sum((g**2).sum() for g in grads))
                grads = [g * min(1.0, how["clip_norm"] / (norm + 1e-6)) for g in grads]
            if how.get("clip_value"):
                grads = [np.clip(g, -how["clip_value"], how["clip_value"]) for g in grads]
            new = []
            for k, (p, g) in enumerate(zip(net.parameters, grads, strict=True)):
                if k < n:
                    p = p * (1 - how["lr"] * how.get("weight_decay", 0.0))
                hidden = 0 < k < n - 1  # weights from hidden units to hidden units
                new.append(rule(p, slots[k], g, t, how["lr"], how | {"hidden": hidden}))
            if how.get("max_norm"):
                for k in range(n):
                    norms = np.linalg.norm(new[k], axis=0)
                    new[k] = new[k] * np.where(norms > how["max_norm"], how["max_norm"] / norms, 1)
            net = net.with_parameters(new)
            total = [kept * a + (1 - kept) * p for a, p in zip(total, new, strict=True)]
        losses.append(loss_of_epoch / len(order))
    arrays = {name: [slot[name] for slot in slots] for name in moments}
    if kept:
        arrays["average"] = [a / (1 - kept**t) for a in total]
    return net, arrays, losses
