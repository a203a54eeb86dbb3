# SPDX-License-Identifier: Apache-2.0
"""The system packages that Millrace can use and pip cannot bring. Standard library only: the installer reads it too."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SystemPackage:
    """A Debian package, how to see that what it brings is there, and what it is for."""

    name: str
    probe: str
    use: str


SYSTEM_PACKAGES = (
    SystemPackage("libtcmalloc-minimal4", "libtcmalloc_minimal.so.4", "a faster allocator for the CPU engine"),
    SystemPackage("bubblewrap", "bwrap", "the sandbox of graders that run code"),
    SystemPackage("libseccomp2", "libseccomp.so.2", "the system calls that this sandbox lets through"),
    SystemPackage("prometheus", "promtool", "promtool, which checks the alert rules in the tests"),
)


def is_there(probe: str) -> bool:
    """Whether a command is on the path, or a shared library is known to the loader."""
    return shutil.which(probe) is not None if ".so" not in probe else library(probe) is not None


def library(name: str) -> Path | None:
    """Where the loader finds a shared library, or None."""
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
    for line in listing.splitlines():
        if line.split() and line.split()[0] == name:
            return Path(line.rpartition("=> ")[2])
    return None


def missing_packages() -> list[SystemPackage]:
    """Those whose probe finds nothing here."""
    return [package for package in SYSTEM_PACKAGES if not is_there(package.probe)]
