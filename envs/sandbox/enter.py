"""Makes a closed place from user namespaces and becomes its first process; takes bubblewrap's part where it is missing.

A program of its own, so that a process with threads never forks into it. An ordinary user needs no rights but that of
making user namespaces. It imports the standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

NOBODY = 65534
# flags of mount(2); those that a mount has on the host must be kept when it is mounted again
_READ_ONLY, _NO_SUID, _NO_DEV, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_KEPT = {os.ST_NOEXEC: 8, os.ST_NOATIME: 1024, os.ST_NODIRATIME: 2048, os.ST_RELATIME: 1 << 21}
_DETACH = 2
# mount, cgroup, UTS, IPC, user, PID, network
_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_OLD = "/host"
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Make the place that the plan in the first argument describes, and start its command there."""
    plan = json.loads(sys.argv[1])
    _new_namespaces()
    first = os.fork()  # the next process is the first one of the new PID namespace
    if first == 0:
        _make_root(plan)
        _drop_rights()
        os.chdir("/tmp")
        os.execve(plan["command"][0], plan["command"], plan["environment"])
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) != 0)


def _check(result: int, what: str) -> None:
    """Raise `OSError` where a call of the C library failed."""
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _new_namespaces() -> None:
    """Leave all of the host's namespaces; inside, the code will be the user nobody.

    Root's processes are not counted by the kernel. So root maps a second user id, nobody's, which takes a process that
    stays outside; an ordinary user can map only its own id, to nobody's.
    """
    left, entered = os.pipe()
    uid, gid, inside, outside = os.geteuid(), os.getegid(), os.getpid(), 0
    if uid == 0 and (outside := os.fork()) == 0:
        os.read(left, 1)
        _map_two_users(inside)
    _check(_libc.unshare(_NAMESPACES), "unshare")
    os.write(entered, b"1")
    if not outside or os.waitpid(outside, 0)[1]:  # root of a container may have only one id, too
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")


def _map_two_users(process: int) -> NoReturn:
    """Map root and nobody of a process's new namespace to themselves, and end."""
    try:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{process}/{name}").write_text(f"0 0 1\n{NOBODY} {NOBODY} 1")
    except OSError:
        os._exit(1)
    os._exit(0)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount, or raise `OSError` with the target's name."""
    words = [text.encode() if text else None for text in (source, target, kind, options)]
    _check(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount {target}")


def _make_root(plan: dict[str, Any]) -> None:
    """Put an empty root in the host's place, show in it what the plan names, and let go of the host's."""
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    _mount("sandbox", "/tmp", "tmpfs", _NO_SUID | _NO_DEV, "mode=0755,size=1m")
    os.mkdir("/tmp" + _OLD)
    _check(_libc.pivot_root(b"/tmp", b"/tmp" + _OLD.encode()), "pivot_root")
    os.chdir("/")
    for source, target in plan["binds"]:
        _show(source, target, _READ_ONLY | _NO_DEV)
    for device in plan["devices"]:
        _show(device, device, 0)
    for folder in plan["hidden"]:
        _mount("empty", folder, "tmpfs", _READ_ONLY | _NO_SUID | _NO_DEV, "size=4k")
    os.mkdir("/tmp")
    options = f"mode=1777,size={plan['scratch_bytes']},nr_inodes={plan['scratch_files']}"
    _mount("scratch", "/tmp", "tmpfs", _NO_SUID | _NO_DEV, options)
    os.symlink("/tmp", "/dev/shm")  # semaphores and shared memory of `multiprocessing`
    _check(_libc.umount2(_OLD.encode(), _DETACH), "umount2")
    os.rmdir(_OLD)
    _mount("none", "/", None, _REMOUNT | _BIND | _READ_ONLY | _NO_SUID | _NO_DEV)
    hostname = b"sandbox"
    _check(_libc.sethostname(hostname, len(hostname)), "sethostname")


def _show(source: str, target: str, flags: int) -> None:
    """Bind a file or folder of the host to a path inside."""
    place = Path(target)
    if os.path.isdir(_OLD + source):
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(_OLD + source, target, None, _BIND)
    kept = os.statvfs(target).f_flag
    flags |= _NO_SUID | sum(flag for seen, flag in _KEPT.items() if kept & seen)
    _mount("none", target, None, _REMOUNT | _BIND | flags)


def _drop_rights() -> None:
    """Become nobody, without capabilities and without a way to get any: the next program begins with none."""
    capability = 0
    while _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


if __name__ == "__main__":
    main()
