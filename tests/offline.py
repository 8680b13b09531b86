"""Run a command of ours so that any attempt at a network connection ends it."""

import subprocess
import sys
from pathlib import Path

GUARD = """
import os, runpy, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        print("NETWORK", event, arguments, file=sys.stderr, flush=True)
        os._exit(99)  # an exception could be caught, or end no more than a thread

sys.addaudithook(refuse)  # cannot be taken away again, and sees what libraries do as well
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run_offline(module: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """``python -m module arguments``; exit code 99 if it looked up a host or opened a connection."""
    words = [sys.executable, "-c", GUARD, module, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, check=False)
