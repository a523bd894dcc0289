"""Work that repeats in a thread: no error ends it, and its owner hears of every kind once."""

import threading

import pytest

from rayvldd.background import RepeatedCall


def test_an_unexpected_error_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    rounds, seen, done = iter(range(100)), [], threading.Event()

    def call() -> None:
        number = next(rounds)
        seen.append(number)
        if number in (0, 1):
            raise KeyError("AWS_PROFILE")
        if number == 2:
            raise RuntimeError("dictionary changed size during iteration")
        if number >= 4:
            done.set()

    with RepeatedCall("lease x", 0.001, call, "not renewed") as repeated:
        assert done.wait(20)
    assert repeated.error is None, "the last round was good"
    assert seen[:5] == [0, 1, 2, 3, 4]
    assert [record.getMessage() for record in caplog.records] == [
        "lease x: not renewed: 'AWS_PROFILE'",
        "lease x: not renewed: dictionary changed size during iteration",
    ]


def test_the_owner_sees_that_the_last_round_failed() -> None:
    failed = threading.Event()

    def call() -> None:
        failed.set()
        raise OSError("disk full")

    with RepeatedCall("study store", 0.001, call, "not kept") as repeated:
        assert failed.wait(20)
    assert str(repeated.error) == "disk full"


def test_a_call_that_is_under_way_is_waited_for() -> None:
    entered, may_end, ended = threading.Event(), threading.Event(), []

    def call() -> None:
        entered.set()
        may_end.wait(20)
        ended.append(True)

    repeated = RepeatedCall("x", 0.001, call, "y").start()
    assert entered.wait(20)
    threading.Timer(0.05, may_end.set).start()
    repeated.stop()
    assert ended
