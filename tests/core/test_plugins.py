"""Plugins: found by file, by entry point and in the project's own folder; their versions follow their code."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from longrein.core import plugins
from longrein.core.errors import Error


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plugins, "_project", [])
    plugins.use_project(tmp_path)
    return tmp_path


def write(project: Path, name: str, code: str | bytes, port: str = "trainer") -> Path:
    path = project / "plugins" / port / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(code if isinstance(code, bytes) else code.encode())
    return path


def failure(call: "object", *arguments: str) -> Error:
    with pytest.raises(Error) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value


def test_every_port_has_a_folder_and_every_file_in_it_is_a_plugin() -> None:
    assert {"executor", "reader", "transform", "trainer", "engine"} <= set(plugins.ports())
    for port in plugins.ports():
        for name in plugins.names(port):
            assert not name.startswith("_") and plugins.version(port, name)


def test_names_are_listed_without_importing_anything() -> None:
    code = "import sys; from longrein.core import plugins; [plugins.names(p) for p in plugins.ports()]; "
    code += "print([m for m in sys.modules if m.startswith('longrein.plugins.') or m in ('torch', 'pyarrow')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_unknown_name_lists_the_nearest() -> None:
    error = failure(plugins.load, "executor", "locla")
    assert error.code == "not_found" and "'local'" in error.hint
    for name in ("", "..", "../torch", "_torch", "a.b", "torch.py"):
        assert failure(plugins.load, "trainer", name).code == "not_found"


def test_a_project_brings_its_own(project: Path) -> None:
    write(project, "mine", "plugin = 'the plugin'\n")
    write(project, "_private", "plugin = 1\n")
    assert "mine" in plugins.names("trainer") and "_private" not in plugins.names("trainer")
    assert plugins.load("trainer", "mine") == "the plugin"


def test_two_projects_may_use_one_name(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write(project, "mine", "plugin = 1\n")
    write(other, "mine", "plugin = 2\n")
    loaded = []
    for root in (project, other, project):
        plugins.use_project(root)
        loaded.append(plugins.load("trainer", "mine"))
    assert loaded == [1, 2, 1]


def test_a_project_may_put_its_own_in_place_of_a_built_in(project: Path) -> None:
    write(project, "local", "plugin = 'mine'\n", "executor")
    assert plugins.load("executor", "local") == "mine" and plugins.version("executor", "local") != "1"


def test_a_version_follows_the_code_and_not_the_comments(project: Path) -> None:
    versions = []
    for code in (
        "x = 1\nplugin = x\n",
        "# why\nx   =   1   # because\n\n\nplugin = (x)\n",
        "x = 2\nplugin = x\n",
        "VERSION = 3\nx = 2\nplugin = x\n",
        "VERSION = 3\nx = 99\nplugin = x\n",
        "VERSION = 4\nx = 99\nplugin = x\n",
        "VERSION = str(len('x'))\nplugin = 1\n",
    ):
        write(project, "mine", code)
        versions.append(plugins.version("trainer", "mine"))
    same_as_before = [one == other for one, other in pairwise(versions)]
    assert same_as_before == [True, False, False, True, False, False]


@pytest.mark.parametrize("code", ["def (:\n", b"\xff\xfe\0", "x = '\0'", b"# coding: nonsense\n", "(" * 300])
def test_a_file_that_is_not_python(project: Path, code: str | bytes) -> None:
    write(project, "broken", code)
    error = failure(plugins.version, "trainer", "broken")
    assert error.code == "invalid" and "broken" in error.message


def test_a_file_without_a_plugin(project: Path) -> None:
    write(project, "empty", "x = 1\n")
    error = failure(plugins.load, "trainer", "empty")
    assert error.code == "invalid" and "empty.py has no `plugin`" in error.message


def test_a_missing_package_names_the_extra(project: Path) -> None:
    write(project, "fancy", "import surely_not_installed.deeply\nplugin = 1\n")
    error = failure(plugins.load, "trainer", "fancy")
    assert error.code == "missing_package" and "'surely_not_installed'" in error.message
    assert "longrein[fancy]" in error.hint
    write(project, "ours", "import longrein.nonsense\nplugin = 1\n")
    with pytest.raises(ModuleNotFoundError):  # a defect, and not a package to install
        plugins.load("trainer", "ours")


def test_a_third_party_brings_one_by_an_entry_point(tmp_path: Path) -> None:
    """A distribution as pip leaves it: a package beside its dist-info."""
    (tmp_path / "acme_rein.py").write_text("plugin = 'from acme'\n")
    info = tmp_path / "acme_rein-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-rein\nVersion: 2.5\n")
    (info / "entry_points.txt").write_text("[longrein.trainer]\nacme = acme_rein\ngone = acme_gone\n")
    code = """
import json
from longrein.core import plugins
from longrein.core.errors import Error
try:
    plugins.load("trainer", "gone")
except Error as error:
    code = error.code
print(json.dumps([plugins.names("trainer"), plugins.load("trainer", "acme"), plugins.version("trainer", "acme"), code]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    names, loaded, version, missing = json.loads(done.stdout)
    assert "acme" in names and "torch" in names
    assert (loaded, version, missing) == ("from acme", "acme-rein 2.5", "missing_package")
