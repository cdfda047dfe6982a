import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.shadowing import check_packages

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
sys.path.append({root!r})
from importlib import util
spec = util.spec_from_file_location("shadowing", {root!r} + "/orchestrator/shadowing.py")
sys.modules["configs.errors"] = util.module_from_spec(
    errors := util.spec_from_file_location("configs.errors", {root!r} + "/configs/errors.py"))
errors.loader.exec_module(sys.modules["configs.errors"])
module = util.module_from_spec(spec)
spec.loader.exec_module(module)
try:
    module.check_packages()
except ValueError as error:
    print(error)
"""


def test_our_own_packages_pass():
    check_packages()


@pytest.mark.parametrize("name", ["envs/__init__.py", "envs.py", "rejuvenation/__init__.py"])
def test_package_of_the_users_own_is_named_with_its_path(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    package = name.removesuffix("/__init__.py").removesuffix(".py")
    assert result.stdout.startswith(f"package {package} must be the one in {ROOT}"), result.stderr
    assert str(tmp_path) in result.stdout
    assert f"Rename your own `{package}`" in result.stdout
