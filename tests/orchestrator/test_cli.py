import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.errors import ConfigError
from orchestrator import cli
from tests.pico import make_checkpoint


def call(capsys, monkeypatch, *arguments):
    """Run the command in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["rejuvenate", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Directory with base, sft (same shape) and other (another shape)."""
    folder = tmp_path_factory.mktemp("checkpoints")
    make_checkpoint(folder / "base", seed=0)
    make_checkpoint(folder / "sft", seed=1)
    make_checkpoint(folder / "other", seed=1, num_layers=3)
    (folder / "empty").mkdir()
    (folder / "pickled").mkdir()
    (folder / "pickled" / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]}))
    (folder / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    for name, architecture, size in (("gemma", "Gemma2ForCausalLM", 64), ("vision", "VisionModel", None)):
        (folder / name).mkdir()
        found = json.loads((folder / "base" / "config.json").read_text())
        changed = found | {"architectures": [architecture], "hidden_size": size}
        (folder / name / "config.json").write_text(json.dumps(changed))
        (folder / name / "model.safetensors").write_bytes(b"")
    (folder / "bad.yaml").write_text("learner: {lr: [}\n")
    (folder / "list.yaml").write_text("- 1\n- 2\n")
    (folder / "kwargs.yaml").write_text("evaluation:\n  sets:\n    - {name: a, kwargs: [1]}\n")
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.txt").write_text("precious")
    return folder


# what is wrong -> overrides, then field, rule, value and fix as they must stand in the message
# ruff: noqa: E501  (one row per error reads best)
ERRORS = {
    "unknown section": (["learnr.lr=1"], "learnr", "must be a known field", "{'lr': 1}", "Did you mean learner?"),
    "unknown key": (["learner.lrr=1"], "learner.lrr", "must be a known field", "1", "Did you mean learner.lr?"),
    "wrong type": (["learner.ranks=two"], "learner.ranks", "must be of type int", "'two'", "Write `ranks: 1`, say; configs/learner.py describes it"),
    "section as number": (["learner=3"], "learner", "must be a section", "3", "ranks"),
    "out of bounds": (["learner.lr=-1"], "learner.lr", "must be > 0", "-1.0", "above 0"),
    "stage out of bounds": (["learner.zero_stage=4"], "learner.zero_stage", "must lie in [0, 3]", "4", "from 0 to 3"),
    "no such choice": (["model.start=sftt"], "model.start", "must be one of base, rejuvenated, sft", "'sftt'", "Choose"),
    "not divisible": (["algorithm.minibatches=5"], "algorithm.minibatches", "must divide", "5", "divisor"),
    "inline with two ranks": (["launcher=inline", "learner.ranks=2"], "launcher", "one learner rank", "ranks=2", "to 1"),
    "override without =": (["{dir}/nothing.yaml"], "config file", "must be a readable file", "nothing.yaml", "Check"),
    "broken yaml": (["{dir}/bad.yaml"], "config file", "must be valid YAML; line", "bad.yaml", "Check indentation"),
    "yaml without mapping": (["{dir}/list.yaml"], "config file", "must hold a mapping", "list.yaml", "Start it"),
    "missing checkpoint": (["model.base={dir}/no"], "model.base", "must be an existing directory", "/no'", "Hugging"),
    "no checkpoint": (["model.sft={dir}/empty"], "model.sft", "must hold a config.json", "/empty'", "Hugging Face"),
    "pickled checkpoint": (["model.sft={dir}/pickled"], "model.sft", "*.safetensors", "/pickled'", "Save it again"),
    "mismatch": (["model.sft={dir}/other"], "model.sft", "must match model.base in num_hidden_layers (2)", "3", "base"),
    "unknown environment": (["environment.id=rejuvenate/Arithmetik-v0"], "environment.id", "registered", "'rejuvenate/Arithmetik-v0'", "Did you mean 'rejuvenate/Arithmetic-v0'?"),
    "unknown environment argument": (["environment.kwargs.operand_mx=3"], "environment.kwargs.operand_mx", "no argument", "3", "Did you mean 'operand_max'?"),
    "environment argument out of bounds": (["environment.kwargs.split=tset"], "environment.kwargs.split", "must be one of", "'tset'", "Choose"),
    "run directory taken": (["run_dir={dir}/taken"], "run_dir", "must be new or empty, nothing is overwritten: it holds thesis.txt", "/taken'", "Choose another"),
    "nothing to resume": (["resume=true"], "resume", "needs a run in run_dir", "new-run'", "start afresh"),
    "prompt leaves no room": (["rollout.max_tokens=96"], "rollout.max_tokens", "must be below", "96", "Leave room"),
    "doubled evaluation set": (["evaluation.sets=[{{name: a}},{{name: a}}]"], "evaluation.sets", "distinct", "['a', 'a']", "Rename"),
    "key of a section without the section": (["alpha=2"], "alpha", "must be a known field", "2", "Did you mean rejuvenation.alpha?"),
    "key of several sections": (["steps=2"], "steps", "must be a known field", "2", "rejuvenation.steps, algorithm.steps or sft.steps?"),
    "near key of a section": (["workrs=2"], "workrs", "must be a known field", "2", "Did you mean rollout.workers?"),
    "part of a number": (["algorithm.steps=2.5"], "algorithm.steps", "must be of type int", "got 2.5.", "Write `steps: 100`, say"),
    "text in a list of numbers": (["rejuvenation.auto.alphas=[x]"], "rejuvenation.auto.alphas[0]", "must be of type float", "'x'", "Write `alphas: [NUMBER, ...]`; configs/auto.py"),
    "null for a mapping": (["environment.kwargs=null"], "environment.kwargs", "must be a mapping", "got null.", "Write {} for none."),
    "null for a list": (["environment.wrappers=null"], "environment.wrappers", "must be a list", "got null.", "Write [] for none."),
    "misspelt checkpoint": (["model.sft=examples/toy/math/sft_ovr"], "model.sft", "must be an existing directory", "sft_ovr'", "Did you mean examples/toy/math/sft_over?"),
    "typo in a relative path": (["model.sft=examples/sft_ovr"], "model.sft", "must be an existing directory", "'examples/sft_ovr'", "Hugging Face"),
    "missing calibration": (["rejuvenation.calibration={dir}/no.jsonl"], "rejuvenation.calibration", "must be an existing JSONL file", "/no.jsonl'", "Check the path"),
    "reset of another architecture": (["model.base={dir}/gemma", "model.sft={dir}/gemma"], "rejuvenation.steps", "must hold no reset", "['Gemma2ForCausalLM']", "fusion works"),
    "no text-only shape": (["model.base={dir}/vision", "model.sft={dir}/vision"], "model.base", "must state hidden_size", "['VisionModel']", "decoder"),
    "no such device": (["rejuvenation.device=gpu"], "rejuvenation.device", "must be auto, cpu, cuda or cuda:N", "'gpu'", "auto"),
    "served user without a model": (["environment.id=rejuvenate/Retail-v0", "environment.kwargs={{user: served}}", "evaluation.sets=[]"], "user_model.checkpoint", "must be given", "None", "a script plays the user"),
    "served user in an evaluation set": (["environment.id=rejuvenate/Retail-v0", "environment.kwargs={{}}", "evaluation.sets=[{{name: a, kwargs: {{user: {{base_url: served}}}}}}]"], "user_model.checkpoint", "must be given", "None", "a script plays the user"),
    "served model for nobody": (["user_model.checkpoint={dir}/sft"], "user_model", "must be left out", "/sft'", "uses_user_model"),
    "no such user model": (["environment.id=rejuvenate/Retail-v0", "environment.kwargs={{user: served}}", "evaluation.sets=[]", "user_model.checkpoint={dir}/no"], "user_model.checkpoint", "must be an existing directory", "/no'", "Hugging Face"),
    "user model without a template": (["environment.id=rejuvenate/Retail-v0", "environment.kwargs={{user: served}}", "evaluation.sets=[]", "user_model.checkpoint={dir}/gemma"], "user_model.checkpoint", "must hold a chat template", "/gemma'", "chat_template.jinja"),
    "user model over two processors": (["user_model.tensor_parallel=2", "user_model.checkpoint=u"], "user_model.tensor_parallel", "must be 1 where user_model.device is cpu", "2", "cuda"),
    "greedy training": (["rollout.temperature=0"], "rollout.temperature", "must be > 0", "0", "above 0"),
    "weights for a file": (["{dir}/sft/model.safetensors"], "config file", "must be a text file", "model.safetensors'", "YAML"),
    "more k than samples in a set": (["evaluation.sets=[{{name: a, samples: 4}}]"], "evaluation.sets.a.k", "must be at most the number of samples (4)", "8", "k: 4 or less"),
    "name of a set": (["evaluation.sets=[{{name: a/b}}]"], "evaluation.sets.name", "must be 1 to 40 characters", "'a/b'", "`heldout`"),
    "kind of a set": (["evaluation.sets=[{{name: a, kind: test}}]"], "evaluation.sets.a.kind", "must be one of id, ood", "'test'", "Choose id"),
    "unknown field of a set": (["evaluation.sets=[{{name: a, env: x}}]"], "evaluation.sets[0].env", "must be a known field", "'x'", "Known here: name"),
    "section as environment of a set": (["evaluation.sets=[{{name: a, environment: {{id: x}}}}]"], "evaluation.sets[0].environment", "must be a text", "{'id': 'x'}", "environment: TEXT"),
    "greedy sampling in a set": (["evaluation.sets=[{{name: a, temperature: 0}}]"], "evaluation.sets.a.temperature", "must be > 0", "0", "above 0"),
    "turn of a set leaves no room": (["evaluation.sets=[{{name: a, max_tokens: 96}}]"], "evaluation.sets.a.max_tokens", "must be below rollout.max_model_len (96)", "96", "Leave room"),
    "unknown environment of a set": (["evaluation.sets=[{{name: a, environment: rejuvenate/Lookups-v0}}]"], "evaluation.sets.a.environment", "registered", "'rejuvenate/Lookups-v0'", "Did you mean 'rejuvenate/Lookup-v0'?"),
    "argument that a set's environment refuses": (["evaluation.sets=[{{name: a, environment: rejuvenate/Lookup-v0, kwargs: {{hops_max: 0}}}}]"], "evaluation.sets.a.kwargs.hops_max", "must lie in", "0", "Set it"),
    "missing data of a set": (["evaluation.sets=[{{name: a, environment: envs.question_answer:QuestionAnswerEnv, kwargs: {{path: {dir}/no.jsonl}}}}]"], "evaluation.sets.a.kwargs.path", "must be a file", "/no.jsonl'", "JSONL"),
    "wrapper of a set": (["evaluation.sets=[{{name: a, wrappers: [{{id: gymnasium.wrappers:TimeLimt}}]}}]"], "evaluation.sets.a.wrappers.id", "names nothing", "'TimeLimt'", "Did you mean 'TimeLimit'?"),
    "null where a value is needed": (["learner.lr=null"], "learner.lr", "must be of type float", "got null", "`lr: NUMBER`"),
    "list for keyword arguments": (["environment.kwargs=[1]"], "environment.kwargs", "must be a mapping", "[1]", "`kwargs: {NAME: VALUE}`"),
    "list for keyword arguments of a set": (["evaluation.sets=[{{name: a, kwargs: [1]}}]"], "evaluation.sets[0].kwargs", "must be a mapping", "[1]", "`kwargs: {NAME: VALUE}`"),
    "the same in a file": (["{dir}/kwargs.yaml"], "evaluation.sets[0].kwargs", "must be a mapping", "[1]", "`kwargs: {NAME: VALUE}`"),
    "number for keyword arguments of a set": (["evaluation.sets=[{{name: a, kwargs: 5}}]"], "evaluation.sets[0].kwargs", "must be a mapping", "5", "`kwargs: {NAME: VALUE}`"),
    "list for keyword arguments of a wrapper": (["environment.wrappers=[{{id: a, kwargs: [1]}}]"], "environment.wrappers[0].kwargs", "must be a mapping", "[1]", "`kwargs: {NAME: VALUE}`"),
    "mapping for wrappers": (["environment.wrappers={{id: a}}"], "environment.wrappers", "must be a list", "{'id': 'a'}", "`wrappers: [{id: TEXT, ...}, ...]`"),
    "text for a wrapper": (["environment.wrappers=[a]"], "environment.wrappers[0]", "must be a section", "'a'", "id, kwargs"),
    "mapping for steps": (["rejuvenation.steps={{a: 1}}"], "rejuvenation.steps", "must be a list", "{'a': 1}", "`steps: [TEXT, ...]`"),
    "text for steps": (["rejuvenation.steps=fusion.linear"], "rejuvenation.steps", "must be a list", "'fusion.linear'", "`steps: [TEXT, ...]`"),
    "list for a limit of memory": (["rejuvenation.max_memory=[1]"], "rejuvenation.max_memory", "must be a mapping", "[1]", "`max_memory: {NAME: TEXT}`"),
    "number for a key": (["rejuvenation.max_memory={{0: 7GB}}"], "rejuvenation.max_memory", "must have texts as keys", "{0: '7GB'}", "Quote the key: '0'"),
    "mapping for alphas": (["rejuvenation.auto.alphas={{a: 1}}"], "rejuvenation.auto.alphas", "must be a list", "{'a': 1}", "`alphas: [NUMBER, ...]`"),
    "list for an alpha": (["rejuvenation.auto.alphas=[[0.1]]"], "rejuvenation.auto.alphas[0]", "must be of type float", "[0.1]", "NUMBER"),
    "list for a section": (["rejuvenation.auto=[1]"], "rejuvenation.auto", "must be a section", "[1]", "by name: alphas, rhos"),
    "list for a number": (["learner.lr=[1]"], "learner.lr", "must be of type float", "[1]", "`lr: NUMBER`"),
    "list for a text": (["run_dir=[1]"], "run_dir", "must be a text", "[1]", "`run_dir: TEXT`"),
    "text for a switch": (["rejuvenation.gate=maybe"], "rejuvenation.gate", "must be of type bool", "'maybe'", "`gate: false`"),
    "two overrides that do not fit": (["environment.kwargs=[1]", "environment.kwargs.seed=2"], "environment.kwargs", "must be a mapping", "[1]", "`kwargs: {NAME: VALUE}`"),
    "date that YAML makes": (["environment.kwargs.until=2020-01-01"], "environment.kwargs.until", "must be a text, a number", "date(2020, 1, 1)", "quotes"),
    "broken interpolation": (["learner.lr=${{"], "learner.lr", "cannot be read", "'${'", "for a text with ${ in it"),
    "interpolation of nothing": (["learner.lr=${{learner.rate}}"], "learner.lr", "cannot be read: Interpolation key 'learner.rate' not found", "'${learner.rate}'", "configs/learner.py describes it"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_configuration_error_names_field_rule_value_and_fix(name, pair, capsys, monkeypatch, tmp_path):
    extra, field, rule, value, fix = ERRORS[name]
    arguments = [
        "run",
        "configs/math_toy.yaml",
        f"model.base={pair}/base",
        f"model.sft={pair}/sft",
        f"run_dir={tmp_path}/new-run",
        *(text.format(dir=pair) for text in extra),
    ]
    start = time.perf_counter()
    code, out, err = call(capsys, monkeypatch, *arguments)
    assert code == 2
    assert err.startswith(f"rejuvenate: {field}"), err
    assert err.count("\n") == 1, "one paragraph"
    for part in (rule, value, fix):
        assert part in err, (part, err)
    assert "Traceback" not in err
    assert not out
    assert not (tmp_path / "new-run").exists()
    assert (pair / "taken" / "thesis.txt").read_text() == "precious"
    assert time.perf_counter() - start < 60  # the bound on a whole process is measured below


SUITE = "configs/suites/math_toy.yaml"
EVAL_ERRORS = {
    "no sets": (["{sft}", "seed=1"], "evaluation.sets", "must hold at least one task set", "[]", "configs/suites/math_toy.yaml"),
    "missing checkpoint": (["{dir}/no", SUITE], "CHECKPOINT", "must be an existing directory", "/no'", "Hugging Face"),
    "no checkpoint": (["{dir}/empty", SUITE], "CHECKPOINT", "must hold a config.json", "/empty'", "Hugging Face"),
    "set without an environment": (["{sft}", "evaluation.sets=[{{name: a}}]"], "evaluation.sets.a.environment", "must be given without a training environment", "None", "rejuvenate env list"),
    "missing suite": (["{sft}", "configs/suites/math_toi.yaml"], "config file", "must be a readable file", "math_toi.yaml", "Did you mean configs/suites/math_toy.yaml?"),
    "doubled set": (["{sft}", SUITE, "evaluation.sets=[{{name: a}},{{name: a}}]"], "evaluation.sets", "distinct", "['a', 'a']", "Rename"),
    "more tasks than there are": (["{sft}", "evaluation.sets=[{{name: a, environment: envs.question_answer:QuestionAnswerEnv, kwargs: {{path: {dir}/two.jsonl}}}}]"], "evaluation.sets.a.tasks", "must be <= 2", "100", "Set it to 2"),
    "results into a directory": (["{sft}", SUITE, "--out", "{dir}"], "--out", "must be a file", "checkpoints", "Name a file"),
    "results that exist": (["{sft}", SUITE, "--out", "{dir}/two.jsonl"], "--out", "must not exist yet: nothing is overwritten", "/two.jsonl'", "add --overwrite"),
    "results below a file": (["{sft}", SUITE, "--out", "{dir}/bad.yaml/x.json"], "--out", "must be writable", "/x.json'", "another path"),
}  # fmt: skip


@pytest.mark.parametrize("name", EVAL_ERRORS)
def test_evaluation_error_names_field_rule_value_and_fix(name, pair, capsys, monkeypatch):
    extra, field, rule, value, fix = EVAL_ERRORS[name]
    (pair / "two.jsonl").write_text('{"question": "1+1", "answer": "#### 2"}\n' * 2)
    code, out, err = call(capsys, monkeypatch, "eval", *(text.format(dir=pair, sft=pair / "sft") for text in extra))
    assert code == 2
    assert err.startswith(f"rejuvenate: {field} "), err
    assert err.count("\n") == 1, "one paragraph"
    for part in (rule, value, fix):
        assert part in err, (part, err)
    assert not out


def test_evaluation_leaves_out_a_user_model_that_no_set_talks_to(pair, capsys):
    section = f"user_model.checkpoint={pair}/no"  # a run's, and not even on this machine
    config = cli.validate_evaluation(str(pair / "sft"), [SUITE, section])
    assert config.user_model is None
    assert capsys.readouterr().err == "user_model is not started: no task set talks to it\n"
    talks = "evaluation.sets=[{name: a, environment: rejuvenate/Retail-v0, kwargs: {user: served}}]"
    with pytest.raises(ConfigError, match=r"user_model\.checkpoint must be an existing directory"):
        cli.validate_evaluation(str(pair / "sft"), [SUITE, section, talks])
    with pytest.raises(ConfigError, match=r"user_model\.checkpoint must be given"):
        cli.validate_evaluation(str(pair / "sft"), [SUITE, talks])


def test_results_of_a_ray_job_go_to_an_absolute_path(pair, capsys, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    code, _, err = call(capsys, monkeypatch, "eval", pair / "sft", SUITE, "--out", "results.json")
    assert (code, "--out must be an absolute path under a Ray job" in err) == (2, True)


def test_evaluation_needs_a_checkpoint_and_a_suite_and_nothing_else(pair, tmp_path):
    config = cli.validate_evaluation(str(pair / "sft"), [SUITE])
    assert config.model.sft == str(pair / "sft")
    assert len(config.evaluation.sets) == 5
    run = tmp_path / "run"
    (run / "final").mkdir(parents=True)
    for file in (pair / "sft").iterdir():
        (run / "final" / file.name).write_bytes(file.read_bytes())
    (run / "config.yaml").write_text("")
    assert cli.validate_evaluation(str(run), [SUITE]).model.sft == str(run / "final")
    assert cli.validate_evaluation("organisation/name", [SUITE]).model.sft == "organisation/name", "on the hub"
    alone = cli.validate_evaluation(str(pair / "sft"), ["configs/math_toy.yaml"])
    assert [s.name for s in alone.evaluation.sets] == ["heldout", "ood"], "a run's own sets"


def test_compare_prints_one_table_of_results_and_plots_them(capsys, monkeypatch, tmp_path):
    from orchestrator.evaluation import Evaluation, SetResult, write

    for name, solved in (("base", 1), ("sft", 4)):
        sets = [
            SetResult(label, kind, 2, [1.0] * solved + [0.0] * (5 - solved), [2] * 5, 2, 0.1, 0.0)
            for label, kind in (("heldout", "id"), ("longer", "ood"))
        ]
        write(Evaluation(0, sets), tmp_path / f"{name}.json")
    plot = tmp_path / "plot.png"
    files = [tmp_path / f"{name}.json" for name in ("base", "sft")]
    code, out, err = call(capsys, monkeypatch, "compare", *files, "--output", plot)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert lines.count("heldout: in distribution, 5 tasks, each sampled 2 times") == 1
    assert lines.count("longer: out of distribution, 5 tasks, each sampled 2 times") == 1
    assert sum(line.startswith("sft ") and ".800" in line for line in lines) == 2
    assert plot.is_file()
    write(Evaluation(0, sets[:1]), tmp_path / "other.json")
    code, _, err = call(capsys, monkeypatch, "compare", files[0], tmp_path / "other.json")
    assert (code, "must be evaluated on the same task sets as base (heldout, longer)" in err) == (2, True)


def test_plot_of_a_comparison_overwrites_nothing(capsys, monkeypatch, tmp_path):
    from orchestrator.evaluation import Evaluation, SetResult, write

    for name in ("base", "sft"):
        write(Evaluation(0, [SetResult("a", "id", 2, [1.0], [2], 2, 0.1, 0.0)]), tmp_path / f"{name}.json")
    (tmp_path / "mine.png").write_text("precious")
    monkeypatch.chdir(tmp_path)
    for expected in ("compare-base-sft.png", "compare-base-sft-2.png"):
        code, out, _ = call(capsys, monkeypatch, "compare", "base.json", "sft.json")
        assert (code, out.splitlines()[-1]) == (0, f"plot: {expected}")
        assert (tmp_path / expected).read_bytes().startswith(b"\x89PNG")
    code, out, err = call(capsys, monkeypatch, "compare", "base.json", "sft.json", "--output", "mine.png")
    assert (code, out) == (2, ""), "before anything is printed"
    assert err.startswith("rejuvenate: --output must not exist yet: nothing is overwritten, got 'mine.png'. Choose")
    assert (tmp_path / "mine.png").read_text() == "precious"
    code, _, _ = call(capsys, monkeypatch, "compare", "base.json", "sft.json", "--output", "mine.png", "--overwrite")
    assert code == 0
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_without_arguments_there_is_the_help_and_no_error(capsys, monkeypatch):
    for arguments in ([], ["env"]):
        code, out, err = call(capsys, monkeypatch, *arguments)
        assert (code, "rejuvenate: " in err) == (2, False)
        assert "Usage: " in out + err


@pytest.mark.parametrize("command", list(cli.EXAMPLES))
def test_command_without_its_arguments_shows_an_example(command, capsys, monkeypatch):
    code, _, err = call(capsys, monkeypatch, command)
    assert code == 2
    assert err.startswith("rejuvenate: Missing argument")
    assert err.endswith(f"For example: rejuvenate {command} {cli.EXAMPLES[command]}\n")


def test_printed_paths_have_no_parent_steps(tmp_path):
    (tmp_path / "a").mkdir()
    assert cli.shown(tmp_path / "a" / ".." / "b") == (tmp_path / "b").resolve()
    assert cli.shown(Path("runs/b")) == Path("runs/b")


def test_yaml_file_whose_path_holds_an_equals_sign_is_a_file(tmp_path):
    file = tmp_path / "lr=1e-5.yaml"
    file.write_text("environment: {id: rejuvenate/Arithmetic-v0}\nmodel: {base: b, sft: s}\n")
    config = cli.load_config([str(file), "seed=4"])
    assert (config.seed, config.model.base) == (4, "b")


def test_missing_value_is_named(capsys, monkeypatch):
    code, _, err = call(capsys, monkeypatch, "plan", "seed=1")
    assert code == 2
    assert "environment.id must be given" in err


def test_error_in_a_process_of_its_own_starts_nothing_heavy(pair):
    program = (
        "import sys\nfrom orchestrator import cli\n"
        "sys.argv = ['rejuvenate', 'run', 'configs/math_toy.yaml', 'learner.lr=-1']\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    assert stop.code == 2\n"
        "heavy = {'torch', 'ray', 'vllm', 'deepspeed', 'transformers'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "heavy: []" in result.stdout


def test_plan_counts_and_fits_a_declared_cluster(pair, capsys, monkeypatch, tmp_path):
    code, out, _ = call(
        capsys,
        monkeypatch,
        "plan",
        "configs/math_toy.yaml",
        f"model.base={pair}/base",
        f"model.sft={pair}/sft",
        f"run_dir={tmp_path}/run",
        "--cluster",
        "nodes=1,cpus=2",
    )
    assert code == 0
    assert "256 = 32 x 8" in out
    assert "fits" in out


def test_plan_of_the_gpu_example_says_what_is_short(capsys, monkeypatch, tmp_path):
    arguments = ["plan", "configs/gsm8k_qwen2_0.5b.yaml", f"run_dir={tmp_path}/run", *gsm8k_files(tmp_path)]
    code, out, err = call(capsys, monkeypatch, *arguments, "--cluster", "nodes=1,gpus=1,cpus=16")
    assert code == 1
    assert "1 GPUs short" in err
    assert "494,032,768" in out, "Qwen2.5-0.5B's parameters"
    code, _, _ = call(capsys, monkeypatch, *arguments, "--cluster", "nodes=1,gpus=2,cpus=16")
    assert code == 0


def gsm8k_files(folder: Path):
    rows = [{"question": f"What is {i} plus 1?", "answer": f"It is one more.\n#### {i + 1}"} for i in range(600)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "problems.jsonl"
    return [f"environment.kwargs.path={path}", f"evaluation.sets=[{{name: t, tasks: 5, kwargs: {{path: {path}}}}}]"]


@pytest.mark.parametrize("text", ["gpus", "nodes=0,cpus=1", "nodes=1,tpus=8", "nodes=-1"])
def test_malformed_cluster_is_refused(text, pair, capsys, monkeypatch, tmp_path):
    code, _, err = call(
        capsys, monkeypatch, "plan", "configs/math_toy.yaml", f"model.base={pair}/base", f"model.sft={pair}/sft",
        f"run_dir={tmp_path}/run", "--cluster", text,
    )  # fmt: skip
    assert code == 2
    assert "--cluster must" in err


def test_relative_run_dir_is_refused_under_a_ray_job(pair, capsys, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    code, _, err = call(
        capsys, monkeypatch, "run", "configs/math_toy.yaml", f"model.base={pair}/base", f"model.sft={pair}/sft",
        "run_dir=runs/here",
    )  # fmt: skip
    assert code == 2
    assert "absolute path under a Ray job" in err


def test_the_gpu_example_is_planned_as_it_ships(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    gsm8k_files(tmp_path)
    for name in ("train", "test"):
        (tmp_path / "data" / "gsm8k" / f"{name}.jsonl").write_text((tmp_path / "problems.jsonl").read_text())
    code, out, err = call(
        capsys, monkeypatch, "plan", "configs/gsm8k_qwen2_0.5b.yaml", "--cluster", "nodes=1,gpus=2,cpus=16"
    )
    assert (code, err) == (0, "")
    assert "fits" in out


def test_the_retail_example_is_planned_as_it_ships(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["configs/retail_qwen2_1.5b.yaml", "--cluster", "nodes=1,gpus=2,cpus=16"]
    code, out, err = call(capsys, monkeypatch, "plan", *arguments)
    assert (code, err) == (0, "")
    assert "1,543,714,304" in out, "Qwen2.5-1.5B's parameters"
    code, _, err = call(capsys, monkeypatch, "plan", *arguments, "environment.kwargs={path: ~/none}")
    assert code == 2
    assert "environment.kwargs.path must be a folder with users.json" in err


def test_the_served_user_is_planned_as_it_ships(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["configs/retail_qwen2_1.5b.yaml", "configs/retail_user_model.yaml", "--cluster"]
    code, out, err = call(capsys, monkeypatch, "plan", *arguments, "nodes=1,gpus=3,cpus=16")
    assert (code, err) == (0, "")
    assert "user-model: 4 CPUs, 1 GPUs" in out
    assert "checkpoint: Qwen/Qwen2.5-7B-Instruct" in out
    code, _, err = call(capsys, monkeypatch, "plan", *arguments, "nodes=1,gpus=2,cpus=16")
    assert code == 1
    assert "1 GPUs short" in err


def test_an_environment_beside_the_user_is_found(tmp_path):
    (tmp_path / "my_env.py").write_text(Path("examples/environments/next_letter.py").read_text())
    toy = Path("examples/toy/tool").resolve()
    arguments = [
        Path("configs/tool_toy.yaml").resolve(), f"model.base={toy}/base", f"model.sft={toy}/sft_over",
        f"run_dir={tmp_path}/run", "environment.id=my_env:NextLetter", "evaluation.sets=[]",
    ]  # fmt: skip
    command = Path(sys.executable).with_name("rejuvenate")  # a console script has no current directory on its path
    result = subprocess.run(
        [command, "plan", *map(str, arguments), "--cluster", "nodes=1,cpus=4"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "my_env:NextLetter" in result.stdout


def test_sft_needs_neither_the_checkpoint_that_it_makes_nor_an_environment_beside_its_data(pair, tmp_path):
    from orchestrator.cli import load_config

    defaults = {"model": {"sft": "${model.base}"}, "environment": {"id": ""}}
    config = load_config([f"model.base={pair}/base", "sft.data=x.jsonl"], defaults)
    assert config.model.sft == config.model.base


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ([], "environment.id must be given where sft.data is not"),
        (["sft.data={dir}/no.jsonl"], "sft.data must be an existing JSONL file"),
        (["environment.id=benchmarks.relay:RelayEnv"], "sft.data must be given: the environment has no demonstrations"),
        (
            ["environment.id=rejuvenate/Retail-v0", "environment.kwargs.max_turns=3"],
            "environment.kwargs.max_turns must be >=",
        ),
        (
            ["environment.id=rejuvenate/Retail-v0", "environment.kwargs.max_turns=3", "environment.isolation=process"],
            "environment.kwargs.max_turns must be >=",
        ),
    ],
)
def test_sft_without_conversations_is_refused_before_anything_starts(extra, field, pair, capsys, monkeypatch, tmp_path):
    arguments = [f"model.base={pair}/base", f"run_dir={tmp_path}/run", *(text.format(dir=pair) for text in extra)]
    code, _, err = call(capsys, monkeypatch, "sft", *arguments)
    assert code == 2
    assert err.startswith(f"rejuvenate: {field}"), err
    assert not (tmp_path / "run").exists()
