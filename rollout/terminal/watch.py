"""The output of `rollout watch` about a run, as lines for a terminal or a file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rollout.data.text import counted
from rollout.files import short
from rollout.postprocess.durable import Durable
from rollout.scoring.summary import ScoreSummary
from rollout.store.layout import LOG, OUTPUT, REPORT
from rollout.store.outside import Seen, seconds_since_written
from rollout.store.run_record import RunRecord
from rollout.terminal.estimates import interval_cell, legend, number, percent
from rollout.terminal.progress_line import rates
from rollout.terminal.text import duration, resume_command
from rollout.tracking.metrics import Point

Lines = Iterator[tuple[str, str]]
"""Name of a line -> its text."""

_OF_SESSION = ("running", "silent")
"""States of a run whose newest session has not ended."""

_MOST_ERRORS = 3
_MOST_REPLICAS = 16  # replicas whose rates fit into a line
_QUIET_SECONDS = 60.0  # without output from the run, before a line says so


@dataclass(frozen=True)
class Look:
    """The state of a run at one moment."""

    run_dir: Path
    seen: Seen
    durable: Durable
    point: Point | None
    """The newest line of metrics.jsonl from the newest session."""
    total: int | None
    """Number of samples asked for; None if it cannot be known here."""
    is_most: bool
    """Whether a rule may ask for fewer."""
    now: float
    """Seconds since 1970."""
    scores: ScoreSummary | None = None
    """What is known of the scores before all are there, in a run that a rule stops."""

    @property
    def num_done(self) -> int:
        """Samples that are done, durable or not; a failed one counts as done while its session goes on."""
        done = self.durable.num_done
        return max(done, self.point.samples_done) if self.point and self.seen.status in _OF_SESSION else done

    @property
    def total_in_words(self) -> str:
        """`total`, with its noun."""
        if self.total is None:
            return "? samples"
        return f"{'at most ' if self.is_most else ''}{counted(self.total, 'sample')}"

    @property
    def phase(self) -> str:
        """The current stage, or how the run has ended."""
        if self.seen.status != "running":
            return self.seen.status
        if self.total is not None and self.num_done >= self.total:
            return "finishing"
        return "loading" if self.point is None else "sampling"

    @property
    def eta_seconds(self) -> float | None:
        """The time that is left, if the run goes on at the same speed."""
        if self.point is None or self.point.eta_seconds is None or self.phase != "sampling":
            return None
        return max(0.0, self.point.eta_seconds - (self.now - self.point.time))


def describe(look: Look) -> Lines:
    """Everything about a run, line by line."""
    yield "run", short(look.run_dir)
    yield from _status(look)
    record = look.seen.record
    if record is not None:
        sampling = record.config.sampling
        yield "model", f"{record.config.model.path}, n_samples={sampling.n_samples}, max_tokens={sampling.max_tokens}"
    yield "samples", _samples(look)
    if look.phase == "sampling" and look.point is not None:
        yield from _speed(look, look.point)
    yield from _analysis(look.durable)
    yield from _scores(look.scores)
    for path, reason in look.durable.damaged.items():
        yield "damaged", reason.replace(str(path), short(path))
    yield from _what_next(look, record)


def progress_line(look: Look) -> str:
    """The progress of a run, in one line."""
    parts = [look.phase, _share_done(look)]
    if look.phase == "sampling" and look.point is not None:
        parts.append(rates(look.point, look.eta_seconds))
    parts.append(f"{look.durable.num_done:,} durable")
    if reasons := _reasons(look.durable, but="stop"):
        parts.append(reasons)
    return "  ".join(parts)


def _status(look: Look) -> Lines:
    seen, point = look.seen, look.point
    if seen.status == "killed":
        yield "status", "killed: its process has ended without a word"
    elif not seen.goes_on:
        why = f": {seen.record.error}" if seen.record is not None and seen.record.error else ""
        yield "status", f"{seen.status}{why}"
    else:
        quiet = seconds_since_written(look.run_dir)
        for_long = f"; nothing was written for {duration(quiet)}" if quiet > _QUIET_SECONDS else ""
        doing = f"running: {look.phase}" if seen.status == "running" else seen.status
        if look.phase == "sampling" and point is not None:
            doing += f" for {duration(point.elapsed_seconds + look.now - point.time)}"
        yield "status", f"{doing}{for_long}"
    if seen.holder is not None and (seen.goes_on or seen.status == "killed"):
        yield "process", f"{seen.holder.pid} on {seen.holder.host} since {seen.holder.since}"


def _share_done(look: Look) -> str:
    share = f" ({look.num_done / look.total:.0%})" if look.total else ""
    return f"{look.num_done:,} of {look.total_in_words}{share}"


def _samples(look: Look) -> str:
    durable, record = look.durable, look.seen.record
    if look.phase == "done" and record is not None and record.totals is not None:
        return f"{record.totals.samples:,}, of {counted(record.totals.rows, 'row')}{_failed(record.totals.failed)}"
    rows = counted(durable.num_rows, "row")
    return f"{_share_done(look)}; durable: {durable.num_done:,}, of {rows}{_failed(durable.num_failed)}"


def _failed(count: int) -> str:
    return f", {count:,} failed" if count else ""


def _speed(look: Look, point: Point) -> Lines:
    yield "speed", f"{rates(point, look.eta_seconds)}; {point.running:,} running, {point.waiting:,} waiting"
    if len(point.replica_tok_s_now) > 1:
        yield "replicas", f"{len(point.replica_tok_s_now)}: {_rates_of(point.replica_tok_s_now)} tok/s now"


def _rates_of(replicas: Sequence[float]) -> str:
    if len(replicas) > _MOST_REPLICAS:
        ordered = sorted(replicas)
        return f"{ordered[0]:,.0f} to {ordered[-1]:,.0f}, median {ordered[len(ordered) // 2]:,.0f}"
    return ", ".join(f"{rate:,.0f}" for rate in replicas)


def _analysis(durable: Durable) -> Lines:
    if (tokens := durable.tokens) is not None:
        values = {"mean": tokens.mean, "p50": tokens.p50, "p90": tokens.p90, "p99": tokens.p99, "max": tokens.max}
        yield "tokens", "  ".join(f"{name} {value:,.0f}" for name, value in values.items())
        yield "ended by", _reasons(durable)
    errors = durable.errors
    for error, count in errors.most_common(_MOST_ERRORS):
        yield "error", f"{counted(count, 'sample')}: {error}"
    if len(errors) > _MOST_ERRORS:
        yield "error", f"and {counted(len(errors) - _MOST_ERRORS, 'other')}"


def _scores(scores: ScoreSummary | None) -> Lines:
    if scores is None:
        return
    rate, mean = scores.estimates["pass_rate"], scores.estimates["mean"]
    bars = [interval_cell(rate, percent), interval_cell(mean)]
    also = "" if mean.value == rate.value else f", mean {number(mean.value)} ({bars[1]})"
    yield "scores", f"pass rate {percent(rate.value)} ({bars[0]}){also}; {scores.note}"
    yield from (("", line) for line in legend([bars]))


def _reasons(durable: Durable, but: str | None = None) -> str:
    """How responses ended, as shares of the durable ones."""
    reasons = durable.finish_reasons
    shares = [f"{name} {count / reasons.total():.1%}" for name, count in reasons.most_common() if name != but]
    return ", ".join(shares)


def _what_next(look: Look, record: RunRecord | None) -> Lines:
    run_dir, seen = look.run_dir, look.seen
    if record is None:
        if seen.status == "killed":
            yield "continue", "nothing was begun; give the command again"
    elif seen.status in ("killed", "interrupted", "failed"):
        yield "continue", resume_command(run_dir)
    elif seen.status == "silent":
        yield "continue", f"if it was killed there: {resume_command(run_dir)}"
    elif seen.status == "done":
        yield "results", short(run_dir / OUTPUT)
        if (run_dir / REPORT).exists():
            yield "report", short(run_dir / REPORT)
    if seen.status != "done" and (run_dir / LOG).exists():
        yield "log", short(run_dir / LOG)
