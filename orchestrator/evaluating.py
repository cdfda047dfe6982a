"""`rejuvenate eval CHECKPOINT`: evaluate a checkpoint with the rollout workers alone."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.loader import as_mapping
from configs.output_file import check_output_file
from configs.run import RunConfig
from orchestrator.console import Console
from orchestrator.evaluation import Evaluation, SetResult, evaluate_set, unmeasured, write
from orchestrator.launchers import launch
from orchestrator.run_directory import in_ray_job, versions
from orchestrator.task_sets import TaskSet, task_sets
from orchestrator.workers import Workers


def evaluate_checkpoint(config: RunConfig, console: Console, out: Path | None = None) -> Evaluation:
    """Start the rollout workers, give them `model.sft`, evaluate set by set, end.

    A set that cannot be measured does not stop the others. Logs go to a temporary folder, which stays where a message
    points to it: a set could not be measured, or the engines failed.

    Args:
        config: of the evaluation; `learner` and `rejuvenation` play no part.
        console: shows progress.
        out: file for the results, written anew after every set.
    """
    about = {"checkpoint": config.model.sft, "versions": versions()} | settings(config)
    results: list[SetResult] = []
    folder = Path(tempfile.mkdtemp(prefix="rejuvenate-eval-"))
    try:
        with contextlib.ExitStack() as open_workers:
            with console.stage("engines ready"):
                workers = open_workers.enter_context(launch(config, folder, learners=False))
                workers.deliver(workers.read(config.model.sft).handles, 0)
            for task_set in task_sets(config):
                with console.stage(f"evaluated on {task_set.name}"):
                    results.append(measure(workers, task_set, config.seed))
                if out is not None:
                    complete = len(results) == len(config.evaluation.sets)
                    write(Evaluation(0, results), out, about | {"complete": complete})
    except RuntimeError as error:
        raise RuntimeError(f"{error}\nlogs: {folder / 'logs'}") from error
    except BaseException as error:  # Ctrl-C, too
        if str(folder) not in str(error):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if all(result.measured for result in results):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        console.say(f"logs: {folder / 'logs'}")
    return Evaluation(0, results)


def measure(workers: Workers, task_set: TaskSet, seed: int) -> SetResult:
    """Evaluate on one set; what the engines raise over it (no episode was over in time, say) is its result."""
    try:
        return evaluate_set(workers, task_set, seed)
    except RuntimeError as error:
        return unmeasured(task_set, " ".join(str(error).partition("\n")[0].split()))


def settings(config: RunConfig) -> dict[str, Any]:
    """What of the configuration an evaluation depends on."""
    plain = as_mapping(config)
    return {name: plain[name] for name in ("seed", "environment", "evaluation", "rollout")}


def check_out(out: Path, *, overwrite: bool = False) -> None:
    """Check that results can be written before anything starts, and make the folder they go to.

    Raises:
        ConfigError: as `check_output_file`, or the file would be deleted with a Ray job.
    """
    if in_ray_job() and not out.is_absolute():
        rule = "must be an absolute path under a Ray job (the uploaded working directory is deleted with the job)"
        raise ConfigError("--out", rule, str(out), "Give a path on storage that outlives the job.")
    check_output_file("--out", out, overwrite=overwrite)
