"""Alpha and rho of a run, chosen on the engines: workers are stand-ins, the rule and the repairs are real."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console as RichConsole

from configs.environment import EnvironmentConfig
from configs.model import ModelConfig
from orchestrator.choosing import CHOICE_FILE, choose_repair
from orchestrator.console import Console
from orchestrator.rejuvenating import RejuvenationWorker, read_tensors
from orchestrator.transport import InProcessTransport, receive
from policies.trajectory import Trajectory
from rejuvenation.choice import Choice, Trial
from tests.orchestrator.fakes import run_config

AUTO = ["rejuvenation.alpha=auto", "rejuvenation.rho=auto", "rejuvenation.auto.alphas=[0.7,0.4]"]
AUTO += ["rejuvenation.auto.rhos=[0.01]", "rejuvenation.auto.prompts=6", "rejuvenation.auto.samples=4"]
AUTO += ["rejuvenation.auto.k=4", "rollout.temperature=0.7"]


class FakeWorkers:
    """Engines that solve, of a candidate's four episodes per task, as many as `solves` says."""

    def __init__(self, solves):
        self.solves, self.asked, self.jobs, self.now = solves, [], [], None

    def candidate(self, config, alpha, rho):
        self.asked.append((alpha, rho))
        return [(alpha, rho)], 0.25 if rho else 0.0

    def deliver(self, handles, version):
        (self.now,) = handles
        assert version == 0

    def reset_prefix_cache(self): ...

    def generate(self, jobs, environment, sampling):
        assert sampling.temperature == 0.7
        self.jobs.append([(job.group, job.sample, job.task_index, job.seed) for job in jobs])
        return [
            Trajectory(
                job.group,
                job.sample,
                {},
                reward=float(job.sample < self.solves[self.now]),
                rollout_logprobs=[-9.0, -0.5],
                loss_mask=[0, 1],
            )
            for job in jobs
        ]


def test_run_takes_the_repair_that_the_environment_rewards_and_remembers_it(tmp_path: Path) -> None:
    config = run_config(*AUTO)
    workers = FakeWorkers({(1.0, 0.0): 0, (0.7, 0.0): 0, (0.4, 0.0): 2, (0.4, 0.01): 0})
    shown = io.StringIO()
    chosen, choice = choose_repair(config, workers, tmp_path, Console(RichConsole(file=shown, width=80)))
    assert (chosen.rejuvenation.alpha, chosen.rejuvenation.rho, chosen.rejuvenation.is_auto) == (0.4, 0.0, False)
    assert workers.asked == [(1.0, 0.0), (0.7, 0.0), (0.4, 0.0), (0.4, 0.01)]
    assert all(jobs == workers.jobs[0] for jobs in workers.jobs), "the same tasks and seeds for every candidate"
    assert len(workers.jobs[0]) == 24
    printed = shown.getvalue().splitlines()
    assert any(line.startswith("auto: taken: alpha 0.4, rho 0: pass@4 1.000 on 6 prompts") for line in printed)
    assert sum(line.startswith(">") for line in printed) == 1
    assert max(map(len, printed)) <= 80
    assert choice["trials"][2]["pass_at_1"] == 0.5
    assert choice["trials"][3]["reset_ratio"] == 0.25
    assert choice["trials"][0]["entropy"] == 0.5, "of sampled tokens alone"
    assert choice["judged_by"] == "4 rollouts of each of 6 training tasks, graded by rejuvenate/Arithmetic-v0"
    assert json.loads((tmp_path / CHOICE_FILE).read_text()) == choice
    again = choose_repair(config, FakeWorkers({}), tmp_path, Console())
    assert again == (chosen, choice), "a resumed run measures nothing again"


def test_numbers_and_other_starts_ask_for_no_choice(tmp_path: Path) -> None:
    for config in (run_config(), run_config(*AUTO, "model.start=sft")):
        assert choose_repair(config, FakeWorkers({}), tmp_path, Console()) == (config, None)
    assert not (tmp_path / CHOICE_FILE).exists()


def test_tasks_that_are_few_are_all_taken(tmp_path: Path) -> None:
    data = tmp_path / "tasks.jsonl"
    data.write_text("".join(json.dumps({"question": f"{n}?", "answer": f"#### {n}"}) + "\n" for n in range(40)))
    environment = ["environment.id=envs.question_answer:QuestionAnswerEnv"]
    environment += [f"environment.kwargs={{path: {data}, instruction: ''}}"]
    config = run_config(*AUTO, *environment, "rejuvenation.auto.prompts=1000", "rejuvenation.rho=0")
    workers = FakeWorkers({(1.0, 0.0): 4, (0.7, 0.0): 4, (0.4, 0.0): 4})
    _, choice = choose_repair(config, workers, tmp_path, Console())
    tasks = {job[2] for job in workers.jobs[0]}
    assert len(workers.jobs[0]) == 4 * len(tasks) == 160
    assert f"{len(tasks)} training tasks" in choice["judged_by"]
    assert choice["sentence"].startswith("no repair needed")


@pytest.fixture(scope="module")
def toy() -> tuple[ModelConfig, EnvironmentConfig]:
    model = ModelConfig("examples/toy/math/base", "examples/toy/math/sft_over", "rejuvenated")
    return model, EnvironmentConfig("rejuvenate/Arithmetic-v0", {})


def test_candidates_that_are_published_are_the_checkpoints_that_would_be_written(tmp_path: Path, toy: tuple) -> None:
    worker = RejuvenationWorker(InProcessTransport(), 1 << 20)
    auto = run_config(*AUTO, "rejuvenation.calibration_pairs=4").rejuvenation
    for alpha, rho in ((1.0, 0.0), (0.4, 0.01)):
        handles, reset_ratio = worker.candidate(toy[0], auto, toy[1], 5, alpha, rho)
        published = {n: t for bucket in receive(worker.transport, handles, 1.0) for n, t in bucket}
        numbers = replace(auto, alpha=alpha, rho=rho)  # as `choose_repair` settles them
        output = str(tmp_path / f"{alpha}")
        fresh = RejuvenationWorker(InProcessTransport(), 1 << 20)
        parcel = fresh.prepare(toy[0], numbers, toy[1], output, 5)
        assert parcel.report["effective_ratio"] == pytest.approx(reset_ratio)
        assert parcel.report["choice"] is None
        for name, tensor in read_tensors(output):
            assert torch.equal(published[name], tensor), name
        trial = Trial(alpha, rho, reset_ratio, 0.5, 0.1, None, None, None, None, None, None, good_enough=True)
        choice = Choice(alpha, rho, "so", "as told", "nothing", 4, [trial]).to_json()
        again = worker.prepare(toy[0], numbers, toy[1], f"{output}-again", 5, choice)
        differing = {name for name in parcel.report if parcel.report[name] != again.report[name]}
        assert differing == {"choice", "seconds"}, "reset sets of the candidates are taken, not scored again"
        assert "attribution" not in again.report["seconds"]


@pytest.mark.parametrize("differs", ["seed", "environment", "model", "calibration"])
def test_candidates_of_a_run_that_failed_are_not_those_of_the_next(tmp_path: Path, toy: tuple, differs: str) -> None:
    worker = RejuvenationWorker(InProcessTransport(), 1 << 20)
    model, environment = toy
    pairs = "rejuvenation.calibration_pairs=4"
    auto = run_config(*AUTO, pairs, "rejuvenation.target_tokens=2").rejuvenation
    worker.candidate(model, auto, environment, 5, 0.4, 0.01)  # and its run ends here
    seed = 6 if differs == "seed" else 5
    if differs == "environment":
        environment = EnvironmentConfig(environment.id, {"seed": 1})
    if differs == "model":
        model = ModelConfig("examples/toy/math/base", "examples/toy/math/base", "rejuvenated")
    tokens = 3 if differs == "calibration" else 2
    numbers = ["rejuvenation.alpha=0.4", "rejuvenation.rho=0.01", f"rejuvenation.target_tokens={tokens}"]
    settled = replace(run_config(*numbers, pairs).rejuvenation, auto=auto.auto)
    trial = Trial(0.4, 0.01, 0.2, 0.5, 0.1, None, None, None, None, None, None, good_enough=True)
    choice = Choice(0.4, 0.01, "so", "as told", "nothing", 4, [trial]).to_json()
    parcel = worker.prepare(model, settled, environment, str(tmp_path / "out"), seed, choice)
    assert "attribution" in parcel.report["seconds"], "neurons are scored for this run"
