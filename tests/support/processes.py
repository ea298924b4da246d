"""Processes that a command has begun."""

from __future__ import annotations

import subprocess


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has begun and that have not ended."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in listed.stdout.split()]
