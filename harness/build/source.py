# SPDX-License-Identifier: BSD-2-Clause
"""The seL4 5.0.0 source, out of the cargo package that bundles it.

`kernel_patches/source/` pins the package and its checksum (`Cargo.lock`). cargo downloads it
through whatever registry or mirror it is configured for and verifies the checksum; here the
files are verified once more against the checksums that cargo wrote next to them. After the
first time nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

from harness.build.artefacts import PROJECT
from harness.build.cache import Damage, publish
from harness.errors import BuildFailure, MissingPackage

MANIFEST_DIRECTORY = PROJECT / "kernel_patches" / "source"
PACKAGE = "sel4-sys"


def pinned_package() -> tuple[str, str]:
    """Version and SHA-256 of the package that `Cargo.lock` pins."""
    lock = tomllib.loads((MANIFEST_DIRECTORY / "Cargo.lock").read_text())
    for package in lock["package"]:
        if package["name"] == PACKAGE:
            return package["version"], package["checksum"]
    raise BuildFailure(f"{MANIFEST_DIRECTORY / 'Cargo.lock'}: no entry for {PACKAGE}; restore the file from git")


def fetch_kernel_source() -> Path:
    """Directory of the unpatched seL4 source, downloaded on first use and verified each time.

    Raises MissingPackage without cargo, BuildFailure if the download fails or a file's checksum
    is wrong.
    """
    version, checksum = pinned_package()
    name = f"source-{checksum[:16]}"

    def fill(directory: Path) -> None:
        _vendor(directory, version)

    package = publish(name, fill)
    try:
        verify_package(package, checksum)
    except BuildFailure as damage:
        # Once more from the registry, or from cargo's own cache.
        Damage(package, str(damage)).mend()
        package = publish(name, fill)
        verify_package(package, checksum)
    return package / "seL4"


def verify_package(package: Path, checksum: str) -> None:
    """Compare every file of a vendored package with cargo's list, and the list with the pinned checksum.

    Raises BuildFailure that names the first file that differs.
    """
    remedy = f"delete {package} and run the command again"
    try:
        listed = json.loads((package / ".cargo-checksum.json").read_text())
    except (OSError, ValueError) as error:
        raise BuildFailure(f"{package}: cannot read cargo's checksums ({error}); {remedy}") from error
    if listed.get("package") != checksum:
        raise BuildFailure(f"{package}: package checksum {listed.get('package')}, pinned is {checksum}; {remedy}")
    for name, expected in sorted(listed["files"].items()):
        path = package / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise BuildFailure(f"{path}: missing or changed since the download; {remedy}")


def _vendor(directory: Path, version: str) -> None:
    """Let cargo vendor the package into `directory`."""
    cargo = shutil.which("cargo")
    if cargo is None:
        raise MissingPackage("cargo", "apt-get install cargo", "it downloads the seL4 source")
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        work = Path(scratch)
        for file in ("Cargo.toml", "Cargo.lock", "lib.rs"):
            shutil.copyfile(MANIFEST_DIRECTORY / file, work / file)
        vendor = work / "vendor"
        command = [cargo, "vendor", "--locked", "--versioned-dirs", "--manifest-path", str(work / "Cargo.toml")]
        # Without a network the package may still be in cargo's own cache.
        for extra in ([], ["--offline"]):
            result = subprocess.run([*command, *extra, str(vendor)], cwd=work, capture_output=True, text=True)
            if result.returncode == 0:
                break
        else:
            raise BuildFailure(
                f"cargo could not download {PACKAGE} {version}; check the network or cargo's registry settings:\n"
                + result.stderr.strip()[-2000:]
            )
        for entry in sorted((vendor / f"{PACKAGE}-{version}").iterdir()):
            entry.rename(directory / entry.name)
