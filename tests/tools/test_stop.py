import os
import signal

import pytest

from jtrpo.tools.stop import StopOnSignal


@pytest.fixture(autouse=True)
def python_hears_interrupts():
    """A shell starts what it puts into the background deaf to them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopOnSignal() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert stop.received == number
    assert signal.getsignal(number) == before


def test_the_second_interrupt_stops_at_once():
    with StopOnSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
