"""Tests that tell what a partner sends from random numbers, where they can."""

import numpy as np
from scipy.stats import chi2, norm

LEVEL = 1e-9
"""Of each test: right masks fail one in a thousand million, and each planted fault fails by far."""


def monobit(content):
    """P-value of as many ones as zeros."""
    bits = np.unpackbits(content.view(np.uint8))
    return 2 * norm.sf(abs(2 * int(bits.sum()) - len(bits)) / np.sqrt(len(bits)))


def bytes_uniform(content):
    """P-value of all values of a byte being as frequent, at each of the places within a number."""
    smallest = 1.0
    for place in content.view(np.uint8).reshape(len(content), -1).T:
        expected = len(place) / 256
        statistic = float(((np.bincount(place, minlength=256) - expected) ** 2).sum() / expected)
        smallest = min(smallest, chi2.sf(statistic, 255))
    return min(1.0, smallest * content.itemsize)


def findings(first, second):
    """Which tests tell the messages of two rounds from random numbers."""
    unsigned = f"u{first.itemsize}"
    first, second = first.view(unsigned), second.view(unsigned)
    found = {
        "monobit": min(monobit(first), monobit(second)),
        "bytes": min(bytes_uniform(first), bytes_uniform(second)),
        # Bits in which the rounds agree, and the numbers by which they differ, are random where the rounds are.
        "agreement": monobit(first ^ second),
        "difference": bytes_uniform(first - second),
    }
    return {name for name, value in found.items() if value < LEVEL}
