"""Mirrors runs to Weights & Biases, or, offline, to a folder that `wandb sync` sends later."""

import contextlib
import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import wandb

from longrein.core import digest

VERSION = 1


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options. The key comes from the environment, as wandb has it: WANDB_API_KEY."""

    entity: str = ""  # the user or team; else the key's own
    mode: Literal["online", "offline"] = "online"
    dir: str = "."  # where wandb keeps its files, in a folder called wandb


class WandB:
    def __init__(self, options: Mapping[str, Any]) -> None:
        self.config = msgspec.convert(dict(options), Config)

    def mirror(self, run: Mapping[str, Any]) -> None:
        """The W&B run has our id, so a second time goes on with it: W&B passes over steps that it has.

        Offline there is nobody to ask: the folder of this run is written anew when the run changed since, unless it was
        synced already.
        """
        mark = digest.of_json({**run, "metrics": [[m["key"], str(m["value"]), m["step"]] for m in run["metrics"]]})
        folder = Path(self.config.dir) / "wandb"
        if self.config.mode == "offline":
            for old in folder.glob(f"offline-run-*-{run['id']}"):
                if (old / "longrein").is_file() and (old / "longrein").read_text() == mark:
                    return
                if not list(old.glob("*.synced")):
                    shutil.rmtree(old)
        session = wandb.init(
            project=run["experiment"], entity=self.config.entity or None, id=run["id"], name=run["name"] or None,
            config={"params": run["params"], "tags": run["tags"], "longrein": _about(run)}, job_type=run["capability"] or None,
            mode=self.config.mode, dir=self.config.dir, resume="allow" if self.config.mode == "online" else None,
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True,
            ),
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            stack.callback(session.finish, exit_code=0 if run["status"] in ("FINISHED", "RUNNING") else 1)
            for step, points in itertools.groupby(run["metrics"], key=lambda m: m["step"]):
                # W&B counts steps from 0 and takes them in order, as `metrics` is; the step itself is kept beside.
                values = {m["key"]: m["value"] for m in points}
                session.log({**values, "step": step}, step=step if step >= 0 else None)
        if self.config.mode == "offline":
            for new in folder.glob(f"offline-run-*-{run['id']}"):
                (new / "longrein").write_text(mark)


def _about(run: Mapping[str, Any]) -> dict[str, Any]:
    return {k: run[k] for k in ("id", "status", "actor", "started_ms", "ended_ms", "inputs", "outputs")}


plugin = WandB
