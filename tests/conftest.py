"""Shared by all tests."""

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parent / "ops", Path(__file__).parent / "compiler"):
    sys.path.insert(0, str(folder))
