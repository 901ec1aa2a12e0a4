"""Checks of the Python environment: who owns which import name, which versions, which providers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from mcp.cli.finding import Finding

DISTRIBUTION: Final = "message-coordination-protocol"
CONTEXT_PROTOCOL_SDK: Final = "mcp"
PYTHON_MIN: Final = (3, 11)
PYSYNCOBJ_MIN: Final = (0, 3, 17)
PYSYNCOBJ_BELOW: Final = (0, 4)
RUNTIMES: Final = ("onnxruntime", "onnxruntime-gpu")
REQUIRED: Final = ("msgpack", "cryptography", "numpy", "google-crc32c", "click", "rich", "psutil")


def packaging_checks() -> Iterator[Finding]:
    """Run every check of this module."""
    owners = metadata.packages_distributions()
    yield python_version(sys.version_info[:3])
    yield import_name(owners)
    yield shadowing(Path(__file__).resolve(), sys.path)
    yield required_packages(REQUIRED)
    yield pysyncobj_version(installed_version("pysyncobj"))
    yield runtimes([name for name in RUNTIMES if installed_version(name)])
    yield providers()


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or ``None``."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def python_version(version: Sequence[int]) -> Finding:
    """Check the interpreter's version."""
    found = ".".join(map(str, version))
    if tuple(version) >= PYTHON_MIN:
        return Finding("Python", "ok", found)
    wanted = ".".join(map(str, PYTHON_MIN))
    return Finding(
        "Python", "fail", found, f"install Python {wanted} or later and create the environment anew"
    )


def import_name(owners: Mapping[str, Sequence[str]]) -> Finding:
    """Check that nobody else installed an import package ``mcp``, given the distributions by import name."""
    check = "import name 'mcp'"
    others = sorted({name for name in owners.get("mcp", ()) if normal(name) != DISTRIBUTION})
    if not others:
        return Finding(check, "ok", f"belongs to {DISTRIBUTION} alone")
    who = ", ".join(
        f"{name} (the Model Context Protocol SDK)" if normal(name) == CONTEXT_PROTOCOL_SDK else name
        for name in others
    )
    return Finding(
        check,
        "fail",
        f"also installed by {who}",
        "the two cannot share an environment, for each overwrites the other's files: create a virtual "
        f"environment for this one (python3 -m venv .venv && .venv/bin/pip install {DISTRIBUTION})",
    )


def normal(distribution: str) -> str:
    """Return a distribution's name as package indexes compare it."""
    return distribution.lower().replace("_", "-").replace(".", "-")


def shadowing(own_file: Path, search_path: Sequence[str]) -> Finding:
    """Check that ``import mcp`` finds this package from anywhere, not only from the current folder."""
    check = "import of 'mcp'"
    own_root = own_file.parents[2]
    for entry in search_path:
        folder = Path(entry or ".").resolve()
        if folder != own_root and (
            (folder / "mcp" / "__init__.py").is_file() or (folder / "mcp.py").is_file()
        ):
            return Finding(
                check,
                "fail",
                f"{folder} has another 'mcp', this one is in {own_root}",
                "whichever comes first on Python's path wins: remove the other, or use a fresh environment",
            )
    return Finding(check, "ok", f"from {own_root}")


def required_packages(names: Sequence[str]) -> Finding:
    """Check that every package that a node needs is installed."""
    versions = {name: installed_version(name) for name in names}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        advice = f"pip install {' '.join(missing)}"
        return Finding("packages", "fail", f"missing: {', '.join(missing)}", advice)
    return Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def pysyncobj_version(version: str | None) -> Finding:
    """Check that the consensus engine is a version whose internals are guarded."""
    wanted = "pip install 'pysyncobj>=0.3.17,<0.4'"
    if version is None:
        return Finding("pysyncobj", "fail", "not installed", wanted)
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    if PYSYNCOBJ_MIN <= numbers < PYSYNCOBJ_BELOW:
        return Finding("pysyncobj", "ok", version)
    return Finding("pysyncobj", "fail", f"{version} is not one that the guards were tested with", wanted)


def runtimes(installed: Sequence[str]) -> Finding:
    """Check that exactly one distribution provides onnxruntime."""
    check = "onnxruntime"
    if len(installed) == 1:
        return Finding(check, "ok", f"{installed[0]} {installed_version(installed[0])}")
    if installed:
        return Finding(
            check,
            "fail",
            f"{' and '.join(installed)} are both installed, and own the same files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install the one that you want: "
            "onnxruntime-gpu for CUDA, otherwise onnxruntime",
        )
    return Finding(check, "fail", "not installed", "pip install onnxruntime (or onnxruntime-gpu for CUDA)")


def providers() -> Finding:
    """Check which execution providers the installed onnxruntime was built with."""
    try:
        # Imported only here, because the doctor must survive an installation that is broken.
        found = importlib.import_module("executor.onnx").providers_available()
    except Exception as error:
        advice = "install it again: pip install --force-reinstall onnxruntime"
        return Finding("providers", "fail", f"onnxruntime does not load: {error}", advice)
    if "cpu" in found:
        return Finding("providers", "ok", ", ".join(found))
    return Finding("providers", "warn", ", ".join(found) or "none", "models need at least the cpu provider")
