"""PyTorch's own derivatives as a second, independent judge."""

import numpy as np
import pytest

from hotloop import MLPClassifier, MLPRegressor, backends, plan, spec, vectors

torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")

ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "logistic": torch.sigmoid,
    "tanh": torch.tanh,
}
LOSSES = {
    "log_loss": lambda z, y: torch.nn.functional.cross_entropy(z, y, reduction="none"),
    "binary_log_loss": lambda z, y: torch.nn.functional.binary_cross_entropy_with_logits(
        z, y, reduction="none"
    ).sum(1),
    "squared_error": lambda z, y: 0.5 * ((z - y) ** 2).mean(1),
    # Half the deviance; what depends on y alone is put back.
    "poisson": lambda z, y: (torch.exp(z) - y * z + torch.xlogy(y, y) - y).sum(1),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_and_gradient_are_autograds(activation, loss):
    """Weighted loss with its penalty and all gradients, in double precision."""
    rng = np.random.RandomState(0)
    n, widths, alpha = 37, (11, 18, 7, 3), 0.3
    X, weight = rng.randn(n, widths[0]), rng.uniform(0.1, 2, n)
    codes = spec.LOSSES[loss].targets == "codes"
    y = rng.randint(0, 3, n) if codes else rng.randint(0, 2, (n, 3)).astype(float)
    hidden = [spec.Dense(units, activation) for units in widths[1:-1]]
    network = spec.Network((widths[0],), (*hidden, spec.Dense(3)), spec.LOSSES[loss])
    parameters = vectors.init_parameters(network, rng, np.float64)
    streams = {"X": X, "y": y, "sample_weight": weight}
    runner = backends.open_runner(plan.compile_gradients(network, dtype="f8"), None, streams)
    gradient = np.empty_like(parameters)
    value = runner.gradients(parameters, gradient, decay=alpha)

    flat = torch.tensor(parameters, requires_grad=True)
    weights, biases = vectors.weight_views(network, flat)
    h = torch.tensor(X)
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        h = ACTIVATIONS[activation](h @ w + b)
    losses = LOSSES[loss](h @ weights[-1] + biases[-1], torch.tensor(y))
    penalty = 0.5 * alpha * sum((w**2).sum() for w in weights)
    expected = ((losses * torch.tensor(weight)).sum() + penalty) / weight.sum()
    expected.backward()
    # The gradient is of the sum over outputs, though scikit-learn reports squared error's mean.
    scale = 3 if loss == "squared_error" else 1
    grad = scale * flat.grad.numpy()
    for g, w in zip(vectors.weight_views(network, grad)[0], weights, strict=True):
        g -= (scale - 1) * alpha * w.detach().numpy() / weight.sum()
    assert value == pytest.approx(expected.item(), rel=1e-12)
    assert np.linalg.norm(gradient - grad) <= 1e-12 * np.linalg.norm(grad)


@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
def test_predictions_are_those_of_a_torch_module(Estimator):
    """The fitted weights mean to PyTorch what they mean to us."""
    rng = np.random.RandomState(0)
    X = rng.randn(60, 5)
    y = rng.randint(0, 3, 60) if Estimator is MLPClassifier else X[:, 0] ** 2
    est = Estimator(
        hidden_layer_sizes=(8,), solver="lbfgs", random_state=0, max_iter=2000, tol=1e-3
    )
    est.fit(X, y)
    h = torch.tensor(X)
    for i, (w, b) in enumerate(zip(est.coefs_, est.intercepts_, strict=True)):
        h = h @ torch.tensor(w) + torch.tensor(b)
        h = torch.relu(h) if i == 0 else h
    if Estimator is MLPClassifier:
        np.testing.assert_allclose(est.predict_proba(X), torch.softmax(h, 1), rtol=1e-9, atol=1e-12)
    else:
        np.testing.assert_allclose(est.predict(X), h.ravel(), rtol=1e-9, atol=1e-9)
