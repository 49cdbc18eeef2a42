"""How far a mean or a share may be off: standard errors, and intervals that cover the true value 19 times in 20.

The rows count as drawn from all possible rows: the error comes from the spread between rows. Samples of one row are
similar and never count as independent. `sums` and `sizes` are the sum and the number of the values of each row; the
mean is the pooled one, sum(sums) / sum(sizes). One value per row has size 1.

- Standard errors: Miller 2024, "Adding Error Bars to Evals" (arXiv:2411.00640), by the central limit theorem, also
  clustered, with the usual factor N/(N-1) for N clusters.
- Means: Student's t with N-1 degrees of freedom ("Student" 1908, Biometrika 6(1), 1-25).
- Shares: Wilson 1927 (J. Am. Stat. Assoc. 22(158), 209-212), with the number of independent draws that would have this
  standard error, as in Korn and Graubard 1998 for surveys (Survey Methodology 24(2), 193-201).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
"""The confidence level of all intervals."""

FEWEST = 10
"""The interval of a share is not reliable if fewer rows than this are expected to pass, or to fail."""

NOISE = 1e-14
"""A difference of numbers, as a share of the largest of them, that rounding can make."""

_ROUNDING = 1e-9  # for shares, which are numbers of about 1, a smaller standard error is 0 with rounding errors

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean or a share, and how far it may be off."""

    value: float
    se: float | None
    """Standard error; None if there is only one row."""
    interval: tuple[float, float] | None
    """With 95 % confidence; None for a mean of one row. For a share it lies within 0 and 1 and never has width 0."""
    n: int
    """The number of rows, or of groups of rows if these are the clusters."""
    trusted: bool
    """False if the interval is not reliable: for a share, fewer than FEWEST rows expected to pass or to fail; for a
    mean, a single row, or rows that are all alike; for a score, rows that a rule has stopped by other scores.
    """

    def figures(self) -> dict[str, float | None]:
        """The value, its standard error `se`, and the ends of the interval, `low` and `high`."""
        low, high = self.interval or (None, None)
        return {"value": self.value, "se": self.se, "low": low, "high": high}


@dataclass
class Moments:
    """Adds up rows, some at a time: everything for the error of their pooled mean, for any number of rows.

    Squares are of differences from the first row's mean, so that scores far from 0 lose no digits.
    """

    n: int = 0
    """The number of rows of size > 0."""
    size: float = 0.0
    """The number of values in these rows."""
    _sum: float = 0.0
    _about: float = 0.0
    _squares: float = 0.0
    _products: float = 0.0
    _sizes_squared: float = 0.0
    _largest: float = 0.0
    """The largest absolute value of a row's mean."""

    def add(
        self,
        sums: npt.ArrayLike,
        sizes: npt.ArrayLike = 1,
        times: npt.ArrayLike = 1,
        groups: Sequence[str] | None = None,  # noqa: ARG002
    ) -> None:
        """Add rows of these sums and sizes, each as often as `times` says; their `groups` do not matter here.

        Rows of size 0 are left out.
        """
        sums, sizes, times = _as_columns(sums, sizes, times)
        sums, times, sizes = (column[sizes > 0] for column in (sums, times, sizes))
        if not len(sums):
            return
        if not self.n:
            self._about = float(sums[0] / sizes[0])
        self.n += int(times.sum())
        self.size += float(times @ sizes)
        self._sum += float(times @ sums)
        self._largest = max(self._largest, float(np.abs(sums / sizes).max()))
        with np.errstate(over="ignore"):
            away = sums - self._about * sizes
            self._squares += float(times @ away**2)
            self._products += float(times @ (away * sizes))
            self._sizes_squared += float(times @ sizes**2)

    @property
    def mean(self) -> float:
        """The mean of all values; 0 if only rounding makes it another number. Raises ZeroDivisionError if there are
        none.
        """
        mean = self._sum / self.size
        return mean if abs(mean) > NOISE * self._largest else 0.0

    @property
    def se(self) -> float | None:
        """sqrt(N/(N-1) sum_i (sums_i - mean sizes_i)^2) / sum_i sizes_i over N rows.

        With one value per row this is sqrt(sum_i (v_i - mean)^2 / (N (N-1))). None with fewer than two rows, or if the
        squares are too large for a float.
        """
        if self.n < 2:
            return None
        shift = self.mean - self._about
        residuals = self._squares - 2 * shift * self._products + shift * shift * self._sizes_squared
        if not np.isfinite(residuals):
            return None
        return float(np.sqrt(max(0.0, residuals) * self.n / (self.n - 1)) / self.size)

    def as_mean(self) -> Estimate:
        """The mean with Student's interval."""
        return mean_estimate(self.mean, self.se, self.n, self._largest)

    def as_share(self) -> Estimate:
        """The mean of values from 0 to 1, with Wilson's interval."""
        return share_estimate(self.mean, self.se, self.n)


@dataclass
class GroupSums:
    """Adds up rows as `Moments` does; the clusters are the groups of rows.

    Memory grows with the number of groups, not of rows.
    """

    _groups: dict[str, tuple[float, float]] = field(default_factory=dict)
    """(sum, size) of each group."""

    def add(
        self,
        sums: npt.ArrayLike,
        sizes: npt.ArrayLike = 1,
        times: npt.ArrayLike = 1,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Add rows of these sums and sizes, each as often as `times` says, to their `groups`."""
        sums, sizes, times = _as_columns(sums, sizes, times)
        names, which = np.unique(np.array(groups, object), return_inverse=True)
        added = (np.bincount(which, column * times, len(names)).tolist() for column in (sums, sizes))
        for name, total, size in zip(names.tolist(), *added, strict=True):
            before = self._groups.get(name, (0.0, 0.0))
            self._groups[name] = before[0] + total, before[1] + size

    def as_mean(self) -> Estimate:
        """The mean of all values, with Student's interval."""
        return self._moments().as_mean()

    def as_share(self) -> Estimate:
        """The mean of values from 0 to 1; Wilson's interval, with Student's quantile because groups are few."""
        moments = self._moments()
        return share_estimate(moments.mean, moments.se, moments.n, student_quantile(moments.n - 1))

    def _moments(self) -> Moments:
        moments = Moments()
        sums, sizes = np.array([*self._groups.values()], np.float64).reshape(-1, 2).T
        moments.add(sums, sizes)
        return moments


Clusters = Moments | GroupSums
"""Sums over the units that count as independent: rows, or groups of rows."""


def clusters(grouped: bool) -> Clusters:
    """An empty `GroupSums` or, without groups, `Moments`."""
    return GroupSums() if grouped else Moments()


def mean_of(values: npt.ArrayLike, groups: Sequence[str] | None = None) -> Estimate:
    """The mean of one value per row, such as a paired difference. `groups`: the cluster of each row.

    Raises ZeroDivisionError if there are no values.
    """
    return _added(values, groups).as_mean()


def share_of(values: npt.ArrayLike, groups: Sequence[str] | None = None) -> Estimate:
    """The mean of one value from 0 to 1 per row, such as pass@k. `groups`: the cluster of each row.

    Raises ZeroDivisionError if there are no values.
    """
    return _added(values, groups).as_share()


def _added(values: npt.ArrayLike, groups: Sequence[str] | None) -> Clusters:
    added = clusters(groups is not None)
    added.add(values, groups=groups)
    return added


def mean_estimate(mean: float, se: float | None, n: int, largest: float) -> Estimate:
    """A mean over `n` clusters, with the interval mean ± t se; Student's t has n-1 degrees of freedom.

    `largest` is the largest absolute value of a cluster's mean.
    """
    if se is None:
        return Estimate(value=mean, se=None, interval=None, n=n, trusted=False)
    half = student_quantile(n - 1) * se
    is_spread = se > NOISE * largest
    return Estimate(value=mean, se=se, interval=(mean - half, mean + half), n=n, trusted=is_spread)


def share_estimate(share: float, se: float | None, n: int, quantile: float | None = None) -> Estimate:
    """A share over `n` clusters, with Wilson's interval of `effective_n` draws."""
    share = min(1.0, max(0.0, share))  # for rounding errors
    interval = wilson(share, effective_n(share, se, n), quantile)
    is_trusted = n * min(share, 1 - share) >= FEWEST * (1 - _ROUNDING)
    return Estimate(value=share, se=se, interval=interval, n=n, trusted=is_trusted)


def effective_n(share: float, se: float | None, n: int) -> float:
    """The number of independent draws with this standard error, share (1 - share) / se^2; `n` if `se` is 0 or None."""
    if se is None or se <= _ROUNDING:
        return float(n)
    return share * (1 - share) / se**2


def wilson(share: float, n: float, quantile: float | None = None) -> tuple[float, float]:
    """Wilson's score interval for a share of `n` draws (may be a fraction); by default with the normal quantile."""
    z2 = (normal_quantile() if quantile is None else quantile) ** 2
    if not np.isfinite(z2):  # Student's quantile for no degrees of freedom
        return 0.0, 1.0
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = float(np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n)))) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass
class SeedSums:
    """Adds up rows for the standard error of their pooled mean if the same prompts were sampled with new seeds.

    sqrt(sum_i n_i s_i^2) / sum_i n_i, or sqrt(sum_i s_i^2 / n_i) / N if all rows have equally many samples: the part of
    Miller's variance that comes from within the questions. Only for means of samples, not for pass@k.
    """

    _size: float = 0.0
    _variance: float = 0.0
    _known: bool = True

    def add(self, sizes: npt.ArrayLike, squares: npt.ArrayLike) -> None:
        """Add rows of n_i samples; `squares` are the sums of squared differences from the row's mean."""
        n, squares = _as_columns(sizes, squares)
        self._known &= not (n == 1).any()  # one sample has no variance
        n, squares = n[n > 1], squares[n > 1]
        self._size += float(n.sum())
        self._variance += float((n / (n - 1)) @ squares)

    @property
    def se(self) -> float | None:
        """The standard error; None if a row has only one sample."""
        if not self._known or not self._size or not np.isfinite(self._variance):
            return None
        return float(np.sqrt(self._variance) / self._size)


def student_quantile(degrees: int) -> float:
    """The t with CONFIDENCE between -t and t; infinite for no degrees of freedom."""
    if degrees < 1:
        return float("inf")
    from scipy.special import stdtrit  # costs 0.1 s and 28 MB, which a command without scores saves

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))


def normal_quantile() -> float:
    """The z with CONFIDENCE between -z and z."""
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def _as_columns(*values: npt.ArrayLike) -> list[Floats]:
    """`values` as arrays of one dimension and equal length."""
    return [np.ravel(column) for column in np.broadcast_arrays(*(np.asarray(value, np.float64) for value in values))]
