"""Shared by all tests."""

import os
import sys
from pathlib import Path

# Containers often forbid bytecode; each of the hundred processes that tests start would then compile every module anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

for folder in (Path(__file__).parent, Path(__file__).parent / "ops", Path(__file__).parent / "compiler"):
    sys.path.insert(0, str(folder))
