"""Where and by what a result was made: what every JSON file of a command says besides its numbers."""

import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from subp_contract.distribution import VERSION

PACKAGES = ("torch", "apache-tvm", "onnxruntime", "numpy")


def provenance() -> dict:
    """{"date" (UTC, ISO 8601), "host", "cpu", "python", "versions" {package: version, of those installed}}."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": platform.node(),
        "cpu": cpu_model(),
        "python": platform.python_version(),
        "versions": {"subp": VERSION} | {name: found for name in PACKAGES if (found := _version(name))},
    }


def cpu_model(info: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name, as Linux tells it; elsewhere the architecture's."""
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
