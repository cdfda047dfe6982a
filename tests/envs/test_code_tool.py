import pytest

import envs
from configs.errors import ConfigError
from envs.code_tool import in_words
from envs.sandbox import Result, SandboxConfig
from envs.tool_calls import format_hermes

EXAMPLE = "examples.environments.code_arithmetic:CodeArithmetic"


def made(**limits):
    """Return the example, or skip where no sandbox can be had; tests/envs/test_sandbox.py fails then in CI."""
    try:
        return envs.make(EXAMPLE, {"sandbox": limits})
    except ConfigError as error:
        pytest.skip(f"no sandbox can be had on this machine: {error}")


def test_the_example_can_be_trained_on():
    envs.check_environment(made())


def test_the_model_reads_what_its_code_printed():
    env = made()
    env.reset(options={"task": {"left": 3, "right": 4}})
    observation, *_ = env.step(format_hermes("python", {"code": "print(3 * 4)"}))
    assert observation[0]["content"] == "12"
    assert env.step("#12")[1:3] == (1.0, True)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (Result("finished", "", "", 0, 0.1), "The program printed nothing."),
        (Result("failed", "a\n", "Error: b\n", 1, 0.1), "a\nErrors:\nError: b"),
        (Result("time", "a\n", "", None, 0.1), "a\nThe program was stopped after 10 seconds."),
        (Result("memory", "", "", None, 0.1), "The program was stopped: it used more than 512 MiB of memory."),
        (Result("output", "", "", None, 0.1), "The program was stopped: it printed more than 65536 bytes."),
        (Result("failed", "", "", 3, 0.1), "The program ended with exit code 3."),
    ],
)
def test_endings_are_said_in_words(result, text):
    assert in_words(result, SandboxConfig()) == text
