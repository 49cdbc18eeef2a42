"""The state of every row of a run whose rule stops rows (`adaptive`), and the verdict of the rule on it.

This is the one place that knows how many samples such a row has. It takes a byte for each sample that a row may get,
and eight more for `until=agree`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.config import RunConfig
from rollout.data.row_sampling import SampleCounts
from rollout.data.stopping import DONE, FAILED, NO_TRUTH, NO_VOTE, PASSED, SCORED, Verdict, judge, vote_of
from rollout.records import Outcome, Sample, outcome_of
from rollout.store.journal import Finished, finished, parts, read_part

_COLUMNS = ["row_id", "sample_idx", "error", "is_scored", "score", "extracted_answer", "score_error"]
_TOLD = [*_COLUMNS, "seed", "finish_reason", "num_prompt_tokens", "num_generated_tokens"]


class Asked(NamedTuple):
    """What is asked for of a row now; samples by their sample_idx."""

    to_generate: list[int]
    to_score: list[int]
    """Samples that are in the journal without their scores."""
    spared: int = 0
    """How many samples that were counted as owed need not be generated, because the row has enough now."""
    settled: int = 0
    """How many samples that row might have had. Both are 0 if nothing changes, negative if the row is open again."""


_NOTHING = Asked([], [])


@dataclass(frozen=True)
class Selection:
    """What the rule has decided: how many samples each row has, and why no more."""

    counts: SampleCounts
    stopped: list[str]
    """For each row."""
    without_truth: int
    """Rows that have no ground truth."""


@dataclass(frozen=True)
class Survey:
    """How far the run is, in samples of all rows."""

    asked: int
    """How many there may be at most in the end."""
    num_done: int
    """How many of these have a response."""
    unscored: int
    """How many of those have no score, though the rule asks for it."""
    num_open: int
    """How many of `asked` belong to rows that may stop before they have them all."""

    @property
    def num_owed(self) -> int:
        """Samples still to be generated, at most."""
        return self.asked - self.num_done

    @property
    def is_complete(self) -> bool:
        """Whether nothing is to be done for any row."""
        return not self.unscored and not self.num_owed


@dataclass(frozen=True)
class Telling:
    """How the outcome of a sample is encoded for the rule."""

    pass_score: float
    no_truth: str | None
    """The `score_error` of a sample whose row has no ground truth; None where the rule needs none."""
    has_votes: bool
    """Whether the rule looks at answers."""

    @classmethod
    def of(cls, run: RunConfig) -> "Telling":
        """For the rule of `run`."""
        score, has_votes = run.postprocess.score, run.adaptive.until == "agree"
        return cls(score.pass_score, None if has_votes else score.no_truth, has_votes)

    def outcome(self, sample: Sample) -> Outcome:
        """The outcome of a sample that has failed or has its score."""
        told = outcome_of(sample)
        if sample.error is not None:
            return told._replace(flags=FAILED)
        passes = sample.score is not None and sample.score >= self.pass_score
        has_no_truth = self.no_truth is not None and sample.score_error == self.no_truth
        flags = DONE | SCORED | (PASSED if passes else 0) | (NO_TRUTH if has_no_truth else 0)
        return told._replace(flags=flags, vote=vote_of(sample.extracted_answer) if self.has_votes else NO_VOTE)


class Judged:
    """What is known of every sample, and so of every row.

    A row is open until the rule says that it has enough. `begin` says which samples to generate first; `hear`, which is
    called with each outcome, which ones next.
    """

    def __init__(self, counts: SampleCounts, run: RunConfig) -> None:
        """`counts` says how many samples each row gets at most."""
        self.counts = counts
        self.telling = Telling.of(run)
        self._rule = run.adaptive
        self._bytes = bytearray(counts.total)
        self._flags = np.frombuffer(self._bytes, np.uint8)  # the same memory, as an array
        self._votes = np.zeros(counts.total if self.telling.has_votes else 0, np.int64)
        self._failed = set[int]()  # places of samples that are in the journal with an error
        self._asked: dict[int, int] = {}
        """row_id -> how many samples were asked for, of rows that have begun and are open."""

    def verdict(self, row_id: int) -> Verdict:
        """The verdict of the rule on a row now."""
        first, end = self._place(row_id)
        votes = self._votes[first:end].tolist() if self.telling.has_votes else ()
        return judge(self._rule, bytes(self._bytes[first:end]), votes)

    def begin(self, row_id: int) -> Asked:
        """What is asked for when a row begins. Samples that failed before are tried again."""
        end, reason = self.verdict(row_id)
        if reason is None:
            self._asked[row_id] = end
        return self._missing(row_id, 0, end)

    def unscored(self, row_id: int) -> list[int]:
        """Samples of a row that are in the journal without their scores, asked for or not."""
        first, end = self._place(row_id)
        return self._missing(row_id, 0, end - first).to_score

    def hear(self, outcome: Outcome) -> Asked:
        """A sample has its score, or has failed. Returns what is asked for because of that."""
        before, place = self.verdict(outcome.row_id), self._place(outcome.row_id)[0] + outcome.sample_idx
        self._bytes[place] |= outcome.flags
        if self.telling.has_votes and not self._bytes[place] & FAILED:
            self._votes[place] = outcome.vote
        return self._after(outcome.row_id, before)

    def forget(self, outcome: Outcome) -> Asked:
        """Take back a sample: it is lost, and will be heard of again. Returns what is asked for because of that."""
        before, place = self.verdict(outcome.row_id), self._place(outcome.row_id)[0] + outcome.sample_idx
        self._bytes[place] = FAILED if place in self._failed else 0
        self._asked.setdefault(outcome.row_id, before.end)
        return self._after(outcome.row_id, before)

    @property
    def has_unscored(self) -> bool:
        """Whether the journal has samples without their scores, asked for or not."""
        return bool(((self._flags & (DONE | SCORED)) == DONE).any())

    def survey(self, failed_too: bool = False) -> Survey:
        """How far all rows are; with `failed_too`, samples that failed count as done."""
        if not self._flags.any():
            return Survey(self.counts.total, 0, 0, self.counts.total)
        asked = num_done = unscored = num_open = 0
        for row_id in self._row_ids():
            verdict, (first, _) = self.verdict(row_id), self._place(row_id)
            most = self._most(row_id, verdict)
            flags = self._flags[first : first + most]
            asked += most
            num_done += int(np.count_nonzero(flags & (DONE | FAILED if failed_too else DONE)))
            unscored += int(np.count_nonzero((flags[: verdict.end] & (DONE | SCORED)) == DONE))
            num_open += most if verdict.reason is None else 0
        return Survey(asked, num_done, unscored, num_open)

    def selection(self) -> Selection:
        """What the rule has decided. Raises RuntimeError if a row is open."""
        verdicts = [self.verdict(row_id) for row_id in self._row_ids()]
        if is_open := [row for row, verdict in enumerate(verdicts) if verdict.reason is None]:
            raise RuntimeError(f"samples of row {self.counts.first_row + is_open[0]} are not in the journal")
        ends = np.array([verdict.end for verdict in verdicts], np.int64)
        without_truth = np.maximum.reduceat(self._flags & NO_TRUTH, self.counts.places[:-1]) if verdicts else ends
        return Selection(
            SampleCounts.of_each(ends, self.counts.first_row),
            [str(found.reason) for found in verdicts],
            int(np.count_nonzero(without_truth)),
        )

    def read(self, run_dir: Path) -> None:
        """Add what the journal in `run_dir` holds. Raises UserError for a part that cannot be read."""
        for path in parts(run_dir):
            part = read_part(path, _COLUMNS)
            part = part.filter(self.counts.asks_for(part))
            places = self.counts.places_of(part)
            flags, is_known = self._flags_of(part), (self._flags[places] & SCORED) != 0
            self._failed.update(places[flags == FAILED].tolist())
            self._flags[places] |= np.where(is_known, flags & FAILED, flags)  # of two scores the older one counts
            if len(self._votes):
                self._read_votes(part, places, ~is_known)
        if len(self._votes):
            self._votes[(self._flags & FAILED) != 0] = NO_VOTE

    def _flags_of(self, part: pa.Table) -> npt.NDArray[np.uint8]:
        """Of the samples of a part, as `Telling` has them; DONE alone of one that has no score yet."""
        flags = np.where(part.column("error").is_null(), DONE, FAILED).astype(np.uint8)
        is_scored = part.column("is_scored").fill_null(False).to_numpy()
        scores = part.column("score").fill_null(float("-inf")).to_numpy()
        flags[is_scored] |= SCORED
        flags[is_scored & (scores >= self.telling.pass_score)] |= PASSED
        if self.telling.no_truth is not None:
            says = pc.equal(part.column("score_error"), self.telling.no_truth)
            flags[pc.fill_null(says, False).to_numpy()] |= NO_TRUTH
        return flags

    def _read_votes(self, part: pa.Table, places: npt.NDArray[np.int64], is_new: npt.NDArray[np.bool_]) -> None:
        answers = part.column("extracted_answer").filter(pa.array(is_new))
        self._votes[places[is_new]] = [vote_of(answer) for answer in answers.to_pylist()]

    def _missing(self, row_id: int, start: int, end: int) -> Asked:
        """Which of the samples `start` to `end` of a row are to be generated, and which to be scored."""
        first, _ = self._place(row_id)
        known = enumerate(self._bytes[first + start : first + end], start)
        lacking = [(number, flags & DONE) for number, flags in known if flags & (DONE | SCORED) != DONE | SCORED]
        return Asked([number for number, done in lacking if not done], [number for number, done in lacking if done])

    def _after(self, row_id: int, before: Verdict) -> Asked:
        """What is asked for of a row whose verdict was `before` and may have changed."""
        now, asked = self.verdict(row_id), self._asked.get(row_id, before.end)
        beyond = max(asked, now.end)
        spared = settled = 0
        if (before.reason is None) != (now.reason is None):
            sign, budget = -1 if now.reason is None else 1, self.counts.of(row_id)
            settled, spared = sign * budget, sign * len(self._missing(row_id, beyond, budget).to_generate)
        if now.reason is not None and beyond == now.end:
            self._asked.pop(row_id, None)
        else:
            self._asked[row_id] = beyond
        more = self._missing(row_id, asked, now.end) if asked < now.end and now.reason is None else _NOTHING
        return more._replace(spared=spared, settled=settled) if settled else more

    def _most(self, row_id: int, verdict: Verdict) -> int:
        """How many samples a row may have at most in the end."""
        return self.counts.of(row_id) if verdict.reason is None else verdict.end

    def _place(self, row_id: int) -> tuple[int, int]:
        row = row_id - self.counts.first_row
        return int(self.counts.places[row]), int(self.counts.places[row + 1])

    def _row_ids(self) -> range:
        return range(self.counts.first_row, self.counts.first_row + self.counts.num_rows)


def judged(run_dir: Path, counts: SampleCounts, run: RunConfig) -> Judged:
    """What the journal in `run_dir` holds, judged by the rule of `run`."""
    found = Judged(counts, run)
    found.read(run_dir)
    return found


def how_far(run_dir: Path, counts: SampleCounts, run: RunConfig, failed_too: bool = False) -> Finished | Survey:
    """How far the run is that the journal in `run_dir` is of. Raises UserError for a part that cannot be read."""
    if run.adaptive.until is None:
        return finished(run_dir, counts, failed_too)
    return judged(run_dir, counts, run).survey(failed_too)


def outcomes_of(run_dir: Path, writer: str, telling: Telling | None = None) -> Iterator[Outcome]:
    """The outcomes of all samples that this writer has made durable.

    With `telling` (a rule stops rows), samples without their scores are left out, as if they had not been generated.
    """
    for path in parts(run_dir):
        if path.name.startswith(f"part-{writer}-"):
            for values in read_part(path, _TOLD).to_pylist():
                sample = Sample(**values, response=None)
                if telling is None:
                    yield outcome_of(sample)
                elif sample.error is not None or sample.is_scored:
                    yield telling.outcome(sample)
