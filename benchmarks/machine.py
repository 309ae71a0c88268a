"""What a measurement was made on, for the results that are no pytest-benchmark's, which notes it itself."""

import datetime
import importlib.metadata
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpuinfo import get_cpu_info

ROOT = Path(__file__).parents[1]


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """The processor, the versions of these packages, the date and the commit."""
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "cpu": {"brand_raw": get_cpu_info().get("brand_raw"), "count": os.cpu_count()},
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
    }
