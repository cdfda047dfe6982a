"""The tools that change orders: cancel, modify, return, exchange. A call that fails changes nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

from envs.retail.database import Database, Record
from envs.tools import tool

REASONS = ("no longer needed", "ordered by mistake")


class OrderTools:
    """Tools on pending and delivered orders; their errors are those of tau-bench, word by word."""

    database: Database

    @tool
    def cancel_pending_order(self, order_id: str, reason: str) -> Record:
        """Cancel a pending order and refund it: a gift card at once, other payment methods in 5 to 7 business days.

        List the details and have the user confirm them (yes) first. Gives the order as it is afterwards.

        Args:
            order_id: the order id with its '#', such as '#W0000000'.
            reason: either 'no longer needed' or 'ordered by mistake'.
        """
        order = self._order(order_id, "pending", "cancelled")
        if reason not in REASONS:
            raise ValueError("invalid reason")
        user = self._user_of(order)
        for payment in list(order["payment_history"]):
            _pay(order, "refund", payment["amount"], payment["payment_method_id"])
            _credit(user, payment["payment_method_id"], payment["amount"])
        order |= {"status": "cancelled", "cancel_reason": reason}
        return self._save(order, user)

    @tool
    def modify_pending_order_address(
        self, order_id: str, address1: str, address2: str, city: str, state: str, country: str, zip: str
    ) -> Record:
        """Change the shipping address of a pending order.

        List the details and have the user confirm them (yes) first. Gives the order as it is afterwards.

        Args:
            order_id: the order id with its '#', such as '#W0000000'.
            address1: first line of the address, such as '12 Oak Street'.
            address2: second line of the address, such as 'Suite 100', or ''.
            city: the city, such as 'Denver'.
            state: the state, such as 'CO'.
            country: the country, such as 'USA'.
            zip: the zip code, such as '80201'.
        """
        order = self._order(order_id, "pending", "modified")
        order["address"] = address(address1, address2, city, state, country, zip)
        return self._save(order)

    @tool
    def modify_pending_order_payment(self, order_id: str, payment_method_id: str) -> Record:
        """Pay a pending order with another payment method; what was paid is refunded to the former one.

        List the details and have the user confirm them (yes) first. Gives the order as it is afterwards.

        Args:
            order_id: the order id with its '#', such as '#W0000000'.
            payment_method_id: the new payment method, such as 'gift_card_0000000', from the user's profile.
        """
        order = self._order(order_id, "pending", "modified")
        user = self._user_of(order)
        method = _method(user, payment_method_id)
        history = order["payment_history"]
        if len(history) != 1 or history[0]["transaction_type"] != "payment":
            raise ValueError("there should be exactly one payment for a pending order")
        former, amount = history[0]["payment_method_id"], history[0]["amount"]
        if former == payment_method_id:
            raise ValueError("the new payment method should be different from the current one")
        if _is_short(method, amount):
            raise ValueError("insufficient gift card balance to pay for the order")
        _pay(order, "payment", amount, payment_method_id)
        _pay(order, "refund", amount, former)
        _credit(user, payment_method_id, -amount)
        _credit(user, former, amount)
        return self._save(order, user)

    @tool
    def modify_pending_order_items(
        self, order_id: str, item_ids: list[str], new_item_ids: list[str], payment_method_id: str
    ) -> Record:
        """Replace items of a pending order by other variants of the same products. Only one call per order succeeds.

        List the details and have the user confirm them (yes) first. Gives the order as it is afterwards.

        Args:
            order_id: the order id with its '#', such as '#W0000000'.
            item_ids: ids of the items to replace; an item that was ordered twice may stand there twice.
            new_item_ids: ids of the new items, each of the product of the item at the same place of item_ids.
            payment_method_id: what pays the difference in price, or gets it back, from the user's profile.
        """
        order = self._order(order_id, "pending", "modified")
        user = self._user_of(order)
        difference = self._price_difference(order, item_ids, new_item_ids)
        method = _method(user, payment_method_id)
        if _is_short(method, difference):
            raise ValueError("insufficient gift card balance to pay for the new item")
        _pay(order, "payment" if difference > 0 else "refund", abs(difference), payment_method_id)
        _credit(user, payment_method_id, -difference)
        for item_id, new_item_id in zip(item_ids, new_item_ids, strict=True):
            item = _item(order, item_id)
            variant = self._available(item, new_item_id)
            item |= {"item_id": new_item_id, "price": variant["price"], "options": variant["options"]}
        order["status"] = "pending (item modified)"
        return self._save(order, user)

    @tool
    def return_delivered_order_items(self, order_id: str, item_ids: list[str], payment_method_id: str) -> Record:
        """Ask for the return of items of a delivered order. An order takes one return or one exchange, not both.

        List the details and have the user confirm them (yes) first. Gives the order as it is afterwards.

        Args:
            order_id: the order id with its '#', such as '#W0000000'.
            item_ids: ids of the items to return; an item that was ordered twice may stand there twice.
            payment_method_id: where the refund goes: what the order was paid with, or a gift card of the user.
        """
        order = self._order(order_id, "delivered", "returned")
        method = _method(self._user_of(order), payment_method_id)
        if not _is_gift_card(method) and payment_method_id != order["payment_history"][0]["payment_method_id"]:
            raise ValueError("payment method should be either the original payment method or a gift card")
        if _missing(order, item_ids) is not None:
            raise ValueError("some item not found")
        order |= {
            "status": "return requested",
            "return_items": sorted(item_ids),
            "return_payment_method_id": payment_method_id,
        }
        return self._save(order)

    @tool
    def exchange_delivered_order_items(
        self, order_id: str, item_ids: list[str], new_item_ids: list[str], payment_method_id: str
    ) -> Record:
        """Ask for the exchange of items of a delivered order against other variants of the same products.

        An order takes one return or one exchange, not both. List the details and have the user confirm them (yes)
        first. Gives the order as it is afterwards.

        Args:
            order_id: the order id with its '#', such as '#W0000000'.
            item_ids: ids of the items to exchange; an item that was ordered twice may stand there twice.
            new_item_ids: ids of the new items, each of the product of the item at the same place of item_ids.
            payment_method_id: what pays the difference in price, or gets it back, from the user's profile.
        """
        order = self._order(order_id, "delivered", "exchanged")
        difference = round(self._price_difference(order, item_ids, new_item_ids), 2)
        if _is_short(_method(self._user_of(order), payment_method_id), difference):
            raise ValueError("insufficient gift card balance to pay for the price difference")
        order |= {
            "status": "exchange requested",
            "exchange_items": sorted(item_ids),
            "exchange_new_items": sorted(new_item_ids),
            "exchange_payment_method_id": payment_method_id,
            "exchange_price_difference": difference,
        }
        return self._save(order)

    def _order(self, order_id: str, status: str, participle: str) -> Record:
        """Return an order, or raise where there is none or it is not in this status."""
        order = self.database.read("orders", order_id)
        if order is None:
            raise ValueError("order not found")
        if order["status"] != status:
            raise ValueError(f"non-{status} order cannot be {participle}")
        return order

    def _user_of(self, order: Record) -> Record:
        """Return the profile of the user whose order it is."""
        user = self.database.read("users", order["user_id"])
        assert user is not None, "the dataset was checked: every order has its user"
        return user

    def _available(self, item: Record, new_item_id: str) -> Record:
        """Return a variant of the item's product, or raise where there is none with this id or it is not available."""
        product = self.database.read("products", item["product_id"])
        assert product is not None, "the dataset was checked: every item has its product"
        variant = product["variants"].get(new_item_id)
        if variant is None or not variant["available"]:
            raise ValueError(f"new item {new_item_id} not found or available")
        return dict(variant)

    def _price_difference(self, order: Record, item_ids: list[str], new_item_ids: list[str]) -> float:
        """Return the price of the new items less that of the old ones, or raise where they cannot be swapped."""
        if (missing := _missing(order, item_ids)) is not None:
            raise ValueError(f"{missing} not found")
        if len(item_ids) != len(new_item_ids):
            raise ValueError("the number of items to be exchanged should match")
        difference = 0.0
        for item_id, new_item_id in zip(item_ids, new_item_ids, strict=True):
            item = _item(order, item_id)
            difference += self._available(item, new_item_id)["price"] - item["price"]
        return difference

    def _save(self, order: Record, user: Record | None = None) -> Record:
        """Write an order, and where it is given the user's profile, and return the order."""
        self.database.write("orders", order["order_id"], order)
        if user is not None:
            self.database.write("users", order["user_id"], user)
        return order


def address(address1: str, address2: str, city: str, state: str, country: str, zip: str) -> dict[str, str]:
    """Return an address record."""
    return {"address1": address1, "address2": address2, "city": city, "state": state, "country": country, "zip": zip}


def _item(order: Record, item_id: str) -> Record:
    """Return the first item of the order with this id."""
    return next(item for item in order["items"] if item["item_id"] == item_id)


def _missing(order: Record, item_ids: list[str]) -> str | None:
    """Return the first of the ids that is asked for more often than it was ordered."""
    ordered = Counter(item["item_id"] for item in order["items"])
    asked = Counter(item_ids)
    return next((item_id for item_id in item_ids if asked[item_id] > ordered[item_id]), None)


def _method(user: Record, payment_method_id: str) -> dict[str, Any]:
    """Return a payment method of the user, or raise where there is none with this id."""
    if payment_method_id not in user["payment_methods"]:
        raise ValueError("payment method not found")
    return user["payment_methods"][payment_method_id]


def _is_gift_card(method: dict[str, Any]) -> bool:
    """Whether a payment method is a gift card; only these have a balance."""
    return method["source"] == "gift_card"


def _is_short(method: dict[str, Any], amount: float) -> bool:
    """Whether a payment method is a gift card that does not hold the amount."""
    return _is_gift_card(method) and method["balance"] < amount


def _pay(order: Record, transaction_type: str, amount: float, payment_method_id: str) -> None:
    """Put a payment or a refund at the end of the order's history."""
    transaction = {"transaction_type": transaction_type, "amount": amount, "payment_method_id": payment_method_id}
    order["payment_history"].append(transaction)


def _credit(user: Record, payment_method_id: str, amount: float) -> None:
    """Add to the balance of a gift card, rounded to cents; money moves on no other payment method at once."""
    method = user["payment_methods"].get(payment_method_id)
    if method is not None and _is_gift_card(method):
        method["balance"] = round(method["balance"] + amount, 2)
