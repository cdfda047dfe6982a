"""A filter of system calls (seccomp), set by the sandbox's first process for the code that it starts.

The namespaces already keep the code in. The filter takes away what they do not cover (memory that no limit counts,
sockets to a hypervisor, the kernel's keys) and the calls through which most ways out of namespaces led.
Like `inside.py` it runs inside and imports the standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

# calls refused with EPERM: (number on x86_64, number on aarch64)
_REFUSED = {
    # memory that outlives the processes and counts towards no limit of theirs
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186), "mq_open": (240, 180), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    # other processes' memory and files
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # large interfaces of the kernel that Python code has no use for
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "open_by_handle_at": (304, 265),
}  # fmt: skip
_MACHINES = {
    # machine: (column above, AUDIT_ARCH, clone, clone3, socket, socketpair)
    "x86_64": (0, 0xC000003E, 56, 435, 41, 53),
    "aarch64": (1, 0xC00000B7, 220, 435, 198, 199),
}
_X32 = 0x40000000  # x86_64's second table of calls, by which the numbers above could be passed by
_NEW_NAMESPACES = 0x7E020000  # all CLONE_NEW* flags of clone
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in the kernel's struct seccomp_data
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_PR_SET_SECCOMP, _FILTER_MODE, _PR_SET_NO_NEW_PRIVS = 22, 2, 38


def program(machine: str) -> bytes:
    """Return the filter as the kernel reads it, 8 bytes an instruction.

    Raises:
        RuntimeError: a machine whose call numbers are not known here.
    """
    if machine not in _MACHINES:
        raise RuntimeError(f"the filter of system calls knows {', '.join(_MACHINES)}, not {machine}")
    column, arch, clone, clone3, socket, socketpair = _MACHINES[machine]
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    allow = (_RETURN, 0, 0, _ALLOW)
    # an instruction is (code, instructions skipped if true, instructions skipped if false, operand)
    lines = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":
        lines += [(_AT_LEAST, 0, 1, _X32), refuse]
    for numbers in _REFUSED.values():
        lines += [(_EQUAL, 0, 1, numbers[column]), refuse]
    # its flags lie in memory that a filter cannot read; the C library then takes clone
    lines += [(_EQUAL, 0, 1, clone3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    lines += [(_EQUAL, 0, 4, clone), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_ANY_BIT, 0, 1, _NEW_NAMESPACES), refuse, allow]
    for call in (socket, socketpair):
        lines += [(_EQUAL, 0, 4, call), (_LOAD, 0, 0, _FIRST_ARGUMENT), (_EQUAL, 0, 1, 1), allow, refuse]  # AF_UNIX
    return b"".join(struct.pack("HBBI", *line) for line in [*lines, allow])


class _Program(ctypes.Structure):
    """The kernel's struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def close_calls() -> None:
    """Filter this process's system calls, and those of all that it starts, for good.

    Raises:
        OSError: the kernel does not take the filter.
    """
    libc, lines = ctypes.CDLL(None, use_errno=True), program(os.uname().machine)
    block = _Program(len(lines) // 8, lines)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0), (_PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(block))):
        if libc.prctl(*arguments, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl({arguments[0]}) failed")
