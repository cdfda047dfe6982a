"""Tasks on the generated shop: one to three wishes of a user, with the actions that fulfil them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from envs.retail.database import Database, Record
from envs.retail.dataset import Task
from envs.retail.generated import draw_address, generated_dataset, generated_tables, pick
from envs.retail.orders import REASONS
from envs.retail.tools import Action, Desk

Wish = tuple[str, Action | None, list[str]]
"""What the user says, the action that fulfils it, and what the user must be told."""

MOST_WISHES = 3


def sample_task(rng: np.random.Generator) -> Task:
    """Draw a task. Every action of it succeeds when it is executed in order on the generated database."""
    tables = generated_tables()
    buyers = [user_id for user_id, user in tables["users"].items() if user["orders"]]
    user_id = pick(rng, buyers)
    user = tables["users"][user_id]
    number = min(int(rng.integers(1, MOST_WISHES + 1)), len(user["orders"]))
    order_ids = [user["orders"][i] for i in rng.permutation(len(user["orders"]))[:number].tolist()]
    database = Database(generated_dataset().template)
    wishes = [_wish(rng, Desk(database), tables["orders"][order_id]) for order_id in order_ids]
    database.close()
    known_by = f"email is {user['email']}" if rng.random() < 0.5 else f"zip code is {user['address']['zip']}"
    name = f"{user['name']['first_name']} {user['name']['last_name']}"
    return {
        "user_id": user_id,
        "instruction": f"Your name is {name} and your {known_by}. " + " ".join(said for said, _, _ in wishes),
        "actions": [action for _, action, _ in wishes if action is not None],
        "outputs": [output for _, _, outputs in wishes for output in outputs],
    }


def _wish(rng: np.random.Generator, desk: Desk, order: Record) -> Wish:
    """Draw a wish about an order and fulfil it; where nothing can be changed, the user asks what the order cost."""
    wishes = WISHES.get(order["status"], ())
    for position in rng.permutation(len(wishes)).tolist():
        said, action, outputs = wishes[position](rng, order)
        if action is None or not desk.call(action).startswith("Error: "):  # a gift card may hold too little
            return said, action, outputs
    return _cost(rng, order)


def _cost(rng: np.random.Generator, order: Record) -> Wish:
    """Ask what an order cost."""
    amount = f"{order['payment_history'][0]['amount']:.2f}"
    return f"You want to know how much was paid for order {order['order_id']}.", None, [amount]


def _cancel(rng: np.random.Generator, order: Record) -> Wish:
    """Cancel an order."""
    reason = pick(rng, REASONS)
    action = _action("cancel_pending_order", order, reason=reason)
    return f"You want to cancel order {order['order_id']} (reason: {reason}).", action, []


def _send_elsewhere(rng: np.random.Generator, order: Record) -> Wish:
    """Change the address of an order."""
    address = draw_address(rng)
    said = f"You want order {order['order_id']} sent to {', '.join(address.values())}."
    return said, _action("modify_pending_order_address", order, **address), []


def _pay_otherwise(rng: np.random.Generator, order: Record) -> Wish:
    """Change the payment method of an order."""
    method = _method(rng, order)
    said = f"You want to pay order {order['order_id']} with {method} instead."
    return said, _action("modify_pending_order_payment", order, payment_method_id=method), []


def _return(rng: np.random.Generator, order: Record) -> Wish:
    """Return a part of an order, refunded to what it was paid with."""
    items = _items(rng, order)
    method = order["payment_history"][0]["payment_method_id"]
    said = f"You want to return from order {order['order_id']}: {_names(items)}; refunded to {method}."
    item_ids = [item["item_id"] for item in items]
    return said, _action("return_delivered_order_items", order, item_ids=item_ids, payment_method_id=method), []


def _replace(rng: np.random.Generator, order: Record) -> Wish:
    """Replace items of a pending order."""
    return _swap(rng, order, "modify_pending_order_items", "replace in")


def _exchange(rng: np.random.Generator, order: Record) -> Wish:
    """Exchange items of a delivered order."""
    return _swap(rng, order, "exchange_delivered_order_items", "exchange from")


def _swap(rng: np.random.Generator, order: Record, tool: str, verb: str) -> Wish:
    """Choose other variants of items."""
    items, parts, new_item_ids = _items(rng, order), [], []
    for item in items:
        variants = generated_tables()["products"][item["product_id"]]["variants"]
        others = [key for key, variant in variants.items() if variant["available"] and key != item["item_id"]]
        new_item_ids.append(pick(rng, others) if others else item["item_id"])
        options = ", ".join(f"{name} {value}" for name, value in variants[new_item_ids[-1]]["options"].items())
        parts.append(f"the {item['name']} for the one with {options}")
    method = _method(rng, order)
    said = f"You want to {verb} order {order['order_id']}: {'; '.join(parts)}. Any difference goes by {method}."
    item_ids = [item["item_id"] for item in items]
    action = _action(tool, order, item_ids=item_ids, new_item_ids=new_item_ids, payment_method_id=method)
    return said, action, []


def _action(tool: str, order: Record, **kwargs: Any) -> Action:
    """Return an action on an order."""
    return {"name": tool, "kwargs": {"order_id": order["order_id"], **kwargs}}


def _items(rng: np.random.Generator, order: Record) -> list[Record]:
    """Draw at least one item of an order."""
    number = int(rng.integers(1, len(order["items"]) + 1))
    return [order["items"][i] for i in rng.permutation(len(order["items"]))[:number].tolist()]


def _names(items: list[Record]) -> str:
    """Return the items' names."""
    return " and ".join(f"the {item['name']}" for item in items)


def _method(rng: np.random.Generator, order: Record) -> str:
    """Draw a payment method of the user."""
    return pick(rng, list(generated_tables()["users"][order["user_id"]]["payment_methods"]))


WISHES: dict[str, tuple[Callable[[np.random.Generator, Record], Wish], ...]] = {
    "pending": (_cancel, _send_elsewhere, _pay_otherwise, _replace, _cost),
    "delivered": (_return, _exchange, _cost),
}
"""Status of an order -> what its user may wish."""
