"""What asks a run to stop, and what does not."""

import os
import signal

import pytest

from rollout.process.signals import STOPPING, Interrupted, stop_on_signal


def send(signum: signal.Signals) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", STOPPING)
def test_each_of_them_stops_with_the_exit_code_that_a_shell_gives_it(signum: signal.Signals) -> None:
    with pytest.raises(Interrupted) as interrupted, stop_on_signal():
        send(signum)
    assert interrupted.value.exit_code == 128 + signum


def test_a_terminal_that_closes_may_say_so_twice_and_is_not_impatient() -> None:
    with stop_on_signal(ends_process=False) as stop, stop.deferred():
        send(signal.SIGHUP)
        send(signal.SIGHUP)
        with pytest.raises(Interrupted) as interrupted:
            send(signal.SIGINT)
    assert interrupted.value.at_once


@pytest.mark.parametrize("meaning", [signal.SIG_IGN, lambda *_: None], ids=["nohup", "a program's own"])
def test_what_a_closed_terminal_means_to_others_stays(meaning: signal.Handlers) -> None:
    before = signal.signal(signal.SIGHUP, meaning)
    try:
        with stop_on_signal() as stop:
            send(signal.SIGHUP)
            stop.raise_if_requested()
        assert signal.getsignal(signal.SIGHUP) == meaning
    finally:
        signal.signal(signal.SIGHUP, before)
