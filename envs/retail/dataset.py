"""Where the desk's data come from: a folder in tau-bench's form, read once per process and checked."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from envs.conversation import KWARGS
from envs.retail.database import TABLES, Record, make_template
from envs.retail.tools import SCHEMAS

FILES = (*(f"{table}.json" for table in TABLES), "policy.md", "tools.json")
TASK_FILES = {"train": "tasks_train.json", "heldout": "tasks_dev.json"}
"""Split -> the file with its tasks, where `tasks_file` names no other."""
_FIX = (
    "docs/environments.md says how to make that folder from github.com/sierra-research/tau-bench; "
    "leave path out for the generated data, which need no download."
)

Task = dict[str, Any]
"""`{"user_id": str, "instruction": str, "actions": [{"name", "kwargs"}], "outputs": [str]}`."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What all episodes share."""

    template: bytes
    """The initial database; see `database.make_template`."""
    policy: str
    """What the agent is told to do, the system message."""
    tools_json: str
    """JSON list of the schemas that the model sees."""

    @classmethod
    def of(cls, tables: Mapping[str, Mapping[str, Record]], policy: str, schemas: list[dict[str, Any]]) -> Dataset:
        """Make a dataset from records.

        Args:
            tables: `users`, `orders` and `products`, each id -> record.
            policy: the agent's policy.
            schemas: the 16 tools in OpenAI's form.

        Raises:
            ValueError: an order without its user or a product, or tools that are not the desk's.
        """
        for key, order in tables["orders"].items():
            if order["user_id"] not in tables["users"]:
                raise ValueError(f"order {key} belongs to user {order['user_id']!r}, whom users do not hold")
            for item in order["items"]:
                if item["product_id"] not in tables["products"]:
                    raise ValueError(f"order {key} has an item of product {item['product_id']!r}, which is not there")
        check_schemas(schemas)
        return cls(make_template(tables), policy, json.dumps(schemas))


def check_schemas(schemas: list[dict[str, Any]]) -> None:
    """Raise `ValueError` unless the schemas are the 16 tools with the parameters that they have here."""
    given = {schema["function"]["name"]: schema["function"]["parameters"] for schema in schemas}
    if set(given) != set(SCHEMAS):
        raise ValueError(f"the tools must be those of the desk; they differ in {sorted(set(given) ^ set(SCHEMAS))}")
    for name, parameters in given.items():
        own = SCHEMAS[name]["function"]["parameters"]
        if _types(parameters) != _types(own) or set(parameters["required"]) != set(own["required"]):
            raise ValueError(f"tool {name} must take {_types(own)}, got {_types(parameters)}")


def _types(parameters: dict[str, Any]) -> dict[str, str]:
    """Return parameter -> JSON type."""
    return {name: schema.get("type", "any") for name, schema in parameters["properties"].items()}


@functools.lru_cache(maxsize=4)
def read_dataset(path: str) -> Dataset:
    """Read a folder once for all environments of a process.

    Args:
        path: folder with `users.json`, `orders.json`, `products.json`, `policy.md` and `tools.json`; `~` is the home
            directory of the process that reads.

    Raises:
        ConfigError: a file is missing, or is not what its name says.
    """
    folder = Path(os.path.expanduser(path))
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ConfigError(KWARGS + "path", f"must be a folder with {', '.join(missing)}", path, _FIX)
    try:
        tables = {table: json.loads((folder / f"{table}.json").read_text("utf-8")) for table in TABLES}
        schemas = json.loads((folder / "tools.json").read_text("utf-8"))
        return Dataset.of(tables, (folder / "policy.md").read_text("utf-8").strip(), schemas)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        rule = f"must hold the retail data of tau-bench ({type(error).__name__}: {error})"
        raise ConfigError(KWARGS + "path", rule, path, _FIX) from error


@functools.lru_cache(maxsize=16)
def read_tasks(path: str, split: str, tasks_file: str | None) -> tuple[Task, ...]:
    """Read the tasks of a split.

    Args:
        path: the folder.
        split: which split is asked for.
        tasks_file: file in the folder; None: the split's own one.

    Raises:
        ConfigError: the split has no file, or a task is malformed.
    """
    name = TASK_FILES.get(split) if tasks_file is None else tasks_file
    if name is None:
        rule = f"must be given for split {split}: only {' and '.join(TASK_FILES)} have files of their own"
        raise ConfigError(KWARGS + "tasks_file", rule, tasks_file, "Name a file in the folder path.")
    file = Path(os.path.expanduser(path)) / name
    if not file.is_file():
        raise ConfigError(KWARGS + "tasks_file", "must be a file in the folder path", str(file), _FIX)
    try:
        tasks = json.loads(file.read_text("utf-8"))
        for number, task in enumerate(tasks):
            check_task(task, f"task {number}")
    except (ValueError, TypeError) as error:
        raise ConfigError(KWARGS + "tasks_file", f"must be a JSON list of tasks ({error})", str(file), _FIX) from error
    if not tasks:
        raise ConfigError(KWARGS + "tasks_file", "must hold a task", str(file), "Add tasks to the file.")
    return tuple(tasks)


def check_task(task: Any, where: str = "a task") -> None:
    """Raise `ValueError` unless `task` is a task of the desk."""
    texts = isinstance(task, dict) and all(isinstance(task.get(name), str) for name in ("user_id", "instruction"))
    lists = texts and all(isinstance(task.get(name), list) for name in ("actions", "outputs"))
    if not lists:
        keys = sorted(task) if isinstance(task, dict) else type(task).__name__
        raise ValueError(f"{where} needs user_id and instruction (text), actions and outputs (lists), got {keys}")
    for action in task["actions"]:
        if not (isinstance(action, dict) and action.get("name") in SCHEMAS and isinstance(action.get("kwargs"), dict)):
            raise ValueError(f'{where}: an action must be {{"name": <tool>, "kwargs": {{...}}}}, got {action!r}')
    if not all(isinstance(output, str) for output in task["outputs"]):
        raise ValueError(f"{where}: outputs must be texts, got {task['outputs']!r}")
