"""How much a task and its censored values weigh in MELLODDY-TUNER's training.

Like `quorums`, what is computed here depends on single compounds and never reaches private training. There a
task weighs what T0 alone says, see `Task.training_weight`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pharma_fl.data.rules import Rules


def class_weights(quorum_types: Sequence[str], training: Sequence[bool], rules: Rules) -> list[float]:
    """Return the weights of one assay's classification tasks.

    The assay's initial weight is shared by those of its tasks that pass the training quorum; the others weigh 0.

    Parameters
    ----------
    quorum_types : sequence of str
        The assay type as which each task was judged.
    training : sequence of bool
        Whether it passed the training quorum.
    rules : Rules
        Source of the initial weights.
    """
    passed = sum(training)
    return [
        rules.of(kind).initial_weight / passed if passes else 0.0
        for kind, passes in zip(quorum_types, training, strict=True)
    ]


def censored_weight(censored: int, total: int, rules: Rules) -> float:
    """Return the factor for censored values of a regression task.

    Up to the share `k` = ``censored_share`` it is 1. From there it falls so that all censored values together
    weigh what they would at that share: at share f it is ``k (1 - f) / (f (1 - k))``.

    Parameters
    ----------
    censored, total : int
        Values with a qualifier, and all values, of the task.
    rules : Rules
        Source of `k`.

    Examples
    --------
    >>> [round(censored_weight(part, 20, Rules.built_in()), 4) for part in (1, 2, 10, 20)]
    [1.0, 0.4737, 0.0526, 0.0]
    """
    limit = rules.every_type.censored_share
    share = censored / total if total else 0.0
    return 1.0 if share <= limit else limit * (1.0 - share) / (share * (1.0 - limit))
