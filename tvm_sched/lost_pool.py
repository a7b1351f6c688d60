"""Keeps a forked process from waiting for ever, as it ends, for threads that only its parent had.

glibc's `exit` calls the destructors of the thread's C++ variables first. TVM's pool of threads is one, and destroys the
condition variables on which its workers slept when the process was forked: `pthread_cond_destroy` waits for a waiter
that is no more (glibc 2.36, as gdb shows it; the calls that follow know the exit code, so nothing can end the process
in its stead). So the child forgets what TVM's library has registered: the pool is left to the system.

glibc keeps such destructors in a list, {function, object, library, next} (since 2.18), whose head is a variable of the
thread's in glibc. Registering one of an object that nobody else has tells which: the one that points to it then. Where
none does, as with another C library, nothing is done.
"""

import ctypes
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

LIBC, RUNTIME = "libc.so", "libtvm_runtime.so"
WORD = ctypes.sizeof(ctypes.c_void_p)
OBJECT, LIBRARY, NEXT = (number * WORD for number in (1, 2, 3))  # in an entry of the list
PT_TLS = 7  # of <elf.h>: a thread's variables
MOST_ENTRIES = 10_000


class _Segment(ctypes.Structure):  # Elf64_Phdr
    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("offset", "address", "physical", "in_file", "in_memory", "alignment")),
    )


class _Library(ctypes.Structure):  # dl_phdr_info of <link.h>
    _fields_ = (
        ("base", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("segments", ctypes.POINTER(_Segment)),
        ("count", ctypes.c_uint16),
        ("loaded", ctypes.c_ulonglong),
        ("unloaded", ctypes.c_ulonglong),
        ("number", ctypes.c_size_t),
        ("variables", ctypes.c_size_t),  # of the calling thread
    )


@dataclass(frozen=True)
class Destructors:
    """The calling thread's list."""

    head: int  # address of the variable that points to the first
    runtime: int  # where TVM's library begins

    def forget(self) -> int:
        """Takes those of TVM's library out of the list; returns how many. Reads and writes memory, and calls nothing,
        so that a child may do it that has just been forked.
        """
        link, found = self.head, 0
        for _ in range(MOST_ENTRIES):
            if not (entry := _word(link)):
                break
            if _word(_word(entry + LIBRARY)) == self.runtime:  # the library's description begins with where it lies
                ctypes.c_size_t.from_address(link).value = _word(entry + NEXT)
                found += 1
            else:
                link = entry + NEXT
        return found


_of_thread = threading.local()


def destructors() -> Destructors | None:
    """The calling thread's, which do not move; None where they cannot be told."""
    if not hasattr(_of_thread, "destructors"):
        _of_thread.destructors = _found() if WORD == 8 else None
    return _of_thread.destructors


def _found() -> Destructors | None:
    libc, ours = ctypes.CDLL(None), ctypes.create_string_buffer(WORD)
    if not all(hasattr(libc, name) for name in ("__cxa_thread_atexit_impl", "dl_iterate_phdr")):
        return None
    register = libc.__cxa_thread_atexit_impl
    runtime = next((base for name, base, *_ in _libraries() if name.startswith(RUNTIME)), None)
    if runtime is None:
        return None
    mine, nothing = ctypes.addressof(ours), ctypes.cast(libc.getpid, ctypes.c_void_p)
    register.argtypes = (ctypes.c_void_p,) * 3
    # What is called would be `getpid`. A thread's first must name a library: glibc notes the last that was named, and
    # writes to its description.
    register(nothing, mine, nothing)
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:  # where nothing is, reading fails and no more
            for _, _, variables, size in (each for each in _libraries() if each[0].startswith(LIBC)):
                for head in range(variables, variables + size if variables else 0, WORD):
                    if _safe_word(memory.fileno(), _word(head) + OBJECT) == mine:
                        ctypes.c_size_t.from_address(head).value = _word(_word(head) + NEXT)
                        return Destructors(head, runtime)
    except OSError:
        pass
    _kept.append(ours)  # which its destructor gets
    return None


_kept: list = []


def _libraries() -> Iterator[tuple[str, int, int, int]]:
    """(name, where it begins, the thread's variables in it, their bytes) of each."""
    found = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Library), ctypes.c_size_t, ctypes.c_void_p)
    def note(pointer, _size, _data):
        each = pointer.contents
        sizes = [segment.in_memory for segment in each.segments[: each.count] if segment.kind == PT_TLS]
        found.append((os.path.basename(os.fsdecode(each.name or b"")), each.base, each.variables, sum(sizes)))
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(note, None)
    return iter(found)


def _word(address: int) -> int:
    """That lies there."""
    return ctypes.c_size_t.from_address(address).value


def _safe_word(memory: int, address: int) -> int | None:
    """The same, None where nothing is."""
    try:
        content = os.pread(memory, WORD, address)
    except (OSError, OverflowError):
        return None
    return int.from_bytes(content, "little") if len(content) == WORD else None
