"""Times as the records of runs have them."""

from datetime import UTC, datetime


def now() -> str:
    """The present time: ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def moment(text: str) -> datetime:
    """The time that `text`, ISO 8601, means; without a zone it is UTC. Raises ValueError for other texts."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
