"""What the figures were measured on."""

import os
import platform
import re
from pathlib import Path


def hardware() -> str:
    """Processor and number of cores that this process may use."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = named[1].strip() if named else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def slug(text: str) -> str:
    """`text` as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def load_average() -> float:
    return os.getloadavg()[0]


def last_level_cache() -> float | None:
    """Size of the first core's largest cache, in MiB; None where the kernel does not say (it does on Linux, in K)."""
    places = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return int(places[-1].read_text().strip().removesuffix("K")) / 1024 if places else None
