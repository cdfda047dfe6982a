"""Arithmetic that is answered with Python code: the product of two long numbers, with the tool `python`."""

# ruff: noqa: D102 - the base class documents what these methods do
from envs.code_tool import CodeToolEnv
from envs.tool_calls import format_hermes


class CodeArithmetic(CodeToolEnv):
    """Asks for the product of two numbers of up to seven digits; the answer `#n` earns 1."""

    def sample_task(self, rng):
        return {"left": int(rng.integers(10**6, 10**7)), "right": int(rng.integers(10**6, 10**7))}

    def first_messages(self, task):
        return f"What is {task['left']} * {task['right']}? Compute it with the tool, then answer with # and the number."

    def finish(self, text):
        return float(text.strip() == f"#{self.current_task['left'] * self.current_task['right']}")

    def expert_turns(self, task):
        code = f"print({task['left']} * {task['right']})"
        return [format_hermes("python", {"code": code}), f"#{task['left'] * task['right']}"]
