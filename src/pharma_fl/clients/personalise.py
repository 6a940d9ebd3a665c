"""After the last round: the partner's own model from the federated trunk, without noise, because it never leaves.

Nothing here reads or writes the private state's folder except to start from it, so that a later
federated run still starts from noised quantities alone.
"""

from __future__ import annotations

import copy

from torch import Tensor

from pharma_fl.clients.records import open_records, records_at, training_folds
from pharma_fl.clients.start import start_network
from pharma_fl.clients.state import PrivateState
from pharma_fl.config import ModelSettings, Partner
from pharma_fl.errors import ModelError
from pharma_fl.model.ensemble import Ensemble, RecordsAt
from pharma_fl.model.fit import FitSettings, fit, new_network
from pharma_fl.model.network import SparseMultitaskNetwork, load_trunk, trunk_of
from pharma_fl.model.selection import choose
from pharma_fl.model.weights import check_shapes

LOCAL = FitSettings(
    model=ModelSettings(input_bits=4096, input_scale=1.0, hidden=(16,), activation="relu", dropout=0.3, head_start=1.0),
    learning_rate=3e-4,
    epochs=10,
)
"""The partner's own network, which the federated one is averaged with."""


def federated_network(
    partner: Partner, model: ModelSettings, trunk: dict[str, Tensor], *, seed: int, run: str
) -> SparseMultitaskNetwork:
    """Return the federated model as it stands: the trunk with this partner's private heads.

    Parameters
    ----------
    partner : Partner
        Whose heads.
    model : ModelSettings
        The federation's network.
    trunk : dict
        The coordinator's last trunk.
    seed : int
        The federation's; the heads start there where the partner never took part.
    run : str
        Which run the trunk is of; the checkpoint's metadata name it.

    Raises
    ------
    ModelError
        ``PFL-M03`` trunk or heads do not fit the network, ``PFL-M06`` the heads are of another run; those of
        `start_network`.
    """
    network = start_network(partner, model, open_records(partner, model, training_folds(partner)), seed)
    check_shapes(trunk_of(network), trunk, place="The federated trunk")
    load_trunk(network, trunk)
    state = PrivateState.load(partner.path(partner.state))
    if state is not None:
        if state.run != run:
            raise ModelError(
                "PFL-M06",
                f"The partner's heads are of run {state.run}, the trunk is of run {run}. "
                "Personalise before taking part in another run.",
            )
        check_shapes(network.heads.state_dict(), state.heads, place="The partner's stored heads")
        network.heads.load_state_dict(state.heads)
    return network


def personalise(partner: Partner, network: SparseMultitaskNetwork, *, seed: int) -> tuple[str, Ensemble]:
    """Refit the federated model on the partner's own training folds and choose by its validation fold.

    Candidates: the federated model as it stands; its average with the partner's own network at three
    weights; a fine-tuned copy averaged so; a local trunk beside the frozen federated one with new heads,
    trained for two lengths; and the partner's own network alone.

    Parameters
    ----------
    partner : Partner
        Whose data.
    network : SparseMultitaskNetwork
        From `federated_network`.
    seed : int
        Of the order of records and of the local start.

    Returns
    -------
    tuple
        Name of the chosen candidate, and the model.
    """
    candidates = candidates_for(network, records_at(partner, training_folds(partner)), seed)
    name, _ = choose(candidates, records_at(partner, (partner.folds.validation,)))
    return name, candidates[name]


def candidates_for(network: SparseMultitaskNetwork, training: RecordsAt, seed: int) -> dict[str, Ensemble]:
    """Return what personalisation chooses from: as many candidates as the single partner has settings."""
    local = new_network(LOCAL.model, training(LOCAL.model), seed)
    fit(local, training(LOCAL.model), LOCAL, seed=seed)
    tuned = copy.deepcopy(network)
    fit(tuned, training(network.settings), FitSettings(model=network.settings, learning_rate=1e-4, epochs=3), seed=seed)
    weighted = {
        "federated": [(network, 1.0)],
        "average 0.7": [(network, 0.7), (local, 0.3)],
        "average 0.5": [(network, 0.5), (local, 0.5)],
        "average 0.3": [(network, 0.3), (local, 0.7)],
        "tuned average 0.5": [(tuned, 0.5), (local, 0.5)],
        "beside, 3 epochs": [(_beside(network, training, seed, epochs=3), 1.0)],
        "beside, 10 epochs": [(_beside(network, training, seed, epochs=10), 1.0)],
        "local": [(local, 1.0)],
    }
    return {name: Ensemble.of(members, training) for name, members in weighted.items()}


def _beside(network: SparseMultitaskNetwork, training: RecordsAt, seed: int, *, epochs: int) -> SparseMultitaskNetwork:
    # Both trunks read the same rows, so the local one takes the federated input.
    read = {name: getattr(network.settings, name) for name in ("input_bits", "input_transform")}
    model = LOCAL.model.model_copy(update=read)
    records = training(model)
    joint = SparseMultitaskNetwork(
        model,
        class_tasks=network.class_tasks,
        value_tasks=network.value_tasks,
        seed=seed,
        catalogue=records.weights.catalogue,
        beside=copy.deepcopy(network.trunk),
    )
    settings = FitSettings(model=model, learning_rate=LOCAL.learning_rate, epochs=epochs)
    fit(joint, records, settings, seed=seed)
    return joint
