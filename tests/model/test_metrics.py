"""Metrics against scikit-learn, scipy and plain loops, and where they are not defined."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import linregress
from sklearn.metrics import (
    auc,
    average_precision_score,
    brier_score_loss,
    cohen_kappa_score,
    f1_score,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from pharma_fl.model import metrics

NOTHING = np.array([], dtype=np.float32)
SHARES = [0.02, 0.3, 0.9]


def f32(*values):
    return np.array(values, dtype=np.float32)


def predictions(share, *, n=150, seed=0):
    """Labels with a share of positives, and probabilities with many ties: somewhat informative, far too sure."""
    rng = np.random.default_rng(seed)
    label = np.zeros(n, dtype=np.float32)
    label[rng.permutation(n)[: round(share * n)]] = 1
    probability = 1 / (1 + np.exp(-rng.normal(scale=2, size=n) - 2 * (label - 0.5)))
    return label, np.round(probability, 2).astype(np.float32)


def values(*, n=60, seed=0):
    rng = np.random.default_rng(seed)
    measured = rng.normal(6, 1, size=n)
    return measured.astype(np.float32), (0.7 * measured + rng.normal(size=n)).astype(np.float32)


def calls(label, probability):
    """Every cutoff with the counts of the table it makes, by a loop over the records."""
    for cutoff in sorted({float(p) for p in probability}):
        called = [float(p) >= cutoff for p in probability]
        true = sum(c and y == 1 for c, y in zip(called, label, strict=True))
        yield cutoff, true, sum(called) - true


@pytest.mark.parametrize("share", SHARES)
def test_areas_and_brier_equal_scikit_learn(share):
    label, probability = predictions(share)
    assert metrics.auc_roc(label, probability) == roc_auc_score(label, probability)
    assert metrics.auc_pr(label, probability) == average_precision_score(label, probability)
    assert metrics.brier(label, probability) == pytest.approx(brier_score_loss(label, probability), rel=1e-6)
    assert metrics.brier(label, probability) == pytest.approx(
        sum((float(p) - float(y)) ** 2 for y, p in zip(label, probability, strict=True)) / len(label), rel=1e-6
    )


@pytest.mark.parametrize("share", SHARES)
def test_calibrated_area_equals_a_curve_of_rates(share):
    """At a tenth of positives, precision follows from the true and the false positive rate."""
    label, probability = predictions(share)
    positives = label.sum()
    recalls, precisions = [0.0], [1.0]
    for _, true, false in reversed(list(calls(label, probability))):
        hit, miss = true / positives, false / (len(label) - positives)
        recalls.append(hit)
        precisions.append(0.1 * hit / (0.1 * hit + 0.9 * miss))
    assert metrics.calibrated_auc_pr(label, probability) == pytest.approx(auc(recalls, precisions), rel=1e-6)


def test_calibrated_area_does_not_move_with_the_share_of_positives():
    label, probability = predictions(0.3)
    often = np.concatenate([label, label[label == 1], label[label == 1]])
    scores = np.concatenate([probability, probability[label == 1], probability[label == 1]])
    assert metrics.calibrated_auc_pr(often, scores) == pytest.approx(metrics.calibrated_auc_pr(label, probability))
    assert metrics.auc_pr(often, scores) > metrics.auc_pr(label, probability) + 0.05


def test_calibrated_area_caps_the_share_of_positives():
    label = np.ones(400, dtype=np.float32)
    label[0] = 0
    score = np.full(400, 0.5, dtype=np.float32)
    # One cutoff that calls every record: from precision 1 at recall 0 to the calibrated share at recall 1.
    odds = 0.99 * 0.9 / (0.1 * 0.01)
    precision = 1 / ((400 / 399 - 1) * odds + 1)
    assert metrics.calibrated_auc_pr(label, score) == pytest.approx((1 + precision) / 2)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("bins", [1, 7, 10])
def test_calibration_errors_equal_a_loop_over_bins(share, bins):
    label, probability = predictions(share)
    # Bounds as float32, because a probability on a bound belongs below it.
    bounds = [np.float32(i / bins) for i in range(bins + 1)]
    by_width = [(probability > lo) & (probability <= hi) for lo, hi in pairwise(bounds)]
    by_width[0] |= probability == 0
    in_order = sorted(range(len(label)), key=lambda i: probability[i])
    longer = len(label) % bins
    sizes = [len(label) // bins + (i < longer) for i in range(bins)]
    by_count = [in_order[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(bins)]

    def error(members):
        found = [(label[m].mean(dtype=float), probability[m].mean(dtype=float), len(label[m])) for m in members]
        return sum(count * abs(positive - mean) for positive, mean, count in found) / len(label)

    expected = error([mask for mask in by_width if mask.any()]), error(by_count)
    assert metrics.calibration_errors(label, probability, bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_bins_hold_their_upper_bound():
    label = f32(1, 0)
    assert metrics.calibration_errors(label, f32(0.1, 0.1))[0] == pytest.approx(0.4)
    # 0.1 and 0.05 share a bin and cancel partly; 0.1 and 0.15 do not.
    assert metrics.calibration_errors(label, f32(0.1, 0.05))[0] == pytest.approx((1 - 0.15) / 2)
    assert metrics.calibration_errors(label, f32(0.1, 0.15))[0] == pytest.approx((0.9 + 0.15) / 2)


def test_calibration_takes_the_ends_of_the_range():
    assert metrics.calibration_errors(f32(0, 1), f32(0, 1)) == (0.0, 0.0)
    assert metrics.calibration_errors(f32(1, 0), f32(0, 1)) == (1.0, 1.0)


def test_calibration_errors_of_one_class_and_of_a_constant():
    assert metrics.calibration_errors(f32(1, 1, 1), f32(0.75, 0.75, 0.75)) == (0.25, 0.25)
    ece, ace = metrics.calibration_errors(f32(0, 1, 0, 1), f32(0.5, 0.5, 0.5, 0.5))
    assert ece == 0  # one bin of width holds all
    assert ace == 0.5  # equal counts part them, one record a bin


@pytest.mark.parametrize("share", SHARES)
def test_best_cutoffs_equal_a_search(share):
    label, probability = predictions(share)
    for metric, score in ((metrics.f1_max, f1_score), (metrics.kappa_max, cohen_kappa_score)):
        value, cutoff = metric(label, probability)
        search = {float(p): score(label, (probability >= p).astype(np.float32)) for p in probability}
        assert value == pytest.approx(max(search.values()))
        assert cutoff == max(p for p, found in search.items() if found == pytest.approx(value))


def test_best_cutoffs_of_a_reversed_ranking_call_every_record():
    label, probability = f32(1, 1, 0, 0), f32(0.125, 0.25, 0.5, 0.75)
    assert metrics.kappa_max(label, probability) == (0.0, 0.125)
    assert metrics.f1_max(label, probability) == (pytest.approx(2 / 3), 0.125)


def test_best_cutoffs_of_a_constant():
    label, probability = f32(1, 0, 0, 0), f32(0.25, 0.25, 0.25, 0.25)
    assert metrics.kappa_max(label, probability) == (0.0, 0.25)
    assert metrics.f1_max(label, probability) == (0.4, 0.25)


def test_the_highest_of_equal_cutoffs_is_named():
    # From 0.75: one hit of two, F1 2/3; down to 0.25: both with two false ones, F1 2/3 again.
    assert metrics.f1_max(f32(1, 0, 0, 1), f32(0.75, 0.5, 0.5, 0.25)) == (pytest.approx(2 / 3), 0.75)
    # One hit of 49, F1 2/50; all 49 with 2352 false ones, F1 98/2450. As a rate, 1/49 times 49 is not 1.
    label = f32(*[1] * 49, *[0] * 2352, 0)
    probability = f32(0.75, *[0.5] * 2400, 0.25)
    assert metrics.f1_max(label, probability) == (0.04, 0.75)


@pytest.mark.parametrize("metric", [metrics.auc_roc, metrics.auc_pr, metrics.calibrated_auc_pr])
@pytest.mark.parametrize("label", [NOTHING, f32(1), f32(0, 0), f32(1, 1)])
def test_areas_need_both_classes(metric, label):
    assert math.isnan(metric(label, np.full_like(label, 0.5)))


@pytest.mark.parametrize("metric", [metrics.f1_max, metrics.kappa_max])
@pytest.mark.parametrize("label", [NOTHING, f32(1), f32(0, 0), f32(1, 1)])
def test_cutoffs_need_both_classes(metric, label):
    assert np.isnan(metric(label, np.full_like(label, 0.5))).all()


def test_probabilities_without_records_have_no_error():
    assert np.isnan(metrics.calibration_errors(NOTHING, NOTHING)).all()
    assert math.isnan(metrics.brier(NOTHING, NOTHING))


@pytest.mark.parametrize(("label", "expected"), [(f32(0, 0), 0.0625), (f32(1, 1), 0.5625)])
def test_brier_of_one_class(label, expected):
    assert metrics.brier(label, f32(0.25, 0.25)) == expected


def test_regression_metrics_equal_scikit_learn_and_scipy():
    measured, predicted = values()
    assert metrics.rmse(measured, predicted) == pytest.approx(root_mean_squared_error(measured, predicted), rel=1e-5)
    assert metrics.r_squared(measured, predicted) == pytest.approx(r2_score(measured, predicted), rel=1e-5)
    wide, guess = measured.astype(float), predicted.astype(float)
    assert metrics.r_squared(measured, predicted) == pytest.approx(1 - ((wide - guess) ** 2).mean() / wide.var())
    assert metrics.pearson(measured, predicted) == pytest.approx(linregress(wide, guess).rvalue)
    assert metrics.pearson(measured, -predicted) == pytest.approx(-metrics.pearson(measured, predicted))


def test_r_squared_of_constant_predictions():
    measured, _ = values()
    assert metrics.r_squared(measured, np.full_like(measured, measured.mean())) == pytest.approx(0, abs=1e-6)
    assert metrics.r_squared(measured, np.full_like(measured, 20)) < -10


@pytest.mark.parametrize("measured", [NOTHING, f32(5), f32(5, 5, 5)])
def test_regression_metrics_need_measurements_that_vary(measured):
    predicted = np.arange(len(measured), dtype=np.float32)
    assert math.isnan(metrics.r_squared(measured, predicted))
    assert math.isnan(metrics.pearson(measured, predicted))
    assert math.isnan(metrics.pearson(predicted, measured))


def test_rmse_without_records():
    assert math.isnan(metrics.rmse(NOTHING, NOTHING))


def test_pearson_of_predictions_that_differ_in_their_last_digit():
    """A network that has hardly learned is no reason for a warning, which tests take for an error."""
    step = np.nextafter(np.float32(6), np.float32(7))
    assert metrics.pearson(f32(1, 2, 3, 4), f32(6, 6, step, step)) == pytest.approx(2 / math.sqrt(5))


def test_weighted_mean_equals_a_loop():
    rng = np.random.default_rng(0)
    found, weights = rng.normal(size=30), rng.integers(1, 100, 30)
    found[rng.random(30) < 0.3] = np.nan
    kept = [(v, w) for v, w in zip(found, weights, strict=True) if not math.isnan(v)]
    assert metrics.weighted_mean(found, weights) == pytest.approx(sum(v * w for v, w in kept) / sum(w for _, w in kept))


@pytest.mark.parametrize(
    ("found", "weights"), [([], []), ([np.nan, np.nan], [1, 2]), ([np.nan, 1.0], [1, 0]), ([0.5], [0])]
)
def test_weighted_mean_of_nothing(found, weights):
    assert math.isnan(metrics.weighted_mean(found, weights))
