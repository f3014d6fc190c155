"""What this machine has and lacks: Python, CPU, memory, disk, accelerators, packages, ledger, store, port."""

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longrein.core.errors import Error

if TYPE_CHECKING:
    from longrein.core.ledger import Ledger

PYTHON = (3, 11)
MEMORY_BYTES, DISK_BYTES = 4 << 30, 5 << 30  # below these the demo may fail


@dataclass(frozen=True)
class Check:
    name: str
    state: str  # ok | lacks (something optional) | bad
    told: str
    hint: str = ""


def machine(folder: Path) -> Iterator[Check]:
    """Of the machine alone; imports none of the heavy packages that it looks for."""
    yield _python()
    yield _cpu()
    yield _memory()
    yield _disk(folder)
    yield from _accelerators()
    yield from _packages()


def project(ledger: "Ledger", home: Path, host: str = "127.0.0.1", port: int = 8000) -> Iterator[Check]:
    """Of a project: is its audit trail unbroken, its database sound, its store writable, its port free?"""
    yield _ledger(ledger)
    yield _store(home / "store")
    yield _key(home / "key")
    yield _port(host, port)


def _python() -> Check:
    told = f"{platform.python_version()} at {sys.executable}"
    good = sys.version_info[:2] >= PYTHON
    return Check("python", "ok" if good else "bad", told, "" if good else "Longrein needs 3.11 or newer")


def _cpu() -> Check:
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return Check("cpu", "ok", f"{usable} usable of {psutil.cpu_count()} ({platform.machine()}){load}")


def _memory() -> Check:
    import psutil

    found = psutil.virtual_memory()
    told = f"{found.available / 1e9:.1f} GB free of {found.total / 1e9:.1f} GB"
    if found.available < MEMORY_BYTES:
        return Check("memory", "lacks", told, "training may be slow or be killed: close something")
    return Check("memory", "ok", told)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    told = f"{free / 1e9:.1f} GB free at {folder}"
    if free < DISK_BYTES:
        return Check("disk", "lacks", told, "free some space: every version of data and models is kept")
    return Check("disk", "ok", told)


def _accelerators() -> Iterator[Check]:
    """What the drivers say: nothing is initialised."""
    found = False
    for name, command in (
        ("gpu", ["nvidia-smi", "-L"]),
        ("gpu", ["rocm-smi", "--showproductname"]),
        ("npu", ["npu-smi", "info", "-l"]),
    ):
        if shutil.which(command[0]):
            told = _said(command)
            found = True
            good = bool(told)
            yield Check(
                name,
                "ok" if good else "lacks",
                told or f"{command[0]} is there but answers nothing",
                "" if good else "look at its driver",
            )
    devices = [p for p in ("/dev/nvidia0", "/dev/kfd", "/dev/davinci0", "/dev/accel0") if Path(p).exists()]
    if devices and not found:
        yield Check(
            "gpu",
            "lacks",
            f"{', '.join(devices)} without its tools",
            "install the driver's tools (nvidia-smi, rocm-smi, npu-smi)",
        )
    elif not found:
        yield Check("gpu", "lacks", "none: training and serving run on the CPU", "a small model does well there")


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [re.sub(r"\s*\(UUID.*\)", "", line).strip() for line in done.stdout.splitlines() if line.strip()]
    return "; ".join(lines[:8]) if done.returncode == 0 else ""


def _packages() -> Iterator[Check]:
    """Each extra of this distribution, and what of it is missing."""
    try:
        required = importlib.metadata.requires("longrein") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", "lacks", "Longrein runs from its sources, not installed", "pip install -e .")
        return
    groups: dict[str, list[str]] = {}
    for line in required:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        found = re.search(r"extra == ['\"](.+?)['\"]", line)
        if name and name[0] != "longrein" and "sys_platform" not in line:
            groups.setdefault(found[1] if found else "", []).append(name[0])
    for extra, names in groups.items():
        if extra == "dev":
            continue
        missing = [n for n in names if not _version(n)]
        shown = ", ".join(f"{n} {_version(n)}" for n in names if _version(n))
        title = f"extra {extra}" if extra else "packages"
        if missing:
            told = f"missing: {', '.join(missing)}" + (f" (has {shown})" if shown else "")
            yield Check(
                title,
                "lacks" if extra else "bad",
                told,
                f"pip install 'longrein[{extra}]'" if extra else "pip install longrein",
            )
        else:
            yield Check(title, "ok", shown)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _ledger(ledger: "Ledger") -> Check:
    where = ledger.db.url.render_as_string(hide_password=True)
    try:
        if ledger.db.sqlite:
            with ledger.db.read() as connection:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if found != "ok":
                return Check("ledger", "bad", f"{where} is damaged: {found}", "restore it from a copy")
        count = ledger.events.verify()
    except Error as error:
        return Check("ledger", "bad", f"{where}: {error.message}", error.hint)
    return Check("ledger", "ok", f"{where}, {count:,} events, unbroken")


def _store(root: Path) -> Check:
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".doctor-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return Check("store", "bad", f"{root} cannot be written: {error.strerror}", "check its owner and the disk")
    left = sum(1 for _ in (root / "staging").glob("*")) if (root / "staging").is_dir() else 0
    return Check("store", "ok", f"{root}" + (f", {left} half-written things in staging" if left else ""))


def _key(path: Path) -> Check:
    if not path.exists():
        return Check("key", "lacks", "this project has no API key yet", "longrein serve makes one")
    if path.stat().st_mode & 0o077:
        return Check("key", "bad", f"others on this machine can read {path}", f"chmod 600 {path}")
    return Check("key", "ok", f"{path} (only its owner can read it)")


def _port(host: str, port: int) -> Check:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return Check("port", "lacks", f"{host}:{port} is in use", "longrein serve --port 0 takes a free one")
    return Check("port", "ok", f"{host}:{port} is free")
