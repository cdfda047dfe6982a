"""How long the retail service desk takes to restore its database and to reset, in milliseconds.

Run `make bench-retail`; `ARGS="--path FOLDER"` measures tau-bench's data in place of the generated shop.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import time
from collections.abc import Callable

from envs.retail.database import Database
from envs.retail.environment import RetailEnv


def milliseconds(action: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median and the largest time of `action` in ms."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times), max(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", help="folder with tau-bench's retail data; without it the generated shop")
    parser.add_argument("--repeats", type=int, default=500)
    arguments = parser.parse_args()
    env = RetailEnv(path=arguments.path)
    template = env.dataset.template
    source = sqlite3.connect(":memory:")
    source.deserialize(template)

    def backup() -> None:
        copy = sqlite3.connect(":memory:")
        source.backup(copy)
        copy.close()

    tasks = iter([env.task(index % (env.num_tasks or 100)) for index in range(arguments.repeats)])
    measured = {
        "restore the database (deserialize)": lambda: Database(template).close(),
        "the same by sqlite3's backup": backup,
        "reset the environment on a given task": lambda: env.reset(options={"task": next(tasks)}),
    }
    print(f"database of {len(template):,} bytes, {arguments.repeats} times each: median and largest, ms")
    for name, action in measured.items():
        median, largest = milliseconds(action, arguments.repeats)
        print(f"{name:40} {median:8.3f} {largest:8.3f}")
    env.close()


if __name__ == "__main__":
    main()
