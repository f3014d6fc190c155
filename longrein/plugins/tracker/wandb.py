"""Mirrors runs to Weights & Biases, or, offline, to a folder that `wandb sync` sends later."""

import contextlib
import itertools
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import wandb

from longrein.core import digest
from longrein.core.errors import Error

VERSION = 1


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options. The key comes from the environment, as wandb has it: WANDB_API_KEY."""

    entity: str = ""  # the user or team; else the key's own
    mode: Literal["online", "offline"] = "online"
    dir: str = "."  # where wandb keeps its files, in a folder called wandb


class WandB:
    def __init__(self, options: Mapping[str, Any]) -> None:
        self.config = msgspec.convert(dict(options), Config)
        if self.config.mode == "online" and not os.environ.get("WANDB_API_KEY"):  # wandb itself would stop and ask
            raise Error("unauthorized", "WANDB_API_KEY is not set", "export WANDB_API_KEY=…, or set mode: offline")

    def mirror(self, run: Mapping[str, Any]) -> None:
        """Errors: `unavailable`, with W&B's own words.

        The W&B run has our id, so a second time goes on with it: W&B passes over steps that it has.

        Offline there is nobody to ask: the folder of this run is written anew when the run changed since, unless it was
        synced already.
        """
        mark = digest.of_json({**run, "metrics": [[m["key"], str(m["value"]), m["step"]] for m in run["metrics"]]})
        folder = Path(self.config.dir) / "wandb"
        if self.config.mode == "offline":
            for old in folder.glob(f"offline-run-*-{run['id']}"):
                told = old / "longrein"
                if told.is_file() and told.read_text() == mark:
                    return
                if not list(old.glob("*.synced")):
                    shutil.rmtree(old)
        try:
            self._write(run)
        except wandb.errors.Error as error:
            raise Error("unavailable", f"W&B did not take run {run['id']}: {error}", "is WANDB_API_KEY set?") from error
        for new in folder.glob(f"offline-run-*-{run['id']}"):
            (new / "longrein").write_text(mark)

    def _write(self, run: Mapping[str, Any]) -> None:
        offline = self.config.mode == "offline"
        quiet = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
        )
        session = wandb.init(
            project=re.sub(r"[/\\#?%:]", "-", run["experiment"])[:128], entity=self.config.entity or None,
            id=run["id"], name=run["name"] or None, job_type=run["capability"] or None, mode=self.config.mode,
            dir=self.config.dir, settings=quiet, resume=None if offline else "allow",
            config={"params": run["params"], "tags": run["tags"], "longrein": _about(run)},
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            stack.callback(session.finish, exit_code=0 if run["status"] in ("FINISHED", "RUNNING") else 1)
            for step, points in itertools.groupby(run["metrics"], key=lambda m: m["step"]):
                rows = list(points)
                # W&B counts steps from 0 and takes them in order, as they are here; the step itself is kept beside.
                when = {"step": step, "_timestamp": rows[-1]["ts_ms"] / 1000}
                session.log({m["key"]: m["value"] for m in rows} | when, step=max(step, 0))
        if wandb.run is None:  # nobody else's run is open: wait until wandb's process has written all to disk
            wandb.teardown()


def _about(run: Mapping[str, Any]) -> dict[str, Any]:
    return {k: run[k] for k in ("id", "status", "actor", "started_ms", "ended_ms", "inputs", "outputs")}


plugin = WandB
