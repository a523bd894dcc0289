"""Ctrl-C and SIGTERM in a process that a command runs in."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rayvldd.cli.interrupts import Terminated, exit_code_of, interruptible

_PROCESS = """
import os, sys, time
from rayvldd.cli.interrupts import exit_code_of, interruptible

class SlowToGo:
    write, sleep, seconds = os.write, time.sleep, int(sys.argv[2])  # modules are gone by then

    def __del__(self):
        SlowToGo.write(1, b"going\\n")
        for _ in range(SlowToGo.seconds * 20):
            SlowToGo.sleep(0.05)

kept = SlowToGo() if SlowToGo.seconds else None

try:
    with interruptible():
        print("ready", flush=True)
        for _ in range(600):
            time.sleep(0.05)
except KeyboardInterrupt as error:
    print(type(error).__name__, flush=True)
    for _ in range(int(sys.argv[1]) * 20):
        time.sleep(0.05)
    sys.exit(exit_code_of(error))
"""


def process(
    seconds_to_end: int, ignored: signal.Signals | None = None, seconds_to_go: int = 0
) -> subprocess.Popen[str]:
    def ignore() -> None:
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)

    started = subprocess.Popen(
        [sys.executable, "-c", _PROCESS, str(seconds_to_end), str(seconds_to_go)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=ignore,
    )
    assert started.stdout and started.stdout.readline() == "ready\n"
    return started


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Python's own handlers, also in the background of a shell, where processes start with Ctrl-C ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Terminated")])
def test_the_first_signal_ends_the_block_and_decides_the_exit_code(number: signal.Signals, name: str) -> None:
    with process(seconds_to_end=0) as started:
        started.send_signal(number)
        out, errors = started.communicate()
    assert (out, errors, started.returncode) == (f"{name}\n", "", 128 + number)


def test_the_second_signal_does_not_disturb_the_end_and_the_third_ends_at_once() -> None:
    with process(seconds_to_end=60) as started:
        assert started.stdout and started.stderr
        started.send_signal(signal.SIGTERM)
        assert started.stdout.readline() == "Terminated\n"
        started.send_signal(signal.SIGINT)
        assert started.stderr.readline() == "\n"
        assert started.stderr.readline().startswith("Ending; once more ends at once")
        assert started.poll() is None
        started.send_signal(signal.SIGINT)
        assert (started.stderr.read(), started.wait()) == ("", 128 + signal.SIGINT)


def test_a_signal_while_python_ends_leaves_the_exit_code() -> None:
    with process(seconds_to_end=0, seconds_to_go=2) as started:
        assert started.stdout and started.stderr
        started.send_signal(signal.SIGTERM)
        assert [started.stdout.readline() for _ in range(2)] == ["Terminated\n", "going\n"]
        started.send_signal(signal.SIGINT)
        assert (started.stderr.read(), started.wait()) == ("", 128 + signal.SIGTERM)


def test_a_signal_that_is_ignored_from_the_start_stays_ignored() -> None:
    with process(seconds_to_end=0, ignored=signal.SIGINT) as started:
        started.send_signal(signal.SIGINT)
        started.send_signal(signal.SIGTERM)
        out, errors = started.communicate()
    assert (out, errors, started.returncode) == ("Terminated\n", "", 128 + signal.SIGTERM)


def test_the_handlers_of_the_caller_return_after_the_block() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_sigterm_is_handled_wherever_ctrl_c_is() -> None:
    with pytest.raises(KeyboardInterrupt) as raised, interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert isinstance(raised.value, Terminated) and exit_code_of(raised.value) == 143


def test_sigterm_decides_the_exit_code_though_ray_raises_another_error() -> None:
    with pytest.raises(KeyboardInterrupt) as raised, interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # as Ray's calls do, which notice a signal while they wait
    assert isinstance(raised.value, Terminated) and exit_code_of(raised.value) == 143
