"""The ledger: what this partner's data has paid, for ever, on the partner's own disk."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pharma_fl.config.partner import BudgetSettings, PolicySettings
from pharma_fl.errors import PolicyViolation, PrivacyError
from pharma_fl.privacy.budget import affordable, allowances, covered_cohorts
from pharma_fl.privacy.charge import Adversary, Charge
from pharma_fl.privacy.entries import Cohort, Limited, Purpose, Released, Reserved
from pharma_fl.privacy.history import DAY, History
from pharma_fl.privacy.ledger_file import LedgerFile, Maker, went_back
from pharma_fl.privacy.limits import cohorts_of, limits_of, loosened
from pharma_fl.privacy.plan import PrivacyPlan
from pharma_fl.privacy.spend import Spend


class Ledger(LedgerFile):
    """An append-only, hash-chained, signed record of charges.

    Epsilon is always derived from the entries, never stored. A charge is checked and written in one transaction
    under a lock file, so two processes cannot overspend together, and is on disk (``synchronous = FULL``) before the
    method returns. Every entry is echoed in the audit log. Parameters and errors as `LedgerFile`.
    """

    def reserve(
        self, spend: Spend, *, budget: BudgetSettings, policy: PolicySettings, witnesses: Sequence[str] = ()
    ) -> tuple[Cohort, ...]:
        """Charge one round before its first private step, and return the cohorts that take part (none: all).

        Parameters
        ----------
        spend : Spend
        budget, policy : settings
            As partner.toml has them now. What is tighter than before holds from now on.
        witnesses : sequence of str
            Hashes that others remember; each must be in the chain.

        Raises
        ------
        BudgetExceeded
            ``PFL-P10`` the round would bring the history above the budget.
        PolicyViolation
            ``PFL-P20`` too many steps in the run or rounds in a day. ``PFL-P21`` a limit was loosened without being
            recorded.
        PrivacyError
            ``PFL-P11`` the round was charged before; it is never run twice on one charge. ``PFL-P14`` the run began
            with another plan: composition is proved for parameters fixed in advance.
        """
        with self.held():
            history = self.check(witnesses, covered=spend.covers)
            if history.reserved(spend.purpose, spend.run, spend.round):
                raise PrivacyError(
                    "PFL-P11",
                    f"{spend.name} was charged before and left no reply, as after a crash. It stays charged and is "
                    "not repeated; the next round can go on.",
                )
            if history.plan_of(spend.purpose, spend.run) not in (None, spend.plan):
                raise PrivacyError(
                    "PFL-P14",
                    f"Run {spend.run} began with another plan than it asks for now. A run keeps its plan; "
                    "start another run.",
                )
            declared = spend.purpose == "declared"
            # What was spent is spent, whatever the limits are.
            limits = [] if declared and history.limits else self._limits(budget, policy)
            if limits:
                # By itself, so that limits are tighter from now on also where this very round is refused for it.
                self.append(*limits)
            cohorts: tuple[Cohort, ...] = ()
            if not declared:
                now = self.now()
                _check_pace(history, spend, policy, now)
                cohorts = covered_cohorts(history, budget, spend, now)
            self.append(self._reserved(spend, cohorts))
            return cohorts

    def release(self, purpose: Purpose, run: str, round_number: int, reply: str) -> None:
        """Record that the round's reply is stored; `reply` is its digest. Costs nothing, twice is once."""
        with self.held():
            history = self.check()
            if not history.reserved(purpose, run, round_number):
                raise went_back(f"round {round_number} of run {run}")
            if not history.released(purpose, run, round_number):
                self.append(lambda facts: Released(run=run, round=round_number, purpose=purpose, reply=reply, **facts))

    def loosen(self, *, budget: BudgetSettings, policy: PolicySettings, by: str, why: str) -> list[str]:
        """Let the limits of partner.toml hold from here on, on the record, and name those that let more leave."""
        with self.held():
            history = self.check()
            wanted = limits_of(budget, policy)
            found = loosened(history.limits.limits, wanted) if history.limits else []
            if history.limits and history.limits.limits != wanted:
                self.append(lambda facts: Limited(limits=wanted, by=by, why=why, **facts))
            return found

    def check_new(self, *, run: str) -> None:
        """Check that a run without private state has not had any: a stored reply implies stored heads.

        Raises
        ------
        PrivacyError
            ``PFL-P16`` the ledger has a released round of the run.
        """
        if self.history().replies_of(run):
            raise PrivacyError(
                "PFL-P16",
                f"The ledger proves rounds of run {run}, but the partner's state is missing or of another run. "
                "Restore the state folder from a backup, and give each federation one of its own "
                "(partner.toml: state).",
            )

    def affordable_rounds(self, plan: PrivacyPlan, budget: BudgetSettings, *, contribution: float = 1.0) -> int:
        """Return how many rounds of `plan`, at most its own number, the budget covers for some cohort."""
        if not plan.protected:
            return plan.rounds
        history, now, limit = self.history(), datetime.now(UTC), plan.rounds * plan.steps_per_round
        most = 0
        for cohort in cohorts_of(budget.cohorts, now.date()) or (None,):
            parts = allowances(history, budget, run="", purpose="train", now=now, cohort=cohort)
            charge = plan.charge_of(1, contribution=contribution)
            most = max(most, min(affordable(part, budget, charge, limit) for part in parts))
        return most // plan.steps_per_round

    def charges(self, adversary: Adversary = "partners") -> tuple[Charge, ...]:
        """Return every charge, equal mechanisms added up."""
        return self.history().charges(adversary=adversary)

    def epsilon(self, budget: BudgetSettings, adversary: Adversary = "partners") -> float:
        """Return epsilon of the cohort that spent most: 0 at first, infinity after an unprotected round."""
        from pharma_fl.privacy.accountant import epsilon  # noqa: PLC0415 - it takes a second to import

        history = self.history()
        return max(
            epsilon(
                history.charges(adversary=adversary, cohort=cohort),
                budget.delta,
                unit=budget.unit,
                members=budget.members,
            )
            for cohort in cohorts_of(budget.cohorts) or (None,)
        )

    def _limits(self, budget: BudgetSettings, policy: PolicySettings) -> list[Maker]:
        wanted, held = limits_of(budget, policy), self._history.limits
        if held is None:
            return [lambda facts: Limited(limits=wanted, by="partner.toml", why="the first limits", **facts)]
        if held.limits == wanted:
            return []
        more = loosened(held.limits, wanted)
        if more:
            raise PolicyViolation(
                "PFL-P21",
                f"partner.toml lets more leave than the ledger's limits ({'; '.join(more)}). Nothing was computed. Put "
                "the limits back, or record who loosens them and why: pharma-fl budget loosen.",
            )
        return [lambda facts: Limited(limits=wanted, by="partner.toml", why="tightened", **facts)]

    def _reserved(self, spend: Spend, cohorts: tuple[Cohort, ...]) -> Maker:
        return lambda facts: Reserved(
            federation=spend.federation,
            run=spend.run,
            round=spend.round,
            purpose=spend.purpose,
            mechanism="poisson-gaussian" if spend.protected else "none",
            sample_rate=spend.charge.sample_rate,
            noise_multiplier=spend.charge.noise_multiplier,
            noise_multiplier_coordinator=spend.coordinator_noise,
            steps=spend.charge.steps,
            unit=spend.unit,
            clipping=spend.clipping,
            clipping_norm=spend.clipping_norm,
            plan=spend.plan,
            generator=spend.generator,
            cohorts=cohorts,
            covers=spend.covers,
            by=spend.by,
            why=spend.why,
            **facts,
        )


def _check_pace(history: History, spend: Spend, policy: PolicySettings, now: datetime) -> None:
    broken = []
    steps = sum(one.steps for one in history.charges(run=spend.run, purposes=("train",)))
    steps += spend.charge.steps if spend.purpose == "train" else 0
    if steps > policy.max_steps_per_run:
        broken.append(f"{steps} steps in one run > policy.max_steps_per_run {policy.max_steps_per_run}")
    rounds = 1 + history.rounds_since(now - DAY)
    if policy.max_rounds_per_day is not None and rounds > policy.max_rounds_per_day:
        broken.append(f"{rounds} rounds in 24 hours > policy.max_rounds_per_day {policy.max_rounds_per_day}")
    if broken:
        raise PolicyViolation(
            "PFL-P20", f"{spend.name} is outside partner.toml: {'; '.join(broken)}. Nothing was computed."
        )
