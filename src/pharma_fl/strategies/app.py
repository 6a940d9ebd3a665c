"""The coordinator's Flower ServerApp: reads federation.toml, makes the strategy, starts it."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pharma_fl.config import Federation, RosterKeys, federation_file
from pharma_fl.messages.wire import to_arrays
from pharma_fl.model.pretrained import initial_trunk, load_pretrained
from pharma_fl.strategies.checkpoints import Checkpoints
from pharma_fl.strategies.dp_fedavg import DpFedAvg
from pharma_fl.strategies.dp_fedsgd import DpFedSgd
from pharma_fl.strategies.ledger_heads import LedgerHeads
from pharma_fl.strategies.proposal import proposed_plan
from pharma_fl.tracking.mlflow_observer import MlflowObserver

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation, or go on with it where the run configuration says ``resume``."""
    path = federation_file(context.run_config)
    federation = Federation.load(path)
    folder = path.resolve().parent
    observers = [MlflowObserver(federation.tracking)] if federation.tracking.enabled else []
    kind = DpFedSgd if federation.privacy.noise_mode == "shared" else DpFedAvg
    strategy = kind(
        federation,
        proposed_plan(federation),
        Checkpoints(folder / federation.output, keep=federation.keep_checkpoints),
        observers,
        LedgerHeads(folder / federation.ledger_heads),
        keys=None if federation.roster is None else RosterKeys.load(folder / federation.roster),
        run=f"{federation.name}-{context.run_id:016x}",
        flower_run=context.run_id,
    )
    if context.run_config.get("resume"):
        strategy.resume()
    pretrained = None
    if federation.pretrained is not None:
        pretrained = load_pretrained(folder / federation.pretrained, federation.model.pretrained)
    trunk = initial_trunk(federation.model, federation.seed, pretrained)
    strategy.start(grid=grid, initial_arrays=to_arrays(trunk))
