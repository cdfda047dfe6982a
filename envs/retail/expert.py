"""Demonstrations: a task's reference actions, led up to as the policy asks, by look-ups and a confirmed summary."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from envs.retail.database import Database
from envs.retail.dataset import Task
from envs.retail.tools import TRANSFER, Action, Desk
from envs.retail.users import CHANGING

ITEM_CHANGES = ("modify_pending_order_items", "exchange_delivered_order_items")


def expert_turns(template: bytes, task: Task, write_call: Callable[[str, dict[str, Any]], str]) -> list[str]:
    """Return the expert's turns against the scripted user.

    The reference actions name ids that the user does not say, so the expert first looks up all that it needs to know
    them: who the user is, the profile, the orders, and the products whose variants are chosen. Then it lists the
    changes, has them confirmed, makes the calls, and says what came of them and the required outputs.

    Args:
        template: the initial database.
        task: a checked task.
        write_call: writes a call in the form that the environment's parser reads.

    Raises:
        ValueError: the task's user is not in the database.
    """
    database = Database(template)
    desk = Desk(database)
    user = database.read("users", task["user_id"])
    if user is None:
        raise ValueError(f"the task's user {task['user_id']!r} is not in the database")
    calls = [*_identification(task, user), *_readings(desk, user["orders"], task)]
    turns = [write_call(call["name"], call["kwargs"]) for call in calls]
    changes = [action for action in task["actions"] if action["name"] in CHANGING]
    transferred = any(action["name"] == TRANSFER for action in task["actions"])
    outputs = f"You asked for: {'; '.join(task['outputs'])}." if task["outputs"] else ""
    if changes:
        steps = "\n".join(f"- {describe(action)}" for action in changes)
        told = f"{outputs}\n" if transferred and outputs else ""
        turns.append(f"{told}I would make these changes:\n{steps}\nDo you confirm them (yes or no)?")
    elif transferred and outputs:
        transferred = False  # the user wants nothing more after this message, and leaves
        turns.append(outputs)
        return turns
    results = []
    for action in task["actions"]:
        answer = desk.call(action)
        turns.append(write_call(action["name"], action["kwargs"]))
        if action["name"] in CHANGING:
            results.append(f"- {describe(action)}: {_outcome(answer)}")
        if action["name"] == TRANSFER:
            return turns
    closing = [*(["This is what I did:", *results] if results else []), outputs]
    turns.append("\n".join(part for part in closing if part) or "I cannot change anything about this here.")
    return turns


def _identification(task: Task, user: dict[str, Any]) -> list[Action]:
    """Return the calls that find the user, by what the instruction tells, and read the profile."""
    if user["email"] in task["instruction"]:
        found = {"name": "find_user_id_by_email", "kwargs": {"email": user["email"]}}
    else:
        kwargs = {**user["name"], "zip": user["address"]["zip"]}
        found = {"name": "find_user_id_by_name_zip", "kwargs": kwargs}
    return [found, {"name": "get_user_details", "kwargs": {"user_id": task["user_id"]}}]


def _readings(desk: Desk, own: list[str], task: Task) -> list[Action]:
    """Return the calls that read the orders that the user names, and those that the actions' ids come from."""
    readings: dict[str, Action] = {}

    def read_order(order_id: str) -> None:
        readings[f"order {order_id}"] = {"name": "get_order_details", "kwargs": {"order_id": order_id}}

    for order_id in own:
        if order_id in task["instruction"]:
            read_order(order_id)
    for action in task["actions"]:
        order_id = action["kwargs"].get("order_id")
        order = desk.database.read("orders", order_id) if isinstance(order_id, str) else None
        if order is None:
            continue
        read_order(order["order_id"])
        if action["name"] in ITEM_CHANGES:
            replaced = [item for item in order["items"] if item["item_id"] in action["kwargs"].get("item_ids", [])]
            for product_id in dict.fromkeys(item["product_id"] for item in replaced):
                reading = {"name": "get_product_details", "kwargs": {"product_id": product_id}}
                readings[f"product {product_id}"] = reading
    return list(readings.values())


def describe(action: Action) -> str:
    """Return a change in words: `cancel pending order (order id #W1, reason no longer needed)`."""
    details = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in action["kwargs"].items())
    return f"{action['name'].replace('_', ' ')} ({details})"


def _plain(value: Any) -> str:
    """Return an argument as a sentence holds it."""
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def _outcome(answer: str) -> str:
    """Return what came of a change: the order's new status, or why it failed."""
    if answer.startswith("Error: "):
        return f"not possible, {answer.removeprefix('Error: ')}"
    return f"done, the order is now {json.loads(answer)['status']}" if '"status"' in answer else "done"
