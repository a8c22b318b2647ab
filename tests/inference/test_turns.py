"""Many together, or one alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

from terrazzo.inference.turns import Turns


def test_who_is_alone_waits_for_those_who_began_and_holds_up_those_who_did_not() -> None:
    turns, both_in, leave, done = Turns(), Barrier(3), Event(), []

    def together() -> None:
        with turns.together():
            both_in.wait()
            leave.wait()
            done.append("together")

    def alone() -> None:
        with turns.alone():
            done.append("alone")

    def later() -> None:
        with turns.together():
            done.append("later")

    with ThreadPoolExecutor(4) as pool:
        pool.submit(together), pool.submit(together)
        both_in.wait()
        waits = pool.submit(alone)
        while not turns._alone:
            pass
        begins = pool.submit(later)
        assert not done
        leave.set()
        waits.result(), begins.result()
    assert done == ["together", "together", "alone", "later"]


def test_an_error_ends_a_turn() -> None:
    turns = Turns()
    for turn in (turns.together, turns.alone, turns.together, turns.alone):
        try:
            with turn():
                raise MemoryError
        except MemoryError:
            pass
