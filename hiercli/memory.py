"""How this process holds its memory."""

import ctypes
import platform


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, for the next step to take again.

    glibc otherwise returns every large block at once, and a training step on a CPU spends about as
    long on getting zeroed pages anew as on computing (``make bench`` shows the ratio), as does the
    preparing of a picture. Elsewhere than under glibc nothing is changed. It holds for the whole
    process, to its end.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    # Older versions take at most 32 MiB. Without this the other option alone would do harm.
    if libc.mallopt(_MMAP_THRESHOLD, 2**30) or libc.mallopt(_MMAP_THRESHOLD, 2**25):
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
