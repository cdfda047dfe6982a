"""What the sandbox shows of the host: this Python's program, standard library and the shared libraries they load."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

HOME = "/python"
"""Where the interpreter stands inside, whatever its place on the host."""
PROGRAM = f"{HOME}/bin/python3"
STARTER = f"{HOME}/start/inside.py"
_LIBRARIES = f"{HOME}/shared"
ENVIRONMENT = {
    "PATH": f"{HOME}/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONUTF8": "1",
    "LD_LIBRARY_PATH": _LIBRARIES,
}
"""The whole environment of the code; nothing of the host's is passed on."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_LDD_LINE = re.compile(r"^\s*(?:(?P<name>\S+) => )?(?P<path>/\S+) \(0x", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class View:
    """Files and folders of the host that are shown, read-only.

    Args:
        binds: (path on the host, path inside), without symbolic links on the host's side.
        hidden: folders inside that lie within a shown one and are covered by empty ones.
    """

    binds: tuple[tuple[str, str], ...]
    hidden: tuple[str, ...]


@functools.cache
def view() -> View:
    """Return what a Python of this version needs to run, its installed packages left out.

    Raises:
        OSError: `ldd` cannot be run.
    """
    program, library = os.path.realpath(sys.executable), Path(os.path.realpath(sysconfig.get_path("stdlib")))
    inside = f"{HOME}/{sys.platlibdir}/python{sys.version_info.major}.{sys.version_info.minor}"
    here = Path(__file__).resolve().parent
    binds = [(program, PROGRAM), (str(library), inside)]
    binds += [(str(here / name), f"{HOME}/start/{name}") for name in ("inside.py", "call_filter.py")]
    binds += _shared_libraries([program, *map(str, library.glob("lib-dynload/*.so"))])
    hidden = [f"{inside}/{name}" for name in ("site-packages", "dist-packages") if (library / name).is_dir()]
    return View(tuple(binds), tuple(hidden))


def _shared_libraries(files: list[str]) -> list[tuple[str, str]]:
    """Return the binds of all shared libraries that the files load, in one folder; the loader keeps its own path."""
    listed = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False, timeout=60).stdout
    found: dict[str, str] = {}
    for match in _LDD_LINE.finditer(listed):
        path = match["path"]
        found[f"{_LIBRARIES}/{match['name']}" if match["name"] else path] = os.path.realpath(path)
        # the C library loads this one by itself when a thread ends, so that no program names it
        unwinder = Path(path).with_name("libgcc_s.so.1")
        if match["name"] == "libc.so.6" and unwinder.exists():
            found[f"{_LIBRARIES}/{unwinder.name}"] = str(unwinder.resolve())
    return [(source, target) for target, source in found.items()]
