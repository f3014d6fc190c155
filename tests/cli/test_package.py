"""package, unpack and ci: what leaves a project is reproducible and signed, and is verified before another loads it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import check_jsonschema
import kubernetes_validate
import pytest
import yaml

import longrein as lr
from longrein.cli import _serving
from longrein.core.digest import canonical
from longrein.models.package.layout import Layout

from .conftest import Call

SKOPEO = shutil.which("skopeo") and shutil.which("docker-registry")
needs_registry = pytest.mark.skipif(not SKOPEO, reason="needs Debian's packages skopeo and docker-registry")


@pytest.fixture
def packed(applied: Path, call: Call, tmp_path: Path) -> tuple[Path, str]:
    """(layout, fingerprint of the key that signed it)."""
    done = call("package", "support", "--to", tmp_path / "package", "-C", applied, "--json")
    assert done.code == 0, done.err
    return tmp_path / "package", done.data["signer"]


def blobs(layout: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (layout / "blobs" / "sha256").iterdir()}


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_release_is_the_same_package_byte_for_byte(applied: Path, call: Call, tmp_path: Path) -> None:
    for format in ("modelpack", "image"):
        for name in ("one", "other"):
            assert (
                call("package", "support@1", "--format", format, "--to", tmp_path / format / name, "-C", applied).code
                == 0
            )
        assert tree(tmp_path / format / "one") == tree(tmp_path / format / "other")
        assert not [p for p in (tmp_path / format).iterdir() if p.name.startswith(".")]


def test_unpacked_release_is_served_and_answers(
    packed: tuple[Path, str], applied: Path, call: Call, tmp_path: Path
) -> None:
    home = tmp_path / "server"
    done = call("unpack", packed[0], "--into", home, "--trust", packed[1], "--json")
    assert done.code == 0, done.err
    assert call("unpack", packed[0], "--into", home, "--trust", packed[1]).code == 0  # again: the same version
    there, here = lr.open(home), lr.open(applied)
    assert done.data["digest"] == here.asset("release:support@prod").digest
    assert [r.version for r in there.ledger.assets.recent("release", "support")] == [1]
    verdict = there.ledger.aliases.verdicts(done.data["digest"])
    assert [(v.gate, v.passed) for v in verdict] == [("quality", True)]
    assert packed[1] in verdict[0].actor
    shutil.copytree(applied / "plugins", home / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    with _serving.started(there) as gateway:
        gateway.settled(30)
        body = {"model": "support", "messages": [{"role": "user", "content": "money back r1"}]}
        headers = {"authorization": f"Bearer {there.secret()}", "content-type": "application/json"}
        request = urllib.request.Request(f"{gateway.url}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["choices"][0]["message"]["content"] == "refund"


def test_gates_of_the_project_that_loads_it_count(
    packed: tuple[Path, str], applied: Path, call: Call, tmp_path: Path
) -> None:
    """The verdict travels with the signature, for a gate of the same definition; another gate must judge itself."""
    for name, limit, code in (("same", 0.6, 0), ("stricter", 0.7, 5)):
        home = tmp_path / name
        home.mkdir()
        (home / "longrein.yaml").write_text(f"project: {name}\n")
        assert call("unpack", packed[0], "--trust", packed[1], "-C", home).code == 0
        workspace = lr.open(home)
        from longrein.models import gate

        config = gate.Config(metrics={"exact_match": gate.Threshold(min=limit, max_drop=0.05)})
        workspace.ledger.aliases.guard("release", "support", "prod", {"quality": gate.digest(config)}, actor="test")
        found = call("promote", "release:support@1", "-C", home)
        assert (found.code == 0) == (code == 0), found.err


def test_every_changed_byte_is_refused(packed: tuple[Path, str], call: Call, tmp_path: Path) -> None:
    layout, key = packed
    home = tmp_path / "server"
    for name, content in blobs(layout).items():
        if content == b"{}":  # the empty config of the statement: nothing of it is read
            continue
        blob = layout / "blobs" / "sha256" / name
        middle = len(content) // 2
        blob.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        done = call("unpack", layout, "--into", home, "--trust", key)
        used = any(name in text for text in (m.decode("latin-1") for m in blobs(layout).values()))
        if done.code == 0:  # the description that registries show is not read here, but still signed
            assert used and b'"modelfs"' in content
            shutil.rmtree(home, ignore_errors=True)
        blob.unlink()
        if done.code:
            assert call("unpack", layout, "--into", home, "--trust", key).code != 0
        blob.write_bytes(content)
    shutil.rmtree(home, ignore_errors=True)
    assert call("unpack", layout, "--into", home, "--trust", key).code == 0


def test_unknown_key_unsigned_and_swapped_signatures_are_refused(
    packed: tuple[Path, str], applied: Path, call: Call, tmp_path: Path
) -> None:
    layout, key = packed
    refused = call("unpack", layout, "--into", tmp_path / "server")
    assert refused.code == 5 and key in refused.err
    assert call("unpack", layout, "--into", tmp_path / "server", "--trust", "0" * 32).code == 5
    index = json.loads((layout / "index.json").read_bytes())
    (layout / "index.json").write_bytes(canonical({**index, "manifests": index["manifests"][:1]}))
    unsigned = call("unpack", layout, "--into", tmp_path / "server", "--trust", key)
    assert unsigned.code == 5 and "not signed" in unsigned.err
    other = call(
        "package", "support@1", "--to", tmp_path / "other", "--key", tmp_path / "k", "-C", applied, "--json"
    ).data
    assert (
        other["signer"] != key
        and other["digest"] == json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]
    )
    assert not (tmp_path / "server").exists()


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "", "model/../../outside"])
def test_package_cannot_write_outside_itself(
    name: str, packed: tuple[Path, str], applied: Path, call: Call, tmp_path: Path
) -> None:
    """Not even one that a trusted key signed."""
    from longrein.models.package import pack

    layout = Layout.make(tmp_path / "evil")
    layers = [layout.put(b"x", pack.WORDS, annotations={pack.FILEPATH: name})]
    made = layout.manifest("v1", layout.put(b"{}", pack.CONFIG), layers, artifactType=pack.ARTIFACT)
    workspace = lr.open(applied)
    statement = pack._statement(workspace.ledger, workspace.asset("release:support@1"), made)
    pack._sign(layout, made, statement, applied / ".longrein" / "package.key")
    done = call("unpack", tmp_path / "evil", "--into", tmp_path / "server", "--trust", packed[1])
    assert done.code == 2 and "outside itself" in done.err
    assert not list(tmp_path.rglob("outside"))


def test_folders_that_are_no_package(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no OCI image layout" in call("unpack", tmp_path / "empty", "--into", tmp_path / "x").err
    Layout.make(tmp_path / "layout")
    assert "0 ModelPack artifacts" in call("unpack", tmp_path / "layout", "--into", tmp_path / "x").err
    (tmp_path / "layout" / "index.json").write_text('{"manifests": [{"digest": "sha256:../../x", "size": 1}]}')
    assert call("unpack", tmp_path / "layout", "--into", tmp_path / "x").code == 2


def test_image_adds_the_package_to_its_base(applied: Path, call: Call, tmp_path: Path) -> None:
    """The entry point finds a package where it looks for one, and a shell runs it."""
    base = Layout.make(tmp_path / "base")
    layer = base.put(b"\0" * 10240, "application/vnd.oci.image.layer.v1.tar")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=b"]},
        "rootfs": {"diff_ids": [layer["digest"]]},
    }
    base.manifest("base", base.put_json(config, "application/vnd.oci.image.config.v1+json"), [layer])
    command = ("package", "support", "--format", "image", "--base", tmp_path / "base", "--to", tmp_path / "image")
    made = call(*command, "-C", applied, "--json").data
    image = Layout(tmp_path / "image")
    manifest = image.read(image.index()[0])
    held = image.read(manifest["config"])
    assert [entry["digest"] for entry in manifest["layers"]] == held["rootfs"]["diff_ids"]
    assert manifest["layers"][0] == layer and held["config"]["Env"] == ["A=b"]
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["tar", "-xf", image.path(manifest["layers"][1]), "-C", root], check=True)
    line = held["config"]["Entrypoint"][2].replace("/opt/", f"{root}/opt/").replace("/var/lib/longrein", f"{root}/home")
    line = line.replace("longrein ", f"{sys.executable} -m longrein.cli.main ").partition("&& exec")[0]
    subprocess.run(["/bin/sh", "-c", line], check=True, env={**os.environ, "LONGREIN_TRUST": made["signer"]})
    assert lr.open(root / "home").asset("release:support@prod").digest == made["release"]


def test_manifests_fit_the_schemas_of_kubernetes(applied: Path, call: Call, tmp_path: Path) -> None:
    image = "registry.example/team/support@sha256:" + "0" * 64
    command = ("package", "support", "--image", image, "-C", applied)
    assert call(*command, "--format", "kubernetes", "--to", tmp_path / "k.yaml").code == 0
    documents = list(yaml.safe_load_all((tmp_path / "k.yaml").read_text()))
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    assert "&id" not in (tmp_path / "k.yaml").read_text()
    assert call(*command, "--format", "kserve", "--to", tmp_path / "s.yaml").code == 0
    service = yaml.safe_load((tmp_path / "s.yaml").read_text())
    pod = {k: v for k, v in service["spec"]["predictor"].items() if not k.endswith("Replicas")}
    shown = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
    kubernetes_validate.validate(shown, kubernetes_validate.latest_version(), strict=True)
    assert call(*command, "--format", "kserve", "--to", tmp_path / "s.yaml").code == 4  # never over a file
    unpinned = call(
        "package", "support", "--format", "kserve", "--to", tmp_path / "u.yaml", "--image", "a/b:v1", "-C", applied
    )
    assert unpinned.code == 2 and "digest" in unpinned.err


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_pipelines_fit_their_schemas_and_are_not_overwritten(service: str, applied: Path, call: Call) -> None:
    made = Path(call("ci", "init", f"--{service}", "-C", applied, "--json").data["file"])
    schema = {"github": ["vendor.github-workflows"], "gitlab": ["vendor.gitlab-ci", "--data-transform", "gitlab-ci"]}
    check = [sys.executable, "-m", check_jsonschema.__name__, "--builtin-schema", *schema[service], str(made)]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    text = made.read_text()
    made.write_text(text + "# mine\n")
    assert call("ci", "init", f"--{service}", "-C", applied).code == 4 and made.read_text() != text
    assert call("ci", "init", f"--{service}", "--force", "-C", applied).code == 0 and made.read_text() == text


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Debian's docker-registry; where it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    (tmp_path / "registry.yml").write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        ["docker-registry", "serve", tmp_path / "registry.yml"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    assert any("listening on" in line for line in process.stderr)
    threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
    yield address
    process.kill()
    process.communicate()


@needs_registry
def test_pipeline_runs_as_written_against_a_real_registry(
    project: Path, call: Call, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitLab's script, line by line: apply, package, sign, push, manifests. What was pushed is loaded elsewhere."""
    settings = tmp_path / ".config" / "containers" / "registries.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    base = Layout.make(tmp_path / "scratch")
    layer = base.put(b"\0" * 10240, "application/vnd.oci.image.layer.v1.tar")
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}
    base.manifest("base", base.put_json(config, "application/vnd.oci.image.config.v1+json"), [layer])
    run: Callable[..., Any] = subprocess.run
    run(["skopeo", "copy", "-q", f"oci:{tmp_path}/scratch:base", f"docker://{registry}/base:v1"], check=True)
    call("ci", "init", "--gitlab", "-C", project)
    script = yaml.safe_load((project / ".gitlab-ci.yml").read_text())["release"]["script"]
    lines = [line for line in script if not line.startswith(("apt-get", "pip"))]
    assert len(lines) == len(script) - 2
    shim = tmp_path / "bin" / "longrein"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m longrein.cli.main "$@"\n')
    shim.chmod(0o755)
    env = os.environ | {
        "PATH": f"{shim.parent}:{os.environ['PATH']}", "LONGREIN_BASE_IMAGE": f"{registry}/base:v1",
        "LONGREIN_PACKAGE_KEY": str(tmp_path / "package.key"), "CI_REGISTRY": registry, "CI_REGISTRY_USER": "ci",
        "CI_REGISTRY_PASSWORD": "x", "CI_REGISTRY_IMAGE": f"{registry}/team/tickets",
    }  # fmt: skip
    bash = ["bash", "-xeo", "pipefail", "-c", "\n".join(lines)]
    done = run(bash, cwd=project, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    manifests = list(yaml.safe_load_all((project / "dist" / "support.yaml").read_text()))
    image = manifests[0]["spec"]["template"]["spec"]["containers"][0]["image"]
    shown = json.loads(run(["skopeo", "inspect", f"docker://{image}"], check=True, capture_output=True).stdout)
    assert len(shown["Layers"]) == 2 and "dev.longrein.release" in shown["Labels"]
    pushed = json.loads((project / "dist" / "support" / "index.json").read_text())["manifests"]
    for tag in (m["annotations"]["org.opencontainers.image.ref.name"] for m in pushed):
        source = f"docker://{registry}/team/tickets/support:{tag}"
        run(["skopeo", "copy", "-q", "--preserve-digests", source, f"oci:{tmp_path}/pulled:{tag}"], check=True)
    trust = manifests[0]["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"]
    assert call("unpack", tmp_path / "pulled", "--into", tmp_path / "server", "--trust", trust).code == 0
