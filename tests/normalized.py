"""Float64 oracle of networks with batch or layer normalisation; imports nothing of ours.

Of a hidden layer: z = h W (no bias), n = (z - mean) / sqrt(variance + epsilon), h =
activation(scale n + bias). Means and variances are of the columns of a batch (axis 0: Ioffe and
Szegedy 2015) or of each row (axis 1: Ba, Kiros and Hinton 2016). Shapes are those of
:mod:`oracle`, which has the losses.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

import oracle


@dataclass(frozen=True)
class Net:
    """Parameters, running statistics of columns, and what is done with them."""

    weights: list
    biases: list
    scales: list
    means: list  # empty of rows, and so is the next
    variances: list
    activations: tuple
    loss: str
    axis: int  # 0: columns of a batch; 1: rows
    epsilon: float = 1e-5
    momentum: float = 0.1

    @property
    def parameters(self):
        return [*self.weights, *self.biases, *self.scales]

    @property
    def flat(self):
        """As hotloop has them, (P,)."""
        parts = (*self.parameters, *self.means, *self.variances)
        return np.concatenate([part.ravel() for part in parts])

    def with_parameters(self, parameters):
        n = len(self.weights)
        weights, biases, scales = parameters[:n], parameters[n : 2 * n], parameters[2 * n :]
        return replace(self, weights=list(weights), biases=list(biases), scales=list(scales))


def make(rng, widths, activations, loss, axis, **how):
    """A net of random parameters and running statistics."""
    hidden = widths[1:-1]
    running = hidden if axis == 0 else ()
    return Net(
        [rng.normal(size=(i, o)) / np.sqrt(i) for i, o in pairwise(widths)],
        [rng.normal(size=o) / 2 for o in widths[1:]],
        [rng.uniform(0.5, 1.5, o) for o in hidden],
        [rng.normal(size=o) / 4 for o in running],
        [rng.uniform(0.5, 1.5, o) for o in running],
        activations,
        loss,
        axis,
        **how,
    )


def split(net, flat):
    """A flat vector cut like `Net.flat`: one list of arrays."""
    shapes = [part.shape for part in (*net.parameters, *net.means, *net.variances)]
    ends = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(s) for part, s in zip(np.split(flat, ends), shapes, strict=True)]


def normalize(net, layer, z, *, running):
    """n, and the inverse deviations it was made with."""
    if running and net.axis == 0:
        mean, variance = net.means[layer], net.variances[layer]
    else:
        mean = z.mean(axis=net.axis, keepdims=True)
        variance = ((z - mean) ** 2).mean(axis=net.axis, keepdims=True)
    inverse = 1 / np.sqrt(variance + net.epsilon)
    return (z - mean) * inverse, inverse


def forward(net, X, *, running=False):
    """Values of every layer, the input first; n and inverse deviations of the hidden ones."""
    values, normalized, inverses = [X], [], []
    for layer, name in enumerate(net.activations):
        n, inverse = normalize(net, layer, values[-1] @ net.weights[layer], running=running)
        normalized.append(n)
        inverses.append(inverse)
        values.append(oracle.ACTIVATE[name](net.scales[layer] * n + net.biases[layer]))
    last = values[-1] @ net.weights[-1] + net.biases[-1]
    values.append(oracle.ACTIVATE[oracle.OUTPUT_ACTIVATION[net.loss]](last))
    return values, normalized, inverses


def loss(net, X, Y, weight, decay):
    """What a batch is reported to lose."""
    output = forward(net, X)[0][-1]
    clip = np.finfo(np.float64).eps
    data = oracle.data_loss(net.loss, Y, output, weight, clip)
    return data + 0.5 * decay * sum((W * W).sum() for W in net.weights) / weight.sum()


def gradients(net, X, Y, weight, decay):
    """Gradients of weights, biases and scales, in this order.

    With means over what was normalised over and g the delta of n:
    dz = (g - mean(g) - n mean(g n)) / deviation.
    """
    values, normalized, inverses = forward(net, X)
    delta, dW, db, ds = (values[-1] - Y) * weight[:, None], [], [], []
    for layer in reversed(range(len(net.weights))):
        if layer < len(net.activations):
            n, axis = normalized[layer], net.axis
            delta = delta * oracle.DERIVATIVE[net.activations[layer]](values[layer + 1])
            db.insert(0, delta.sum(axis=0))
            ds.insert(0, (delta * n).sum(axis=0))
            g = delta * net.scales[layer]
            means = g.mean(axis=axis, keepdims=True), (g * n).mean(axis=axis, keepdims=True)
            delta = inverses[layer] * (g - means[0] - n * means[1])
        else:
            db.insert(0, delta.sum(axis=0))
        dW.insert(0, values[layer].T @ delta + decay * net.weights[layer])
        delta = delta @ net.weights[layer].T
    return [g / weight.sum() for g in (*dW, *db, *ds)]


def numerical_gradients(net, X, Y, weight, decay, step=1e-6):
    """Central differences of the loss; several outputs of squared_error are not averaged."""
    return oracle.central_differences(net, lambda n: loss(n, X, Y, weight, decay), step)


def smoothed(net, X):
    """The net with running statistics that have taken note of a batch."""
    if net.axis == 1:
        return net
    values, means, variances = forward(net, X)[0], [], []
    n, m = len(X), net.momentum
    for layer in range(len(net.activations)):
        z = values[layer] @ net.weights[layer]
        means.append((1 - m) * net.means[layer] + m * z.mean(axis=0))
        kept = net.variances[layer]
        variances.append((1 - m) * kept + m * z.var(axis=0, ddof=1) if n > 1 else kept)
    return replace(net, means=means, variances=variances)


def train(net, data, orders, batch_size, step, decay):
    """Whole epochs: the net, and the mean loss of each; `step` from parameters and gradients."""
    X, Y, weight = data
    losses = []
    for order in orders:
        total = 0.0
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = X[rows], Y[rows], weight[rows]
            total += loss(net, *batch, decay) * len(rows)
            new = step(net.parameters, gradients(net, *batch, decay))
            net = smoothed(net, X[rows]).with_parameters(new)
        losses.append(total / len(order))
    return net, losses
