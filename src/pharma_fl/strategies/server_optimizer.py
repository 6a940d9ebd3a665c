"""How the coordinator moves the trunk: PyTorch's optimizers over the partners' weighted mean change."""

from __future__ import annotations

import torch
from torch import Tensor

from pharma_fl.config import TrainingSettings


class ServerOptimizer:
    """Steps the trunk against the mean change, as adaptive federated optimisation does.

    With ``server_optimizer = "sgd"``, learning rate 1 and momentum 0 this is federated averaging. The
    input is noised, so whatever happens here is post-processing.

    References
    ----------
    Reddi et al. 2021, arXiv 2003.00295, algorithm 2.
    """

    def __init__(self, trunk: dict[str, Tensor], settings: TrainingSettings) -> None:
        self._parameters = {name: torch.nn.Parameter(value.clone()) for name, value in trunk.items()}
        parameters = list(self._parameters.values())
        rate, momentum = settings.server_learning_rate, settings.server_momentum
        self._optimizer: torch.optim.Optimizer
        if settings.server_optimizer == "adam":
            self._optimizer = torch.optim.Adam(parameters, lr=rate, betas=(momentum, 0.999))
        else:
            self._optimizer = torch.optim.SGD(parameters, lr=rate, momentum=momentum)

    @property
    def trunk(self) -> dict[str, Tensor]:
        """A copy of the current trunk."""
        return {name: value.detach().clone() for name, value in self._parameters.items()}

    @property
    def state(self) -> dict[str, Tensor]:
        """What the next step depends on besides the trunk, by ``parameter/quantity``; empty before the first step."""
        return {
            f"{name}/{quantity}": torch.as_tensor(value).detach().clone()
            for name, parameter in self._parameters.items()
            for quantity, value in self._optimizer.state[parameter].items()
            if value is not None
        }

    def resume(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`, bit for bit."""
        for name, parameter in self._parameters.items():
            prefix = f"{name}/"
            own = {key.removeprefix(prefix): value.clone() for key, value in state.items() if key.startswith(prefix)}
            if own:
                self._optimizer.state[parameter] = own

    def step(self, mean_change: dict[str, Tensor]) -> None:
        """Move the trunk along the mean change."""
        for name, parameter in self._parameters.items():
            parameter.grad = -mean_change[name]
        self._optimizer.step()


def weighted_mean(changes: dict[str, dict[str, Tensor]], weights: dict[str, float]) -> dict[str, Tensor]:
    """Average the changes of the partners that answered, by their public weights."""
    total = sum(weights[partner] for partner in changes)
    names = next(iter(changes.values())).keys()
    return {
        name: torch.stack([change[name] * (weights[partner] / total) for partner, change in changes.items()]).sum(0)
        for name in names
    }


def norm(tensors: dict[str, Tensor]) -> float:
    """Euclidean norm of all entries together."""
    return float(torch.sqrt(sum((t.double().square().sum() for t in tensors.values()), start=torch.tensor(0.0))))
