"""The command `lcm`: one file per command, `console` prints, `compose` shapes the JSON."""

from autotune.cli.app import main

__all__ = ["main"]
