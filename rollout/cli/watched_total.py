"""How many samples a run is asked for, as `rollout watch` shows it while a rule may still stop rows."""

from pathlib import Path
from typing import NamedTuple

from rollout.cli.so_far import input_of
from rollout.config import RunConfig
from rollout.data.row_sampling import SampleCounts, sample_counts
from rollout.errors import UserError
from rollout.postprocess.durable import Durable
from rollout.store.judged import how_far
from rollout.store.outside import Seen
from rollout.tracking.metrics import Point


class Total(NamedTuple):
    """Samples that a run is asked for."""

    samples: int | None
    """None if it cannot be known here."""
    is_most: bool = False
    """Whether a rule may ask for fewer."""


class Totals:
    """The total of one run. What was looked up is kept until the run has more."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._found: tuple[object, Total] | None = None

    def of(self, seen: Seen, point: Point | None, durable: Durable) -> Total:
        """The total as the newest session has said it in `point`, or else as the input and the journal say it."""
        assert seen.record is not None
        rule = seen.record.config.adaptive.until
        if point is not None and (rule is None or _may_be_right(point, seen, durable)):
            return Total(point.samples_total)
        state = (seen.record.started, point is not None and len(durable.parts))
        if self._found is None or self._found[0] != state:
            self._found = state, self._look_up(rule, is_begun=point is not None)
        return self._found[1]

    def _look_up(self, rule: str | None, is_begun: bool) -> Total:
        try:
            run, table = input_of(self._run_dir)
            counts = sample_counts(table, run)
        except (UserError, OSError):  # it is not on this machine
            return Total(None)
        if rule is None or not is_begun:
            return Total(counts.total, is_most=rule is not None)
        return self._judged(counts, run)

    def _judged(self, counts: SampleCounts, run: RunConfig) -> Total:
        """What the rule may ask for, by the samples that are durable."""
        try:
            now = how_far(self._run_dir, counts, run)
        except UserError:  # a part is damaged, which is told elsewhere
            return Total(counts.total, is_most=True)
        return Total(now.num_done + now.num_owed, is_most=now.num_open > 0)


def _may_be_right(point: Point, seen: Seen, durable: Durable) -> bool:
    """Whether the rows may stop as `point` expected: it cannot be if there are more samples by now, nor if there are as
    many and the run has ended before it was done.
    """
    return durable.num_done < point.samples_total + (seen.goes_on or seen.status == "done")
