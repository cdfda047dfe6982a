"""Environments that go wrong in every way, at the step of a task that says so."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from configs.errors import ConfigError
from envs import ConversationEnv, Reply

WAYS = ("raise", "hang", "exit", "kill", "leak", "bomb", "fork", "nonsense", "huge", "deep")
"""What a task's number does, by its place; numbers beyond do nothing."""
STOPS_ITS_SUPERVISOR = 50
"""The number of a task that does, and hangs."""
HELD: list[bytearray] = []


class BrokenEnv(ConversationEnv):
    """Task number n goes wrong as `WAYS[n]` says; `also` begins with some way at once, in the constructor."""

    def __init__(self, *, also: str = "", marks: str = "", stay_s: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_tasks = None
        self.marks = marks
        self.stay_s = stay_s
        self.steps_ever = 0
        if also == "config":
            raise ConfigError("environment.kwargs.also", "must be something else", also, "Say so.")
        if also:
            self.go_wrong(also)

    def task(self, index):
        return {"number": index}

    def first_messages(self, task):
        return f"task {task['number']}"

    def respond(self, text):
        self.steps_ever += 1
        number = self.current_task["number"]
        if number < len(WAYS):
            self.go_wrong(WAYS[number])
        if number == STOPS_ITS_SUPERVISOR:
            os.kill(os.getppid(), signal.SIGSTOP)
            time.sleep(3600)
        metrics = {"steps_ever": self.steps_ever, "process": os.getpid()}
        return Reply("" if self.turns < 2 else "on", reward=0.5, terminated=self.turns == 2, metrics=metrics)

    def expert_turns(self, task):
        return ["a", "b"]

    def go_wrong(self, way):
        if way == "raise":
            raise KeyError("tool broke")
        if way == "hang":  # in C, and holding the GIL: no thread of this process ever runs again
            ctypes.PyDLL(None).sleep(3600)
        if way == "exit":
            os._exit(7)
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "leak":
            while True:
                HELD.append(bytearray(b"x" * (8 << 20)))
        if way == "bomb":  # no process takes too much, but all together do; and they are out of the session
            for _ in range(3):
                subprocess.Popen([sys.executable, "-c", LEAKING], start_new_session=True)
            time.sleep(3600)
        if way == "fork":
            self.fork_on()
        if way == "nonsense":
            os.write(self.connection(), b"\0\0\0\4nope")
            time.sleep(3600)
        if way == "huge":
            os.write(self.connection(), b"\xff\xff\xff\xff")
            time.sleep(3600)
        if way == "deep":
            os.write(self.connection(), (200_000).to_bytes(4, "big") + b"[" * 200_000)
            time.sleep(3600)

    def fork_on(self):
        """Daemons, which fork on and on, in sessions of their own, deaf to signals; their ids go to a file."""
        if os.fork() == 0:
            os.setsid()
            for deaf in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(deaf, signal.SIG_IGN)
            for _ in range(5):
                if os.fork():
                    break  # the parent stays; the child forks on
            with open(self.marks, "a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(3600)
        while not os.path.exists(self.marks) or len(Path(self.marks).read_text().split()) < 6:
            time.sleep(0.01)
        time.sleep(self.stay_s)
        os._exit(0)

    @staticmethod
    def connection():
        """The descriptor of the socket that leads out."""
        sockets = [fd for fd in range(3, 64) if _is_socket(fd)]
        return sockets[-1]


def _is_socket(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:
        return False


LEAKING = """
import time
held = bytearray(b"x" * (80 << 20))
time.sleep(3600)
"""
