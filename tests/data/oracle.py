"""MELLODDY-TUNER's rules for activities, once more: one row at a time, in plain Python.

It is slow, has no arrays and shares nothing with the code it checks but the wording of the rules. Every number
of the rules is a field of `Numbers`, so that small quorums can be tried on small tables.
"""

import math
import statistics
from collections import Counter
from dataclasses import dataclass, field

SPELLINGS = {"": 0, "=": 0, "~": 0, "<": -1, "<=": -1, "<<": -1, ">": 1, ">=": 1, ">>": 1}
TYPES = ("ADME", "NON-CATALOG-PANEL", "CATALOG-PANEL", "OTHER", "AUX_HTS", "AUX_PL")
AUXILIARY_TYPES = ("AUX_HTS", "AUX_PL")
DOSE_RESPONSE_TYPES = ("OTHER", "NON-CATALOG-PANEL")


def _credible():
    return {
        "ADME": (-1e12, 1e12),
        "NON-CATALOG-PANEL": (3, 10),
        "CATALOG-PANEL": (3, 10),
        "OTHER": (3, 10),
        "AUX_HTS": (-10, 10),
    }


def _class_training():
    main, auxiliary = (25, 25), (10, 10_000)
    return {"ADME": main, "NON-CATALOG-PANEL": main, "OTHER": main, "AUX_HTS": auxiliary, "AUX_PL": auxiliary}


def _value_spread():
    return {kind: None if kind == "ADME" else 0.5 for kind in TYPES}


def _initial():
    return {kind: 0.1 if kind in AUXILIARY_TYPES else 1.0 for kind in TYPES}


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """The numbers of dose-response thresholds; labels are (actives, inactives)."""

    trials: tuple = (8.0, 7.0, 6.0, 5.0, 4.7, 4.4)
    share: float = 0.2
    labels: tuple = (25, 25)
    factor: float = 2.0
    sandwich: float = 0.5
    up_to: int = 3


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers of the rules, by assay type where they may differ.

    A pair is (actives, inactives), or for regression (values, uncensored values).
    """

    credible: dict = field(default_factory=_credible)
    decimals: dict = field(default_factory=lambda: dict.fromkeys(DOSE_RESPONSE_TYPES, 2))
    variance: float = 1e-12
    adaptive: dict = field(default_factory=lambda: dict.fromkeys(DOSE_RESPONSE_TYPES, Adaptive()))
    median_values: int = 2
    quartiles: tuple = (0.25, 0.75)
    hts: float = 3.0
    catalogue_auxiliary: float = 4.53
    class_training: dict = field(default_factory=_class_training)
    catalogue_labels: int = 400
    class_evaluation: dict = field(default_factory=lambda: dict.fromkeys(TYPES, (10, 10)))
    value_training: dict = field(default_factory=lambda: dict.fromkeys(TYPES, (50, 25)))
    value_evaluation: dict = field(default_factory=lambda: dict.fromkeys(TYPES, 25))
    value_spread: dict = field(default_factory=_value_spread)
    initial: dict = field(default_factory=_initial)
    censored_share: float = 0.05


TUNER = Numbers()


# --- replicates -----------------------------------------------------------------------------------------------


def aggregated(assays, rows, numbers=TUNER):
    """Aggregate rows (position of the assay, record, code, value).

    Returns {(assay, record): (unrounded value, value, code)} and, for each row, why it was dropped ("" if kept).
    """
    reasons = [_reason(assays[where], record, value, numbers) for where, record, _, value in rows]
    groups = {}
    for position, (where, record, _, _) in enumerate(rows):
        if not reasons[position]:
            groups.setdefault((where, record), []).append(position)
    measured = {}
    for (where, record), positions in groups.items():
        one = assays[where]
        answer = _replicates(one, [(rows[position][3], rows[position][2]) for position in positions])
        if answer is None:
            for position in positions:
                reasons[position] = "qualifier_tie"
        else:
            value, code = answer
            decimals = None if one["is_binary"] else numbers.decimals.get(one["assay_type"])
            measured[where, record] = (value, value if decimals is None else _rounded(value, decimals), code)
    return measured, reasons


def _reason(one, record, value, numbers):
    if record == -1:
        return "structure_failed"
    if one["is_binary"]:
        return "" if value in {1, -1} else "not_plus_minus_one"
    least, most = numbers.credible[one["assay_type"]]
    return "" if least <= value <= most else "out_of_range"


def _replicates(one, members):
    """The value and code of one record from its replicates, or None where the qualifiers tie."""
    if one["is_binary"]:
        plus = sum(1 for value, _ in members if value == 1)
        return (1.0 if plus >= len(members) - plus else -1.0), 0
    if one["assay_type"] in DOSE_RESPONSE_TYPES:
        return _largest(members)
    if one["assay_type"] == "ADME":
        code = _most_frequent([code for _, code in members])
        return None if code is None else (statistics.median([value for value, _ in members]), code)
    if one["direction"] == "low":
        return min(members, key=lambda member: (member[0], *_exact_first(member[1])))
    if one["direction"] == "high":
        return _largest(members)
    return min(members, key=lambda m: (-abs(m[0]), m[1] != 0, -m[0], m[1]))


def _largest(members):
    usable = [member for member in members if member[1] != -1] or members
    return min(usable, key=lambda member: (-member[0], *_exact_first(member[1])))


def _exact_first(code):
    return (code != 0, code)


def _most_frequent(codes):
    counts = Counter(codes)
    winners = [code for code in counts if counts[code] == max(counts.values())]
    if len(winners) == 1:
        return winners[0]
    return 0 if 0 in winners else None


def _rounded(value, decimals):
    """Half to even of the scaled value: what numpy, and so TUNER, calls rounding."""
    return round(value * 10**decimals) / 10**decimals


# --- thresholds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """One threshold of an assay."""

    value: float
    method: str
    data_derived: bool = False


def cuts(one, measured, numbers=TUNER, catalogue=None):
    """Return an assay's thresholds, ascending, from its values and codes [(value, code)]."""
    kind = one["assay_type"]
    if one["is_binary"]:
        return [Cut(0.0, "expert")]
    if kind == "AUX_HTS":
        return [Cut(-numbers.hts if one["direction"] == "low" else numbers.hts, "fixed")]
    if kind == "CATALOG-PANEL":
        found = _catalogue_cuts(catalogue, numbers)
    elif kind == "ADME":
        found = [Cut(value, "expert") for value in set(one["experts"])] or _adme_cuts(one, measured, numbers)
    else:
        found = _panel_cuts(one, measured, numbers)
    return sorted(found, key=lambda cut: cut.value)


def _catalogue_cuts(catalogue, numbers):
    if not catalogue:
        return []
    return [
        Cut(value, "aux_low" if value == numbers.catalogue_auxiliary else "expert")
        for value in set(catalogue[0]["experts"])
    ]


def _adme_cuts(one, measured, numbers):
    exact = [value for value, code in measured if code == 0]
    if len(exact) < numbers.median_values:
        return []
    median = _quantile(exact, 0.5)
    found = [Cut(median, "median", data_derived=True)]
    if one["direction"] in {"low", "high"}:
        quartile = _quantile(exact, numbers.quartiles[one["direction"] == "high"])
        if quartile != median:
            found.append(Cut(quartile, "quartile", data_derived=True))
    return found


def _quantile(values, share):
    """Linear interpolation, reckoned from the nearer of the two neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    part, gap = place - below, ordered[above] - ordered[below]
    return ordered[below] + gap * part if part < 0.5 else ordered[above] - gap * (1 - part)


def _panel_cuts(one, measured, numbers):
    rule = numbers.adaptive[one["assay_type"]]
    inner = [Cut(value, "expert") for value in set(one["experts"])]
    if not inner and measured:
        inner = [_adaptive(measured, rule)]
    if not inner or len(inner) > rule.up_to:
        return inner
    values, derived = [cut.value for cut in inner], inner[0].data_derived
    return [
        *inner,
        Cut(min(values) - rule.sandwich, "aux_low", derived),
        Cut(max(values) + rule.sandwich, "aux_high", derived),
    ]


def _adaptive(measured, rule):
    for trial in rule.trials:
        labels = [_high_label(value, code, trial) for value, code in measured]
        active, inactive = labels.count(1), labels.count(-1)
        if active >= rule.labels[0] and inactive >= rule.labels[1] and active / (active + inactive) >= rule.share:
            return Cut(trial, "fixed_adaptive", data_derived=True)
    moved = [value + code * math.log10(rule.factor) for value, code in measured]
    return Cut(_quantile(moved, 0.5), "median", data_derived=True)


# --- labels ---------------------------------------------------------------------------------------------------


def label(one, cut, value, code):
    """Return +1, -1, or 0 where the qualifier leaves it open."""
    if one["is_binary"]:
        return int(value)
    if one["assay_type"] == "AUX_HTS":
        active = {"high": value >= cut, "low": value <= cut}.get(one["direction"], abs(value) >= cut)
        return 1 if active else -1
    if one["direction"] == "low":
        return _high_label(-value, -code, -cut)
    return _high_label(value, code, cut)


def _high_label(value, code, cut):
    if value >= cut and code != -1:
        return 1
    if (value < cut and code != 1) or (value == cut and code == -1):
        return -1
    return 0


# --- quorums --------------------------------------------------------------------------------------------------


def deviation(values):
    """Sample standard deviation, by exact fractions; 0 for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def by_fold(pairs, count):
    """Split (fold, thing) into one list a fold; a fold without things has an empty one."""
    return [[thing for fold, thing in pairs if fold == number] for number in range(count)]


def _class_quorum(kind, labels, folds, count, numbers):
    """Whether labels pass the training and the evaluation quorum of a type."""
    active, inactive = labels.count(1), labels.count(-1)
    if kind == "CATALOG-PANEL":
        training = active + inactive >= numbers.catalogue_labels
    else:
        least = numbers.class_training[kind]
        training = active >= least[0] and inactive >= least[1]
    least = numbers.class_evaluation[kind]
    evaluation = all(
        fold.count(1) >= least[0] and fold.count(-1) >= least[1]
        for fold in by_fold(list(zip(folds, labels, strict=True)), count)
    )
    return training, evaluation


def censored_weight(values, censored, share):
    if not values or censored / values <= share:
        return 1.0
    part = censored / values
    return share * (1 - part) / (part * (1 - share))


# --- tasks ----------------------------------------------------------------------------------------------------


def tasks(one, measured, folds, count, numbers=TUNER, catalogue=None):
    """Return an assay's tasks as dicts, with `labels` {record: label} of classification.

    `measured` is {record: (unrounded value, value, code)}, `folds` {record: fold}. `near` marks a task with a
    standard deviation so close to its limit that the order of a sum decides; its flags are not to be compared.
    """
    initial = numbers.initial[one["assay_type"]]
    spreads = [
        deviation(values)
        for values in by_fold([(folds[record], raw) for record, (raw, _, _) in measured.items()], count)
    ]
    varied = min(spreads) > numbers.variance
    near = any(_near(spread, numbers.variance) for spread in spreads)
    found = cuts(one, [(value, code) for _, value, code in measured.values()], numbers, catalogue)
    result = []
    for cut in found:
        labels = {record: label(one, cut.value, value, code) for record, (_, value, code) in measured.items()}
        quorum_type, identity, training, evaluation = _judge(one, cut, labels, folds, count, numbers, catalogue)
        if one["assay_type"] != "CATALOG-PANEL":
            training = training and varied
        auxiliary = one["assay_type"] in AUXILIARY_TYPES or cut.method in {"aux_low", "aux_high"}
        result.append(
            {
                "task": _name(one, cut),
                "kind": "classification",
                "direction": _side(one),
                "threshold": cut.value,
                "threshold_method": cut.method,
                "auxiliary": auxiliary,
                "data_derived": cut.data_derived,
                "catalog_task_id": identity,
                "training_weight": initial / len(found),
                "quorum_type": quorum_type,
                "training_quorum": training,
                "evaluate": training and evaluation and not auxiliary,
                "censored_weight": None,
                "actives": sum(1 for mark in labels.values() if mark == 1),
                "inactives": sum(1 for mark in labels.values() if mark == -1),
                "values": None,
                "censored": None,
                "labels": labels,
                "near": near and one["assay_type"] != "CATALOG-PANEL",
            }
        )
    passing = sum(1 for task in result if task["training_quorum"])
    for task in result:
        # A catalogue task that is judged as another type has that type's weight.
        task["quorum_weight"] = numbers.initial[task["quorum_type"]] / passing if task["training_quorum"] else 0.0
    if one["use_in_regression"] and not one["is_binary"]:
        result.append(_regression(one, measured, folds, count, numbers, varied=varied, near=near))
    return [{"assay": one["assay"], "assay_type": one["assay_type"], "column": -1, **task} for task in result]


def _judge(one, cut, labels, folds, count, numbers, catalogue):
    """The type whose quorum applies, the catalogue's task, and whether training and evaluation quorum pass."""
    known = [(record, mark) for record, mark in labels.items() if mark != 0]
    marks, places = [mark for _, mark in known], [folds[record] for record, _ in known]
    if one["assay_type"] != "CATALOG-PANEL":
        return one["assay_type"], None, *_class_quorum(one["assay_type"], marks, places, count, numbers)
    identity = None
    for row in catalogue or []:
        if (row["catalog_assay_id"], row["threshold"], row["threshold_method"]) == (
            one["catalog_assay_id"],
            cut.value,
            cut.method,
        ):
            identity = row["catalog_task_id"]
    if identity is not None:
        training, evaluation = _class_quorum("CATALOG-PANEL", marks, places, count, numbers)
        if training:
            return "CATALOG-PANEL", identity, training, evaluation
    return "NON-CATALOG-PANEL", identity, *_class_quorum("NON-CATALOG-PANEL", marks, places, count, numbers)


def _regression(one, measured, folds, count, numbers, *, varied, near):
    kind = "NON-CATALOG-PANEL" if one["assay_type"] == "CATALOG-PANEL" else one["assay_type"]
    exact = by_fold([(folds[record], value) for record, (_, value, code) in measured.items() if code == 0], count)
    uncensored = sum(len(fold) for fold in exact)
    least = numbers.value_training[kind]
    training = varied and len(measured) >= least[0] and uncensored >= least[1]
    evaluation = all(len(fold) >= numbers.value_evaluation[kind] for fold in exact)
    if numbers.value_spread[kind] is not None:
        spreads = [deviation(fold) for fold in exact]
        evaluation = evaluation and min(spreads) >= numbers.value_spread[kind]
        near = near or any(_near(spread, numbers.value_spread[kind]) for spread in spreads)
    auxiliary = kind in AUXILIARY_TYPES
    weight = numbers.initial[kind] if auxiliary else 1.0
    censored = len(measured) - uncensored
    return {
        "task": f"assay-{one['assay']}/value",
        "kind": "regression",
        "direction": "",
        "threshold": None,
        "threshold_method": "",
        "auxiliary": auxiliary,
        "data_derived": False,
        "catalog_task_id": None,
        "training_weight": weight,
        "quorum_type": kind,
        "training_quorum": training,
        "evaluate": training and evaluation and not auxiliary,
        "quorum_weight": weight if training else 0.0,
        "censored_weight": censored_weight(len(measured), censored, numbers.censored_share),
        "actives": None,
        "inactives": None,
        "values": len(measured),
        "censored": censored,
        "labels": None,
        "near": near,
    }


def _near(spread, limit):
    return abs(spread - limit) <= 1e-9 * limit


def _side(one):
    if one["is_binary"]:
        return ""
    if one["assay_type"] == "AUX_HTS" and one["direction"] == "":
        return "absolute"
    return "low" if one["direction"] == "low" else "high"


def _name(one, cut):
    if one["is_binary"]:
        return f"assay-{one['assay']}/binary"
    return f"assay-{one['assay']}/{_side(one)}/{cut.value!r}"
