"""Times as the records have them."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from rollout.store.times import moment, now


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_a_time_without_a_zone_is_utc_wherever_it_is_read(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert moment("2026-01-01T12:00:00") == datetime(2026, 1, 1, 12, tzinfo=UTC)
        assert moment("2026-01-01T12:00:00+09:00") == datetime(2026, 1, 1, 3, tzinfo=UTC)
        assert abs(moment(now()) - datetime.now(UTC)) < timedelta(seconds=5)
    finally:
        monkeypatch.undo()
        time.tzset()
