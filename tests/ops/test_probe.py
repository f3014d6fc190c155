"""How the machine is: what can be asked is told, and nothing else."""

import os
import stat

import psutil

from longrein.ops.monitor import probe
from longrein.ops.monitor.catalogue import MACHINE

NPU = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc2                 Version: 24.1.rc2                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B3               | OK            | 93.1        41                0    / 0             |
| 0                         | 0000:C1:00.0  | 37          0    / 0          3161 / 65536         |
+===========================+===============+====================================================+
| 1     910B3               | OK            | 90.5        44                0    / 0             |
| 0                         | 0000:01:00.0  | 3           0    / 0          2000 / 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| No running processes found in NPU 0                                                            |
+===========================+===============+====================================================+
"""


def test_the_machine_is_as_its_system_says(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "CPU_S", 0.0)
    while "cpu_share" not in (found := probe.machine(tmp_path)):
        pass  # the system counts in hundredths of a second
    assert set(found) <= set(MACHINE) and 0 <= found["cpu_share"] <= 1
    monkeypatch.setattr(probe, "CPU_S", 3600.0)
    assert {probe.machine(tmp_path)["cpu_share"] for _ in range(5)} == {found["cpu_share"]}
    assert found["memory_total_bytes"] == psutil.virtual_memory().total > found["memory_bytes"] > 0
    assert 0 < found["disk_bytes"] < found["disk_total_bytes"]
    with open(os.devnull):
        assert probe.machine(tmp_path)["open_files"] == found["open_files"] + 1
    assert "disk_bytes" not in probe.machine(tmp_path / "gone")


def test_npus_are_read_from_the_table_of_their_tool():
    chips = probe.read_npu_smi(NPU)
    assert [c["watts"] for c in chips] == [93.1, 90.5] and chips[0]["memory_total_bytes"] == 65536 * 2**20
    found = probe.summed(chips)
    assert set(found) <= set(MACHINE)
    assert found["accelerators"] == 2 and found["accelerator_share"] == (0.37 + 0.03) / 2
    assert found["accelerator_celsius"] == 44 and found["accelerator_memory_bytes"] == 5161 * 2**20


def test_tables_that_are_none_tell_nothing():
    for text in ("", "|||\n||", "| 0 a | b | x |\n" * 3, "卡" * 100, NPU[:700]):
        assert probe.read_npu_smi(text) in ([], probe.read_npu_smi(NPU)[:1])


def test_a_tool_that_fails_or_is_missing_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "_nvidia", dict)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe.accelerators() == {}
    tool = tmp_path / "npu-smi"
    tool.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{NPU}END\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    assert probe.accelerators()["accelerators"] == 2
    tool.write_text("#!/bin/sh\nexit 3\n")
    probe._npus.cache_clear()
    assert probe.accelerators() == {}


def test_without_a_driver_nvml_tells_nothing():
    assert probe._nvidia() == {} or probe._nvidia()["accelerators"] >= 1
