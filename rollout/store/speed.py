"""How much all sessions of a run have generated, and in how much time."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rollout.store.metrics import all_lines
from rollout.store.run_record import RunRecord, SessionRecord
from rollout.store.times import moment

_UNENDED = ("running", "killed")
"""States of a session that could not write its own numbers into run.json."""


@dataclass(frozen=True)
class Generated:
    """What one or more sessions have generated. Samples that were lost with a killed session count, like their time."""

    tokens: int
    seconds: float
    output_tok_s: float


_NOTHING = Generated(0, 0.0, 0.0)


def generated_by(run_dir: Path, record: RunRecord) -> Generated | None:
    """What all sessions of the run have generated; None if none has generated, or if it is not known of one of them.

    The numbers of a session that was killed are those of its last line in metrics.jsonl.
    """
    parts = [*_of_sessions(run_dir, record)]
    known = [part for part in parts if part is not None and part.seconds > 0]
    if None in parts or not known:
        return None
    if len(known) == 1:
        return known[0]
    tokens, seconds = sum(part.tokens for part in known), sum(part.seconds for part in known)
    return Generated(tokens, round(seconds, 3), round(tokens / seconds, 1))


def earliest_line(started: str) -> float:
    """The time, in seconds since 1970, from which on lines of metrics.jsonl are of the session that `started` then."""
    return moment(started).timestamp() - 0.001  # both are rounded


def _of_sessions(run_dir: Path, record: RunRecord) -> Iterator[Generated | None]:
    sessions: list[SessionRecord] = [*record.sessions, record]
    begins = [*(earliest_line(session.started) for session in sessions), float("inf")]
    for session, (begin, end) in zip(sessions, pairwise(begins), strict=True):
        yield _of_session(session) or _of_lines(run_dir, begin, end) or (_NOTHING if _has_not_begun(session) else None)


def _of_session(session: SessionRecord) -> Generated | None:
    told, seconds = session.throughput, session.seconds.get("generate")
    return None if told is None or not seconds else Generated(told.generated_tokens, seconds, told.output_tok_s)


def _of_lines(run_dir: Path, begin: float, end: float) -> Generated | None:
    """What the last line of metrics.jsonl between two times says; None without one."""
    last = None
    for line in all_lines(run_dir):
        if begin <= line.get("time", 0.0) < end:
            last = line
    if last is None:
        return None
    try:
        return Generated(last["generated_tokens"], last["elapsed_seconds"], last["output_tok_s"])
    except KeyError:  # another version wrote it
        return None


def _has_not_begun(session: SessionRecord) -> bool:
    """Whether the session ended before it could generate: run.json names the engine once it is loaded."""
    return session.engine is None if session.status in _UNENDED else "generate" not in session.seconds
