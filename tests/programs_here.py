"""Programs that tests drive and the project itself runs without; noxfile.py installs them."""

import os
import shutil

import pytest


def needed(name: str) -> str:
    """Give the path of a program; without it, a test is skipped, or fails where nobody looks."""
    found = shutil.which(name)
    if found is None:
        # Where nobody reads the list of what was skipped, a missing tool must not pass.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {name} here; see noxfile.py")
    return found
