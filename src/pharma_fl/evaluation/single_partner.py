"""The baseline that federation must beat: the partner alone, without privacy, tuned fairly.

It gets as many tries as personalisation, on the same validation fold, and each try averages two networks,
because a personalised model may average two as well.
"""

from __future__ import annotations

from pharma_fl.config.federation import ModelSettings
from pharma_fl.model.ensemble import Ensemble, RecordsAt
from pharma_fl.model.fit import FitSettings, fit, new_network
from pharma_fl.model.selection import choose

_NETWORKS = 2


def _try(
    bits: int,
    hidden: int,
    learning_rate: float,
    epochs: int,
    *,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    activation: str = "relu",
) -> FitSettings:
    model = ModelSettings.model_validate(
        {
            "input_bits": bits,
            "input_scale": scale,
            "hidden": (hidden,),
            "activation": activation,
            "dropout": dropout,
            "head_start": 1.0,
        }
    )
    return FitSettings(model=model, learning_rate=learning_rate, epochs=epochs, weight_decay=weight_decay)


SETTINGS = {
    "4096 bits, 16 units": _try(4096, 16, 3e-4, 10, dropout=0.3),
    "4096 bits, 32 units": _try(4096, 32, 3e-4, 15, scale=0.15),
    "4096 bits, 32 units, tanh": _try(4096, 32, 3e-4, 20, dropout=0.3, weight_decay=10.0, scale=0.4, activation="tanh"),
    "4096 bits, 16 units, decayed": _try(4096, 16, 1e-3, 15, weight_decay=10.0, scale=0.15),
    "4096 bits, 32 units, tanh, fast": _try(4096, 32, 3e-3, 2, dropout=0.3, scale=0.4, activation="tanh"),
    "8192 bits, 16 units": _try(8192, 16, 1e-3, 6, dropout=0.5, weight_decay=3.0, scale=0.4),
    "2048 bits, 64 units": _try(2048, 64, 3e-4, 10, dropout=0.5),
    "1024 bits, 64 units": _try(1024, 64, 1e-3, 5, dropout=0.5),
}
"""What a partner alone tries."""


def single_partner(training: RecordsAt, validation: RecordsAt, *, seed: int) -> tuple[str, Ensemble]:
    """Train every setting on the training folds and choose by the validation fold.

    Returns
    -------
    tuple
        Name of the chosen setting, and the model.
    """
    candidates = {}
    for name, settings in SETTINGS.items():
        networks = []
        for number in range(_NETWORKS):
            own = _NETWORKS * seed + number
            network = new_network(settings.model, training(settings.model), own)
            fit(network, training(settings.model), settings, seed=own)
            networks.append((network, 1.0))
        candidates[name] = Ensemble.of(networks, training)
    name, _ = choose(candidates, validation)
    return name, candidates[name]
