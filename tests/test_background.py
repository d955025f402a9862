"""Work beside training: in order, its errors are raised, and none hides another."""

import threading

import pytest

from semg.training.background import Background


def test_work_is_done_in_order_while_the_caller_goes_on():
    done, may_go_on = [], threading.Event()
    with Background() as background:
        background.do(may_go_on.wait)
        background.do(done.append, 1)
        background.do(done.append, 2)
        assert done == []
        may_go_on.set()
    assert done == [1, 2]


def fail():
    raise OSError("No space left on device")


def test_an_error_is_raised_once_and_what_was_given_behind_it_is_not_done():
    done, may_go_on = [], threading.Event()
    background = Background()
    background.do(may_go_on.wait)
    background.do(fail)
    background.do(done.append, 1)
    may_go_on.set()
    with pytest.raises(OSError, match="No space left"):
        background.finish()
    background.finish()
    assert done == []
    background.do(done.append, 2)
    background.finish()
    assert done == [2]


def test_it_ends_with_an_error_of_its_work_but_does_not_hide_another():
    with pytest.raises(OSError, match="No space left"), Background() as background:
        background.do(fail)
    with pytest.raises(KeyError), Background() as background:
        background.do(fail)
        raise KeyError("another")


def test_what_was_given_is_done_before_an_interrupt_goes_on():
    done = []
    with pytest.raises(KeyboardInterrupt), Background() as background:
        background.do(done.append, 1)
        raise KeyboardInterrupt
    assert done == [1]
