"""`pharma-fl budget plan`: noise, rate, rounds and epsilon, of which the one that is left out is worked out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pharma_fl.cli.budget_show import finite, text
from pharma_fl.cli.output import console, print_json, table
from pharma_fl.cli.prepare import JsonOption
from pharma_fl.config.federation import MOST_STEPS

if TYPE_CHECKING:
    from pharma_fl.privacy.charge import Charge

_ROUNDS = (0.25, 0.5, 1.0, 2.0, 4.0)
_NOISES = (0.5, 0.75, 1.0, 1.5, 2.0)


def plan(
    epsilon: Annotated[float | None, typer.Option(min=0.001, help="What the run may cost.")] = None,
    noise_multiplier: Annotated[float | None, typer.Option(min=0.05, max=10_000, help="Noise over the clip.")] = None,
    sample_rate: Annotated[float | None, typer.Option(min=1e-6, max=1, help="Probability of a unit in a step.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=100_000, help="Rounds of the run.")] = None,
    local_steps: Annotated[int, typer.Option(min=1, max=10_000, help="Private steps a round.")] = 10,
    delta: Annotated[float, typer.Option(min=1e-12, max=0.5, help="Where epsilon is measured.")] = 1e-5,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw epsilon by rounds and noise.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Work out which of epsilon, noise multiplier, sample rate and rounds is left out, never above the epsilon given.

    The unit is what is sampled and clipped as one: a compound, or with privacy.unit = "series" a scaffold family.

    Example: `pharma-fl budget plan --epsilon 3 --rounds 200 --sample-rate 0.05 --local-steps 1`
    """
    given = {"epsilon": epsilon, "noise_multiplier": noise_multiplier, "sample_rate": sample_rate, "rounds": rounds}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) != 1:
        left = ", ".join(missing) or "none"
        raise typer.BadParameter(f"leave out exactly one of {', '.join(given)}; left out: {left}.")
    if rounds is not None and rounds * local_steps > MOST_STEPS:
        raise typer.BadParameter(f"expected rounds * local steps <= {MOST_STEPS:,}, as in training of federation.toml.")
    charge = _solved(epsilon, noise_multiplier, sample_rate, rounds, local_steps, delta)
    found = _described(charge, local_steps, delta, missing[0], epsilon)
    trade = _trade(charge, local_steps, delta)
    if plot is not None:
        from pharma_fl.tracking.budget_chart import draw_trade

        draw_trade(plot, trade, found["epsilon"], charge.steps // local_steps)
    if as_json:
        print_json(finite({**found, "trade": trade}))
        return
    rows = [[key.replace("_", " "), text(value)] for key, value in found.items()]
    console.print(table("The plan", ["what", "value"], rows))
    noises = list(dict.fromkeys(row["noise_multiplier"] for row in trade))
    by_rounds: dict[int, list[str]] = {}
    for row in trade:
        by_rounds.setdefault(row["rounds"], []).append(f"{row['epsilon']:.3g}")
    header = ["rounds", *(f"noise {noise:.3g}" for noise in noises)]
    rows = [[str(count), *cells] for count, cells in by_rounds.items()]
    console.print(table(f"Epsilon at delta {delta:g} with more or fewer rounds and noise", header, rows))


def _solved(
    epsilon: float | None,
    noise: float | None,
    rate: float | None,
    rounds: int | None,
    local_steps: int,
    delta: float,
) -> Charge:
    from pharma_fl.privacy import calibration
    from pharma_fl.privacy.charge import Charge

    steps = (rounds or 0) * local_steps
    if epsilon is None:
        assert noise is not None
        assert rate is not None
        return Charge(rate, noise, steps)
    if noise is None:
        assert rate is not None
        noise = calibration.calibrate_noise(target_epsilon=epsilon, delta=delta, sample_rate=rate, steps=steps)
    elif rate is None:
        rate = calibration.calibrate_sample_rate(
            target_epsilon=epsilon, delta=delta, noise_multiplier=noise, steps=steps
        )
    else:
        steps = calibration.calibrate_steps(
            target_epsilon=epsilon, delta=delta, sample_rate=rate, noise_multiplier=noise
        )
        # Rounds are paid for whole.
        steps -= steps % local_steps
    return Charge(rate, noise, steps)


def _described(charge: Charge, local_steps: int, delta: float, solved: str, asked: float | None) -> dict[str, Any]:
    from pharma_fl.errors import PrivacyError
    from pharma_fl.privacy.guarantee import guarantee

    if charge.steps == 0:
        raise PrivacyError(
            "PFL-P03",
            f"Not one round of {local_steps} steps costs epsilon {asked:g} or less. Raise --noise-multiplier.",
        )
    found = guarantee([charge], adversary="everybody", delta=delta, series=(), owners=())
    (_, value), (_, stricter) = found.epsilons.items()
    # Solved values are rounded towards more privacy; whether they kept to it is looked at once more.
    if asked is not None and value > asked:
        raise PrivacyError("PFL-P06", f"The plan found costs {value:g}, above {asked:g}. This is a defect: report it.")
    return {
        "solved_for": solved,
        "epsilon": value,
        "delta": delta,
        "epsilon_at_a_tenth_of_delta": stricter,
        "noise_multiplier": charge.noise_multiplier,
        "sample_rate": charge.sample_rate,
        "rounds": charge.steps // local_steps,
        "local_steps": local_steps,
        "attacker_advantage": found.attacker.advantage,
        **{f"attacker_tpr_at_fpr_{fpr:g}": rate for fpr, rate in found.attacker.tpr.items()},
    }


def _trade(charge: Charge, local_steps: int, delta: float) -> list[dict[str, Any]]:
    from pharma_fl.privacy.accountant import epsilon

    rounds = sorted({max(1, round(share * charge.steps / local_steps)) for share in _ROUNDS})
    rounds = [count for count in rounds if count * local_steps <= MOST_STEPS]
    return [
        {
            "rounds": count,
            "noise_multiplier": share * charge.noise_multiplier,
            "epsilon": epsilon(
                [
                    charge._replace(
                        noise_multiplier=share * charge.noise_multiplier,
                        steps=count * local_steps,
                    )
                ],
                delta,
            ),
        }
        for count in rounds
        for share in _NOISES
    ]
