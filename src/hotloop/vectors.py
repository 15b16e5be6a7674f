"""The flat vector of a network's parameters: where each lies, what it starts from, its moments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from hotloop.spec import Function, Network, Optimizer

#: What the vectors of a normalization start from, in their order in the flat vector. Running means
#: and variances are no parameters, but all that copies or compares weights is to take them along.
NORM_START = {"scale": 1.0, "mean": 0.0, "variance": 1.0}
#: What the flat vector has of the layers, in this order.
PARTS = ("weight", "bias", *NORM_START)
LINE_BYTES = 64
#: How weights may be drawn, besides "auto"; see `init_parameters`.
INITS = (
    *("glorot_uniform", "glorot_normal", "he_uniform", "he_normal"),
    *("lecun_uniform", "lecun_normal", "orthogonal"),
)
#: Activations that lose about half of the squares of what they read.
HALVING = (
    *("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "mish", "softplus", "hard_swish"),
)
#: What "auto" stands for, where it is not scikit-learn's draw.
AUTO: Mapping[str | Function, str] = MappingProxyType(
    {
        **dict.fromkeys(set(HALVING) - {"relu"}, "he_normal"),
        "selu": "lecun_normal",
        "softsign": "glorot_uniform",
        "hard_sigmoid": "glorot_uniform",
    }
)


@dataclass
class State:
    """What training changes, in plain row-major arrays with a leading model axis M = 1.

    Attributes
    ----------
    parameters : ndarray of shape (M, P) or None
        All weights, each (I, O) row-major, in the order of the layers, then all biases, and the
        vectors of normalizations, see `PARTS`. None where only the moments are wanted.
    slots : dict of str to ndarray of shape (M, P)
        The optimizer's moments, laid out as the parameters; one that is not there is zero.
    step : int
        Optimizer steps taken so far.
    seed : int
        Key of the random words of dropout, noise and mixup, 64 bits; the number of a step says
        which are its own.
    """

    parameters: np.ndarray | None
    slots: dict[str, np.ndarray]
    step: int = 0
    seed: int = 0


def layer_shapes(network: Network) -> list[tuple[int, int]]:
    """(I, O) of each layer."""
    shapes, shape = [], network.in_shape
    for layer in network.layers:
        out = layer.out_shape(shape)
        shapes.append((shape[0], out[0]))
        shape = out
    return shapes


def functions_of(network: Network) -> tuple[Function, ...]:
    """The user's functions in a network, each once."""
    activations = [layer.activation for layer in network.layers]
    found = [f for f in (*activations, network.loss.function) if isinstance(f, Function)]
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=64)
def parameter_views(network: Network) -> Mapping[str, tuple[int, tuple[int, ...]]]:
    """Offset and shape of each parameter in the flat vector, in the order of `PARTS`."""
    views: dict[str, tuple[int, tuple[int, ...]]] = {}
    offset, shape, shapes = 0, network.in_shape, []
    for layer in network.layers:
        shapes.append(layer.param_shapes(shape))
        shape = layer.out_shape(shape)
    for name in PARTS:
        for i, params in enumerate(shapes):
            if name in params:
                views[f"{name}_{i}"] = (offset, params[name])
                offset += math.prod(params[name])
    return MappingProxyType(views)


def n_parameters(network: Network) -> int:
    """Length of the flat parameter vector."""
    return max(end for _, end, _ in _places(network))


def weight_views(network: Network, flat: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights and biases as views into one flat vector of shape (P,); nothing is copied."""
    weights, vectors = record_views(network, flat)
    return weights[: len(network.layers)], vectors[: len(network.layers)]


def norm_views(network: Network, flat: np.ndarray) -> dict[str, list[np.ndarray]]:
    """The vectors of normalizations in the same way: "scale", "mean" and "variance", each a list of
    (O,) that is empty if there is none.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in NORM_START}
    for name, (start, shape) in parameter_views(network).items():
        part = name.partition("_")[0]
        if part in found:
            found[part].append(flat[start : start + shape[0]])
    return found


def record_views(network: Network, flat: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Views in the order of a plan's `parameter_ops`: those of :func:`weight_views`, then the
    vectors of normalizations, each beside a weight without rows.
    """
    arrays = [flat[start:end].reshape(shape) for start, end, shape in _places(network)]
    n = len(network.layers)
    return with_vectors(arrays[:n], arrays[n : 2 * n], arrays[2 * n :])


def with_vectors(
    weights: list[np.ndarray], biases: list[np.ndarray], vectors: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights and biases of layers, followed by vectors of normalizations."""
    return [*weights, *(v[:0].reshape(0, len(v)) for v in vectors)], [*biases, *vectors]


@lru_cache(maxsize=64)
def _places(network: Network) -> list[tuple[int, int, tuple[int, ...]]]:
    """Where each parameter starts and ends in the flat vector, and its shape."""
    views = parameter_views(network).values()
    return [(start, start + math.prod(shape), shape) for start, shape in views]


def empty_vector(size: int, dtype: np.dtype | type) -> np.ndarray:
    """A vector that starts at a cache line, as predictions of a row read it soonest."""
    n_bytes = size * np.dtype(dtype).itemsize
    memory = np.empty(n_bytes + LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % LINE_BYTES
    return memory[start : start + n_bytes].view(dtype)


def init_parameters(
    network: Network,
    rng: np.random.RandomState,
    dtype: np.dtype | type,
    init: str = "auto",
    output: str | Function | None = None,
) -> np.ndarray:
    """Initial parameters, shape (P,), drawn in float64: weight, then bias, of each layer.

    Parameters
    ----------
    network : Network
    rng : RandomState
    dtype : dtype
        Of the result.
    init : {"auto"} or one of INITS, default="auto"
        "auto": of identity, relu, logistic, tanh and functions of the user as scikit-learn draws,
        ``uniform(-b, b, (I, O))`` and then ``uniform(-b, b, O)`` with ``b = sqrt(6 / (I + O))``,
        or 2 under logistic; of the others what AUTO names. All but scikit-learn's have biases of
        zero. Fans are the inputs I of a layer and its outputs O.
    output : str or Function, default=None
        The activation that the output layer is drawn for; None: that of the last hidden one, or of
        none.

    References
    ----------
    Glorot and Bengio (2010), "Understanding the difficulty of training deep feedforward
    neural networks", equation 16. LeCun, Bottou, Orr and Mueller (1998), "Efficient BackProp",
    equation 16. He, Zhang, Ren and Sun (2015), "Delving deep into rectifiers", equation 10. Saxe,
    McClelland and Ganguli (2014), "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks", section 3. Klambauer, Unterthiner, Mayr and Hochreiter (2017),
    "Self-normalizing neural networks", for selu.
    """
    flat = without_weights(network, dtype)
    weights, biases = weight_views(network, flat)
    hidden = [layer.activation for layer in network.layers[:-1]]
    drawn_for = [*hidden, output or (hidden[-1] if hidden else "identity")]
    for weight, bias, activation in zip(weights, biases, drawn_for, strict=True):
        scheme = AUTO.get(activation) if init == "auto" else init
        if scheme is not None:
            weight[...] = _drawn(scheme, activation, rng, weight.shape)
            bias[...] = 0
            continue
        bound = np.sqrt((2.0 if activation == "logistic" else 6.0) / sum(weight.shape))
        weight[...] = rng.uniform(-bound, bound, weight.shape)
        bias[...] = rng.uniform(-bound, bound, bias.shape)
    return flat


def without_weights(network: Network, dtype: np.dtype | type) -> np.ndarray:
    """A flat vector of which only the vectors of normalizations are set, to where they start."""
    flat = empty_vector(n_parameters(network), dtype)
    for name, vectors in norm_views(network, flat).items():
        for vector in vectors:
            vector[...] = NORM_START[name]
    return flat


def _drawn(
    scheme: str, activation: str | Function, rng: np.random.RandomState, shape: tuple[int, ...]
) -> np.ndarray:
    """A weight (I, O): its elements have variance 2 / (I + O) by Glorot, 1 / I by LeCun, 2 / I by
    He; or it has orthogonal columns, or rows if these are fewer, of norm 1, and root 2 under what
    is drawn for by He, as half of its squares are lost there.
    """
    I, O = shape
    if scheme == "orthogonal":
        q, r = np.linalg.qr(rng.normal(size=(max(shape), min(shape))))
        q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # else they would not be uniform
        gain = np.sqrt(2.0) if activation in HALVING else 1.0
        return gain * (q if I >= O else q.T)
    rule, _, distribution = scheme.partition("_")
    variance = {"glorot": 2.0 / (I + O), "he": 2.0 / I, "lecun": 1.0 / I}[rule]
    if distribution == "normal":
        return rng.normal(0.0, np.sqrt(variance), shape)
    bound = np.sqrt(3 * variance)
    return rng.uniform(-bound, bound, shape)


def new_state(parameters: np.ndarray, optimizer: Optimizer) -> State:
    """A state at step 0 around a flat parameter vector of shape (P,)."""
    start = parameters.reshape(1, -1)
    return State(start, {name: new_slot(name, start) for name in optimizer.slots})


def new_slot(name: str, parameters: np.ndarray) -> np.ndarray:
    """What an optimizer keeps before its first step: zeros, but of an average the parameters."""
    return parameters.copy() if name == "average" else np.zeros_like(parameters)


def slot_fields(optimizer: Optimizer | None) -> tuple[str, ...]:
    """What the slots of an optimizer are called in an op, after "weight_" and "bias_"."""
    names = optimizer.slots if optimizer else ()
    return tuple("average" if s == "average" else f"slot_{k}" for k, s in enumerate(names))
