"""The public grid that every noised sum is rounded to, so that its last bits tell nothing.

A float64 sum of data and noise has gaps and patterns in its last bits that depend on the data: Mironov (2012) and Jin
et al. (2022) tell two neighbouring data sets apart by them. So the noised sum is rounded to multiples of a power of two
that follows from the plan alone. Rounding comes after the noise: it is post-processing, and costs no sensitivity.

Notes
-----
**What is exact.** For real numbers, Gaussian noise and then rounding has the Gaussian mechanism's guarantee. What is
computed differs from that by where the cells of the grid end. The drawn value, its product with `std` and the sum are
each rounded, so the number that meets the grid is off by at most ``eta = 2^-52 (|sum| / 2 + 80 std)``, for draws up to
9.5 standard deviations. Box and Muller's angle takes most of the 80, and numpy's ziggurat needs less than half. (Where
Box and Muller's radius is below 0.01 its error is larger, 2^-54 over the radius, but that is so rare that it moves less
than 2^-51 of probability across a border, and at such borders eta stands for 15 times that.) A border between two cells
is thus blurred by eta, and the probability of a cell changes by a factor within ``1 +- 2.01 eta / grid``. The coarser
the grid, the smaller that is: an error of a given size moves a smaller share of a wider cell across its border.

**What it costs.** With ``grid > 2^-9 std`` that factor is within ``e^(+-c)``, ``c = 2.3e-13 (80 + |sum| / (2 std))``.
It stands above and below in a likelihood ratio, so one coordinate adds at most 2 c to the privacy loss: 4e-11. Let the
d sums of a step have a norm of at most 10,000 std (10,000 compounds at noise multiplier 1). Then a step adds at most

===========  ==========================  ============================
d            all errors the same way     except with probability 2e-15
===========  ==========================  ============================
131,072      5.6e-6                      1.4e-7
71,000,000   2.6e-3                      2.8e-6
===========  ==========================  ============================

The first column sums all 2 c. In the second the errors add up like a random walk: given the sums, coordinates are
independent. The mean of the factor's logarithm is at most c^2 under its own law, and under the neighbour's at most 2 c
times the distance of the two laws of that coordinate more. Hoeffding's inequality, above and below, then gives
``C (2 sqrt(2 ln 1e15) + 0.8 / m) + 3 C^2``, where C^2 is the sum of c^2 and m >= 0.5 the noise multiplier. Sampling
only makes it smaller. So 1,000 steps add at most 1.4e-4 and 2.8e-3 to epsilon.

**What it adds.** A variance of at most ``grid^2 / 12``, 1.3e-6 of the noise's own, which the accounting does not use.
Rounding to the nearest brings no bias that float64 could show. With four bits in the place of eight, the errors above
would be 16 times smaller and the noise's deviation 0.016 % larger, but a plain Kolmogorov-Smirnov test of 100,000
values that leave a partner would reject the coarse law; with eight, a test of 200,000 does not tell it from Gaussian.

**What is not claimed.** The law of what is drawn is not exact in its tails. Box and Muller's values from 64 bits end at
9.49 standard deviations (a Gaussian lies beyond with probability 2.3e-21, one of 71e6 with 1.6e-13); numpy's ziggurat,
whose tail comes from 53 bits, ends at 12.2 (2e-34). Before they end they thin out: beyond 8 (1.2e-15, and 8.8e-8) the
probability of a cell may be off by 1e-4 of itself, and more further out. Against a sum beyond 2^42 standard
deviations, which no clipped sum reaches, float64 holds no noise to speak of.

References
----------
Mironov 2012, "On significance of the least significant bits for differential privacy"; Jin, McMurtry, Rubinstein and
Ohrimenko 2022, arXiv 2112.05307; Haney et al. 2022, arXiv 2207.13793.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

GRID_BITS = 8
LEAST_STD, MOST_STD = 1e-250, 1e250
"""Beyond these, float64 could not hold grid, draw and sum with its full precision."""


def grid_of(std: float) -> float:
    """Return the spacing of the grid under noise of a standard deviation: ``2^(floor(log2(std)) - 8)``.

    Parameters
    ----------
    std : float
        Of the noise, in the units of the sum; from 1e-250 to 1e250.

    Raises
    ------
    ValueError
        The standard deviation is not a number in that range. Zero is not: without noise there is nothing to hide in.

    Examples
    --------
    >>> grid_of(1.0), grid_of(1.99), grid_of(2.0)
    (0.00390625, 0.00390625, 0.0078125)
    """
    if not LEAST_STD <= std <= MOST_STD:
        raise ValueError(f"Expected a standard deviation from {LEAST_STD} to {MOST_STD}, got {std}.")
    return math.ldexp(1.0, math.frexp(std)[1] - 1 - GRID_BITS)


def round_to_grid(noised: NDArray[np.float64] | Tensor, std: float) -> None:
    """Round noised sums to the nearest multiple of ``grid_of(std)``, in place; ties go to the even multiple.

    Parameters
    ----------
    noised : ndarray or Tensor
        float64, of any shape: data plus noise, before anything is scaled or cast. Zero comes out without a sign.
        Infinity and NaN stay. A finite number beyond 2^51 grids keeps 50 of its bits and comes out as a multiple
        of half a grid or of more.
    std : float
        Standard deviation of the noise in it.

    Raises
    ------
    ValueError
        As `grid_of`.
    """
    # Between 2^52 and 2^53 grids, float64 holds multiples of the grid alone, so the addition rounds to it.
    shift = 1.5 * 2.0**52 * grid_of(std)
    noised += shift
    noised -= shift
