"""Shared by all tests."""

import os
import signal
import sys
from pathlib import Path

# Containers often forbid bytecode; each of the hundred processes that tests start would then compile every module anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What a shell starts in the background ignores Ctrl-C, and so would all that it starts: some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

for folder in (Path(__file__).parent, Path(__file__).parent / "ops", Path(__file__).parent / "compiler"):
    sys.path.insert(0, str(folder))
