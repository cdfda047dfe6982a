"""A guarded command: what it says and returns passes through its guard, and nothing of it stays."""

import os
import signal
import subprocess
import sys

import pytest

from envs.process_tree import descendants, guarded
from tests.ended import ended

STAYS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(120)"


@pytest.mark.parametrize(
    ("script", "code"),
    [("read line; echo out $line; echo err >&2; exit 3", 3), ("echo out in; echo err >&2; kill -9 $$", 137)],
)
def test_streams_and_exit_codes_pass_through(script, code):
    found = subprocess.run(guarded(["sh", "-c", script]), input="in\n", capture_output=True, text=True, timeout=60)
    assert (found.stdout, found.stderr, found.returncode) == ("out in\n", "err\n", code)


def test_a_program_that_cannot_be_run_is_named():
    found = subprocess.run(guarded(["/no/such/program"]), capture_output=True, text=True, timeout=60)
    assert (found.stderr, found.returncode) == ("/no/such/program: No such file or directory\n", 127)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_heeds_no_sigterm_ends_with_its_guard(number):
    with subprocess.Popen(guarded([sys.executable, "-S", "-c", STAYS]), stdout=subprocess.PIPE) as guard:
        guard.stdout.readline()
        below = descendants(guard.pid)
        assert len(below) == 1
        guard.send_signal(number)
    assert ended(below) == []


def test_what_is_run_for_a_process_that_is_gone_ends():
    command = guarded(["sleep", "100"])
    command[command.index(str(os.getpid()))] = "1"
    assert subprocess.run(command, timeout=60).returncode == 128 + signal.SIGTERM
