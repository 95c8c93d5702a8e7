"""Lets a process end with its parent, however the parent ends.

Ray ends the children of a killed actor, but not when the whole of Ray is killed at once (a batch system
does that); an engine left over so would keep its memory, or its GPU, for ever. Always holds: where the
kernel cannot do it (not Linux), nothing is promised and nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it is gone.

    Raises:
        OSError: the kernel refused.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() == 1:  # the parent went before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)
