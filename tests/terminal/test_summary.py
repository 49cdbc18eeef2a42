"""The closing lines of a run on several engines."""

from io import StringIO

import pytest
from rich.console import Console

from rollout.store.run_record import EngineRecord, ReplicaRecord, read
from rollout.terminal.summary import show_summary
from tests.conftest import Rollout, chat


@pytest.mark.parametrize(
    ("rates", "restarts", "line"),
    [
        ([2719.4, 2797.1], 0, "2 replicas: 2,797 and 2,719 tok/s"),
        ([1.0, 3.0, None], 1, "3 replicas: 3, 1 and 0 tok/s, 1 restart"),
        ([float(rate) for rate in range(1000, 1009)], 2, "9 replicas: 1,000 to 1,008 tok/s, median 1,004, 2 restarts"),
    ],
)
def test_the_end_of_a_run_on_several_engines_says_how_fast_they_were(
    rollout: Rollout, rates: list[float | None], restarts: int, line: str
) -> None:
    run_dir = rollout([{"prompt": chat("hello")}])
    record = read(run_dir)
    record.engine = EngineRecord(replicas=[ReplicaRecord(output_tok_s=rate) for rate in rates])
    record.engine.replicas[0].restarts = restarts
    screen = StringIO()
    show_summary(Console(file=screen, width=200), run_dir, record, None, None)
    assert line in screen.getvalue().splitlines()


@pytest.mark.parametrize(
    "engine",
    [None, EngineRecord(), EngineRecord(replicas=[ReplicaRecord(output_tok_s=1.0)])],
    ids=["none", "one", "a replica"],
)
def test_a_run_with_one_engine_or_none_has_no_such_line(rollout: Rollout, engine: EngineRecord | None) -> None:
    run_dir = rollout([{"prompt": chat("hello")}])
    record = read(run_dir)
    record.engine = engine
    screen = StringIO()
    show_summary(Console(file=screen, width=200), run_dir, record, None, None)
    assert "replicas" not in screen.getvalue()
