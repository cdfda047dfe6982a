"""A small shop that code makes: data and tasks of the same form as tau-bench's, with nothing to download."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from envs.retail.database import Record
from envs.retail.dataset import Dataset
from envs.retail.orders import address
from envs.retail.tools import SCHEMAS

WORLD_SEED = 0
USERS, ORDERS, VARIANTS = 40, 140, 8

POLICY = """You are the agent of a shop's service desk. You help customers with their own profile and orders.

- First find out who the customer is: look up the user id by email, or by name and zip code. Serve nobody else then.
- Say only what the customer or the tools have told you.
- Make one tool call at a time, and none in a message to the customer.
- Before a call that changes anything, list the details and wait until the customer says yes.
- A pending order can be cancelled (reason: 'no longer needed' or 'ordered by mistake'), sent to another address, paid
  with another payment method, or have items replaced by available variants of the same product. Replacing items works
  once, and nothing can be changed after it.
- A delivered order can be returned in part or in whole, or have items exchanged for available variants of the same
  product: one of the two, once. A refund goes to what the order was paid with, or to a gift card of the customer.
- A gift card pays only what it holds.
- Hand the customer over to a human agent only where none of this can help."""

_FIRST = ("Ada", "Bela", "Cora", "Dario", "Elin", "Femi", "Goran", "Hana", "Ines", "Jonas", "Kaya", "Leon", "Mira")
_LAST = ("Abel", "Brandt", "Costa", "Dahl", "Ekman", "Falk", "Grau", "Holm", "Ilic", "Kern", "Lund", "Noor", "Oster")
_STREETS = ("Birch Road", "Canal Street", "Dune Way", "Fern Lane", "Harbour Street", "Mill Road", "Quarry Lane")
_CITIES = (("Denver", "CO"), ("Boise", "ID"), ("Tulsa", "OK"), ("Salem", "OR"), ("Mobile", "AL"))
_PRODUCTS: dict[str, tuple[float, dict[str, tuple[str, ...]]]] = {
    "Umbrella": (24.0, {"color": ("black", "red", "yellow"), "size": ("compact", "full")}),
    "Scarf": (30.0, {"color": ("blue", "grey", "green"), "material": ("wool", "cotton", "silk")}),
    "Frying Pan": (45.0, {"diameter": ("20 cm", "24 cm", "28 cm"), "coating": ("steel", "ceramic")}),
    "Alarm Clock": (35.0, {"display": ("analogue", "digital"), "color": ("white", "black", "orange")}),
    "Rain Jacket": (120.0, {"size": ("S", "M", "L", "XL"), "color": ("navy", "olive", "red")}),
    "Hand Mixer": (60.0, {"power": ("300 W", "500 W"), "color": ("white", "mint", "black")}),
    "Tent": (240.0, {"persons": ("2", "3", "4"), "season": ("summer", "winter")}),
    "Board Game": (38.0, {"edition": ("travel", "family", "deluxe"), "language": ("English", "Spanish")}),
    "Floor Lamp": (95.0, {"height": ("140 cm", "160 cm"), "shade": ("linen", "paper", "metal")}),
    "Sleeping Bag": (110.0, {"comfort": ("0 C", "5 C", "10 C"), "length": ("regular", "long")}),
}
"""Name -> price that variants lie around, and the options with their values."""


@functools.cache
def generated_dataset() -> Dataset:
    """Return the generated shop, made once per process."""
    return Dataset.of(generated_tables(), POLICY, list(SCHEMAS.values()))


@functools.cache
def generated_tables() -> dict[str, dict[str, Record]]:
    """Return users, orders and products: the same in every process. The caller must not change them."""
    rng = np.random.default_rng(WORLD_SEED)
    products = _products(rng)
    users = _users(rng)
    orders: dict[str, Record] = {}
    while len(orders) < ORDERS:
        user_id, user = list(users.items())[int(rng.integers(len(users)))]
        order = _order(rng, f"#W{int(rng.integers(10**6, 10**7))}", user_id, user, products)
        if order["order_id"] not in orders:
            orders[order["order_id"]] = order
            user["orders"].append(order["order_id"])
    return {"users": users, "orders": orders, "products": products}


def _products(rng: np.random.Generator) -> dict[str, Record]:
    """Draw every product's variants; most are available."""
    numbers = iter((rng.permutation(9 * 10**6)[: len(_PRODUCTS) * (1 + VARIANTS)] + 10**6).tolist())
    products: dict[str, Record] = {}
    for name, (price, options) in _PRODUCTS.items():
        product_id = f"{next(numbers)}100"
        choices = [dict(zip(options, values, strict=True)) for values in _combinations(list(options.values()))]
        variants = {}
        for pick in rng.permutation(len(choices))[:VARIANTS].tolist():
            item_id = f"{next(numbers)}200"
            variants[item_id] = {
                "item_id": item_id,
                "options": choices[pick],
                "available": bool(rng.random() < 0.8),
                "price": round(price * float(rng.uniform(0.85, 1.15)), 2),
            }
        products[product_id] = {"name": name, "product_id": product_id, "variants": variants}
    return products


def _combinations(values: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return every way to choose one value of each option."""
    if not values:
        return [()]
    return [(first, *rest) for first in values[0] for rest in _combinations(values[1:])]


def _users(rng: np.random.Generator) -> dict[str, Record]:
    """Draw users with one to three payment methods."""
    users: dict[str, Record] = {}
    while len(users) < USERS:
        first, last = pick(rng, _FIRST), pick(rng, _LAST)
        number = int(rng.integers(1000, 10000))
        methods: dict[str, Any] = {}
        for source in [pick(rng, ("credit_card", "paypal")), *(["gift_card"] if rng.random() < 0.6 else []), "paypal"]:
            method_id = f"{source}_{int(rng.integers(10**6, 10**7))}"
            extra: dict[str, Any] = {}
            if source == "gift_card":
                extra = {"balance": int(rng.integers(0, 400))}
            elif source == "credit_card":
                extra = {"brand": pick(rng, ("visa", "mastercard")), "last_four": f"{int(rng.integers(10**4)):04d}"}
            methods[method_id] = {"source": source, **extra, "id": method_id}
        users[f"{first.lower()}_{last.lower()}_{number}"] = {
            "name": {"first_name": first, "last_name": last},
            "address": draw_address(rng),
            "email": f"{first.lower()}.{last.lower()}{number}@example.com",
            "payment_methods": methods,
            "orders": [],
        }
    return users


def draw_address(rng: np.random.Generator) -> dict[str, str]:
    """Draw an address."""
    city, state = _CITIES[int(rng.integers(len(_CITIES)))]
    street = f"{int(rng.integers(1, 200))} {pick(rng, _STREETS)}"
    return address(street, f"Suite {int(rng.integers(100, 999))}", city, state, "USA", str(rng.integers(10000, 99999)))


def _order(rng: np.random.Generator, order_id: str, user_id: str, user: Record, products: dict[str, Record]) -> Record:
    """Draw an order of one to three different products."""
    items = []
    for position in rng.permutation(len(products))[: int(rng.integers(1, 4))].tolist():
        product = list(products.values())[position]
        variant = product["variants"][pick(rng, list(product["variants"]))]
        item = {"name": product["name"], "product_id": product["product_id"], "item_id": variant["item_id"]}
        items.append({**item, "price": variant["price"], "options": variant["options"]})
    status = str(rng.choice(["pending", "delivered", "processed", "cancelled"], p=[0.45, 0.4, 0.1, 0.05]))
    payment = {
        "transaction_type": "payment",
        "amount": round(sum(item["price"] for item in items), 2),
        "payment_method_id": pick(rng, list(user["payment_methods"])),
    }
    sent = status in ("delivered", "processed")
    shipment = {"tracking_id": [str(rng.integers(10**11, 10**12))], "item_ids": [item["item_id"] for item in items]}
    return {
        "order_id": order_id,
        "user_id": user_id,
        "address": dict(user["address"]),
        "items": items,
        "fulfillments": [shipment] if sent else [],
        "status": status,
        "payment_history": [payment, *([payment | {"transaction_type": "refund"}] if status == "cancelled" else [])],
    }


def pick(rng: np.random.Generator, values: Any) -> str:
    """Draw one of the values."""
    return str(values[int(rng.integers(len(values)))])
