"""Work in a thread: no error ends what repeats, and owners hear of every error, also of a read."""

import threading
from collections.abc import Generator

import pytest

from rayvldd.background import RepeatedCall, in_advance, reading


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


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_reads_are_taken_in_order_and_the_next_one_has_begun() -> None:
    begun, started = list[int](), [threading.Event() for _ in range(4)]

    def read(number: int) -> int:
        begun.append(number)
        started[number].set()
        assert threading.current_thread().name.startswith("reads in order")
        return 10 * number

    found = []
    with reading("reads in order") as begin:
        for value in in_advance(begin, read, range(4)):
            found.append(value)
            assert started[min(value // 10 + 1, 3)].wait(20), "the next one is read before it is asked for"
    assert found == [0, 10, 20, 30] and begun == [0, 1, 2, 3]
    assert threads_of("reads in order") == []


def test_the_error_of_a_read_reaches_its_owner() -> None:
    def read(number: int) -> int:
        if number == 2:
            raise OSError("the disk is gone")
        return number

    found = []
    with pytest.raises(OSError, match="the disk is gone"), reading("failing reads") as begin:
        for value in in_advance(begin, read, range(5)):
            found.append(value)
    assert found == [0, 1], "what was read before is taken before"
    assert threads_of("failing reads") == []


@pytest.mark.parametrize("ended_by", ["closed", "Ctrl-C", "dropped"])
def test_no_thread_is_left_when_reads_end_early(ended_by: str) -> None:
    name, read_ones = f"reads that are {ended_by}", list[int]()

    def read(number: int) -> int:
        read_ones.append(number)
        return number

    def batches() -> Generator[int]:
        with reading(name) as begin:
            yield from in_advance(begin, read, range(1000))

    rows = batches()
    assert next(rows) == 0 and len(threads_of(name)) == 1
    if ended_by == "closed":
        rows.close()
    elif ended_by == "Ctrl-C":
        with pytest.raises(KeyboardInterrupt):
            rows.throw(KeyboardInterrupt)
    else:
        del rows
    assert threads_of(name) == [] and len(read_ones) <= 2
