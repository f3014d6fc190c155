"""A CI pipeline for a project: a file for GitHub Actions or GitLab that checks, releases, packages and deploys."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from longrein.core.errors import Error

FILES = {"github": ".github/workflows/longrein.yml", "gitlab": ".gitlab-ci.yml"}
NAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")  # what a registry takes as a name, and a shell as one word


def write(project: Path, service: str, endpoints: Sequence[str], *, force: bool = False) -> Path:
    """Write the pipeline's file. Errors: `conflict` when there is one with other content, unless forced; `invalid` when
    the project has no endpoint to release, or one whose name a shell would take apart."""
    if not endpoints:
        raise Error("invalid", "longrein.yaml has no endpoint to release yet", "add one, then: longrein ci init")
    for name in endpoints:
        if not NAME.fullmatch(name):
            raise Error(
                "invalid", f"no registry takes {name!r} as a name", "name the endpoint in small letters and digits"
            )
    text = (Path(__file__).parent / "pipelines" / f"{service}.yml").read_text("utf-8")
    text = text.replace("@VERSION@", version("longrein")).replace("@ENDPOINTS@", " ".join(sorted(endpoints)))
    file = project / FILES[service]
    if file.exists() and not force and file.read_text("utf-8") != text:
        raise Error("conflict", f"{file} is there already, with other content", "compare, or: longrein ci init --force")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file
