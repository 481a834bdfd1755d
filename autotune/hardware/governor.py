"""How the kernel sets the clock of the CPUs, which decides how alike two measurements are."""

from autotune.hardware.root import Root


def read_governor(root: Root | None = None) -> str | None:
    """Name the frequency governor of the first CPU; None where the system shows none.

    Virtual machines and containers mostly show none, and neither does any system but Linux.
    """
    text = (root or Root()).read_text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return (text or "").strip() or None
