"""Signals: answered in a thread, obeyed at the end of a step."""

import os
import signal
import subprocess
import sys
import time

import pytest

from charlm.training.signals import StopSignals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_sets_the_flag_and_is_announced(name: str) -> None:
    announced: list[str] = []
    before = signal.getsignal(getattr(signal, name))
    with StopSignals(announced.append) as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), getattr(signal, name))
        for _ in range(500):
            if announced:
                break
            time.sleep(0.01)
        assert stop.is_set() and stop.reason == name
    assert announced == [name]
    assert signal.getsignal(getattr(signal, name)) == before


BUSY = """
import hashlib, time
from charlm.training.signals import StopSignals
with StopSignals(lambda name: print(name, time.time(), flush=True)) as stop:
    print("ready", flush=True)
    # One long call that, like a backward pass, lets other threads run, but no handler of Python's.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**7)
    print("end", stop.reason, flush=True)
    time.sleep(60)
"""


def test_it_is_answered_while_the_main_thread_is_busy_and_twice_leaves_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        sent = time.time()
        process.send_signal(signal.SIGINT)
        name, answered = process.stdout.readline().split()
        assert name == "SIGINT"
        assert float(answered) - sent < 1.0, "before the long call has ended"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
