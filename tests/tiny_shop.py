"""A tiny shop made by hand: one user with orders, two products."""

from __future__ import annotations

from envs.retail.database import make_template

ADDRESS = {"address1": "1 A", "address2": "", "city": "Boise", "state": "ID", "country": "USA", "zip": "83701"}
NEW = {"address1": "2 B", "address2": "S", "city": "Salem", "state": "OR", "country": "USA", "zip": "97301"}


def variant(item_id, price, available=True, **options):
    return {"item_id": item_id, "options": options, "available": available, "price": price}


def order(order_id, status, items, method, **extra):
    total = round(sum(item["price"] for item in items), 2)
    paid = {"transaction_type": "payment", "amount": total, "payment_method_id": method}
    return {
        "order_id": order_id, "user_id": "zoe_a_1", "address": ADDRESS, "items": items, "fulfillments": [],
        "status": status, "payment_history": [paid], **extra,
    }  # fmt: skip


RED = {"name": "Mug", "product_id": "p1", "item_id": "red", "price": 10.0, "options": {"color": "red"}}
JAR = {"name": "Jar", "product_id": "p2", "item_id": "jar", "price": 5.5, "options": {"size": "S"}}
TABLES = {
    "users": {
        "zoe_a_1": {
            "name": {"first_name": "Zoé", "last_name": "Abel"}, "address": ADDRESS, "email": "Zoe@Example.com",
            "payment_methods": {
                "gift": {"source": "gift_card", "balance": 12, "id": "gift"},
                "card": {"source": "credit_card", "brand": "visa", "last_four": "1111", "id": "card"},
                "pal": {"source": "paypal", "id": "pal"},
            },
            "orders": ["#1", "#2", "#3"],
        },
        "zoe_a_2": {
            "name": {"first_name": "Zoé", "last_name": "Abel"}, "address": ADDRESS, "email": "b@example.com",
            "payment_methods": {}, "orders": [],
        },
    },
    "products": {
        "p1": {
            "name": "Mug", "product_id": "p1",
            "variants": {
                "red": variant("red", 10.0, color="red"), "blue": variant("blue", 12.1, color="blue"),
                "gold": variant("gold", 99.0, color="gold"), "gone": variant("gone", 9.0, False, color="grey"),
            },
        },
        "p2": {"name": "Jar", "product_id": "p2", "variants": {"jar": variant("jar", 5.5, size="S")}},
    },
    "orders": {
        "#1": order("#1", "pending", [RED, RED, JAR], "gift"),
        "#2": order("#2", "delivered", [RED, JAR], "card"),
        "#3": order("#3", "pending", [JAR], "card"),
    },
}  # fmt: skip
TEMPLATE = make_template(TABLES)
