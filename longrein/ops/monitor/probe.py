"""How this machine is: processors, memory, disk, open files, accelerators. What cannot be asked is left out."""

import math
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import psutil

CPU_S = 0.5
NPU_SMI_S = 5.0  # how often it is asked, and how long it may take: it hangs with its driver
Numbers = dict[str, float]


def machine(project: Path) -> Numbers:
    """The gauges of catalogue.MACHINE that can be told; milliseconds. project: whose disk is meant."""
    memory, found = psutil.virtual_memory(), Numbers()
    if (busy := _processors.share()) is not None:
        found["cpu_share"] = busy
    found["load"] = psutil.getloadavg()[0]
    found["memory_bytes"], found["memory_total_bytes"] = memory.total - memory.available, memory.total
    with suppress(OSError):
        disk = shutil.disk_usage(project)
        found["disk_bytes"], found["disk_total_bytes"] = disk.used, disk.total
    with suppress(psutil.Error, OSError):
        process = psutil.Process()
        found["open_files"], found["rss_bytes"] = process.num_fds(), process.memory_info().rss
    return found


class _Processors:
    """What share of them was in use, over the last half second or more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before: tuple[float, float] | None = None
        self._share: float | None = None
        self._at = -math.inf

    def share(self) -> float | None:
        """None the first time."""
        with self._lock:
            if time.monotonic() - self._at >= CPU_S:
                times = psutil.cpu_times()
                now = sum(times[:8]), times.idle + getattr(times, "iowait", 0.0)  # Linux' guests are in user already
                if self._before and now[0] > self._before[0]:
                    idle = (now[1] - self._before[1]) / (now[0] - self._before[0])
                    self._share = min(max(1.0 - idle, 0.0), 1.0)
                self._before, self._at = now, time.monotonic()
            return self._share


_processors = _Processors()


def accelerators() -> Numbers:
    """NVIDIA's by NVML (package nvidia-ml-py), Ascend's by npu-smi, summed up; empty where there are none."""
    return _nvidia() or _ascend()


@cache
def _nvml() -> Any:
    """The library, started; None where the package or the driver is missing."""
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _nvidia() -> Numbers:
    if not (nvml := _nvml()):
        return {}

    def ask(what: Callable[[Any], Any], handle: Any) -> Any:
        try:
            return what(handle)
        except nvml.NVMLError:  # MIG slices tell no utilisation, some cards no power
            return None

    each: list[Numbers] = []
    for i in range(ask(lambda _: nvml.nvmlDeviceGetCount(), None) or 0):
        if (handle := ask(nvml.nvmlDeviceGetHandleByIndex, i)) is None:
            continue
        use, memory = ask(nvml.nvmlDeviceGetUtilizationRates, handle), ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        watts = ask(nvml.nvmlDeviceGetPowerUsage, handle)
        celsius = ask(lambda h: nvml.nvmlDeviceGetTemperature(h, nvml.NVML_TEMPERATURE_GPU), handle)
        told = {"share": use and use.gpu / 100, "watts": watts and watts / 1000, "celsius": celsius}
        told |= {"memory_bytes": memory and memory.used, "memory_total_bytes": memory and memory.total}
        each.append({name: float(value) for name, value in told.items() if value is not None})
    return summed(each)


def _ascend() -> Numbers:
    program = shutil.which("npu-smi")
    return summed(_npus(program, int(time.monotonic() / NPU_SMI_S))) if program else {}


@lru_cache(maxsize=1)
def _npus(program: str, turn: int) -> list[Numbers]:
    """What it says, asked once a turn, for it takes a second."""
    try:
        done = subprocess.run([program, "info"], capture_output=True, timeout=NPU_SMI_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return read_npu_smi(done.stdout.decode("utf-8", "replace"))


def read_npu_smi(text: str) -> list[Numbers]:
    """The chips in the table that `npu-smi info` prints, two lines each:

    | 0     910B3         | OK            | 93.1        41                0    / 0             |
    | 0                   | 0000:C1:00.0  | 37          0    / 0          3161 / 65536         |
    """
    found: list[Numbers] = []
    first: list[str] | None = None
    for line in text.splitlines():
        cells = [cell.split() for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|") or len(cells) != 3 or not cells[2] or not _number(cells[2][0]):
            first = None
        elif first is None:
            first = cells[2]
        else:
            chip: Numbers = {}
            values = [float(word) for word in cells[2] if _number(word)]
            for name, word in zip(("watts", "celsius"), first, strict=False):
                if _number(word):
                    chip[name] = float(word)
            if values:
                chip["share"] = values[0] / 100
            if len(values) >= 3:
                chip["memory_bytes"], chip["memory_total_bytes"] = values[-2] * 2**20, values[-1] * 2**20
            found.append(chip)
            first = None
    return found


def summed(each: list[Numbers]) -> Numbers:
    """Several accelerators as one: the mean of their shares, the hottest one's temperature, the sum of the rest."""
    if not each:
        return {}
    found: Numbers = {"accelerators": len(each)}
    for name in ("share", "memory_bytes", "memory_total_bytes", "watts", "celsius"):
        if told := [numbers[name] for numbers in each if name in numbers]:
            whole = max(told) if name == "celsius" else sum(told) / (len(told) if name == "share" else 1)
            found[f"accelerator_{name}"] = whole
    return found


def _number(word: str) -> bool:
    return word.replace(".", "", 1).isdigit()
