"""Areas from noised counts: without noise scikit-learn's, and with it within the error that is told."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pharma_fl.strategies.noised_metrics import noised_areas, noised_auc_roc


def counts_of(label, place, bins):
    return np.array([np.bincount(place[label == one], minlength=bins) for one in (0, 1)], dtype=float)


def an_example(bins=20, n=20_000, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.random(n) < 0.3
    probability = 1 / (1 + np.exp(-rng.normal(size=n) - label))
    return label, np.minimum((probability * bins).astype(int), bins - 1)


@pytest.mark.parametrize("bins", [2, 7, 100])
def test_without_noise_it_is_the_area_of_the_binned_scores(bins):
    label, place = an_example(bins, n=500)
    area, error = noised_auc_roc(counts_of(label, place, bins), std=0.0)
    assert area == pytest.approx(roc_auc_score(label, place), abs=1e-12)
    assert error == 0.0


def test_the_error_that_is_told_is_the_noises():
    label, place = an_example()
    exact, std = counts_of(label, place, 20), 100.0
    rng = np.random.default_rng(1)
    found = [noised_auc_roc(exact + std * rng.normal(size=exact.shape), std=std) for _ in range(4000)]
    areas, errors = np.array(found).T
    assert areas.mean() == pytest.approx(roc_auc_score(label, place), abs=0.005)
    # A little too large, rather than too small.
    assert 0.97 < errors.mean() / areas.std() < 1.15
    assert not 0.97 < errors.mean() / 1.5 / areas.std() < 1.15


@pytest.mark.parametrize(
    "counts", [[[0, 0], [900, 900]], [[900, 900], [0, 0]], [[-50, 60], [900, 900]], [[0, 0], [0, 0]]]
)
def test_where_a_class_is_no_more_than_noise_there_is_no_area(counts):
    assert noised_auc_roc(np.array(counts, dtype=float), std=10.0) is None


def test_noise_alone_gives_hardly_ever_an_area():
    rng = np.random.default_rng(2)
    found = [noised_auc_roc(10.0 * rng.normal(size=(2, 20)), std=10.0) for _ in range(10_000)]
    assert found == [None] * 10_000


def test_areas_are_named_by_the_catalogues_ids():
    good, empty = [[300.0, 100.0], [100.0, 300.0]], [[0.0, 0.0], [0.0, 0.0]]
    found = noised_areas(np.array([good, empty, good]), (31, 12), std=1.0)
    assert set(found) == {"pooled", "12"}
    assert found["12"]["value"] == 0.75
    assert 0 < found["12"]["standard_error"] < 0.02


def test_an_area_stays_within_0_and_1():
    assert noised_auc_roc(np.array([[900.0, -300.0], [-300.0, 900.0]]), std=10.0)[0] == 1.0
