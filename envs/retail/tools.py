"""The 16 tools of the desk, and the desk itself: the tools over a database, outside a conversation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from envs.retail.calculator import calculate
from envs.retail.database import Database, Record
from envs.retail.orders import OrderTools, address
from envs.tool_env import execute
from envs.tools import tool, tools_of

TRANSFER = "transfer_to_human_agents"
"""The tool that ends the conversation."""
TRANSFERRED = "Transfer successful"

Action = dict[str, Any]
"""One call as tau-bench writes it: `{"name": ..., "kwargs": {...}}`."""


class RetailTools(OrderTools):
    """All tools: those on orders, and those that look up, think, calculate, transfer and change a user's address."""

    @tool
    def find_user_id_by_email(self, email: str) -> str:
        """Find a user's id by email.

        Args:
            email: the user's email, such as 'name@example.com'.
        """
        for user_id, _ in self.database.find_users("$.email", email):
            return user_id
        raise ValueError("user not found")

    @tool
    def find_user_id_by_name_zip(self, first_name: str, last_name: str, zip: str) -> str:
        """Find a user's id by first name, last name and zip code: where the user has no email at hand, or a wrong one.

        Args:
            first_name: the first name, such as 'Ada'.
            last_name: the last name, such as 'Stone'.
            zip: the zip code, such as '80201'.
        """
        wanted = (first_name.lower(), last_name.lower())
        for user_id, user in self.database.find_users("$.address.zip", zip):
            if (user["name"]["first_name"].lower(), user["name"]["last_name"].lower()) == wanted:
                return user_id
        raise ValueError("user not found")

    @tool
    def get_user_details(self, user_id: str) -> Record:
        """Get a user's profile: name, address, email, payment methods and order ids.

        Args:
            user_id: the user id, such as 'ada_stone_1234'.
        """
        return self._found("user", user_id)

    @tool
    def get_order_details(self, order_id: str) -> Record:
        """Get an order: its status, address, items, payments and fulfilments.

        Args:
            order_id: the order id with its '#', such as '#W0000000'.
        """
        return self._found("order", order_id)

    @tool
    def get_product_details(self, product_id: str) -> Record:
        """Get a product: its variants with item ids, options, prices and availability.

        Args:
            product_id: the product id, such as '1234567890'; an item id is something else.
        """
        return self._found("product", product_id)

    @tool
    def list_all_product_types(self) -> dict[str, str]:
        """List every product's name with its product id."""
        return dict(sorted((product["name"], key) for key, product in self.database.records("products")))

    @tool
    def modify_user_address(
        self, user_id: str, address1: str, address2: str, city: str, state: str, country: str, zip: str
    ) -> Record:
        """Change a user's default address.

        List the details and have the user confirm them (yes) first. Gives the profile as it is afterwards.

        Args:
            user_id: the user id, such as 'ada_stone_1234'.
            address1: first line of the address, such as '12 Oak Street'.
            address2: second line of the address, such as 'Suite 100', or ''.
            city: the city, such as 'Denver'.
            state: the state, such as 'CO'.
            country: the country, such as 'USA'.
            zip: the zip code, such as '80201'.
        """
        user = self._found("user", user_id)
        user["address"] = address(address1, address2, city, state, country, zip)
        self.database.write("users", user_id, user)
        return user

    @tool
    def calculate(self, expression: str) -> str:
        """Work out an arithmetic expression.

        Args:
            expression: numbers, + - * /, parentheses and spaces, such as '2 * (3.5 + 1)'.
        """
        return calculate(expression)

    @tool
    def think(self, thought: str) -> str:
        """Note a thought: it gives no information and changes nothing.

        Args:
            thought: the thought.
        """
        return ""

    @tool
    def transfer_to_human_agents(self, summary: str) -> str:
        """Hand the user over to a human agent, which ends the conversation: only where no other tool can help.

        Args:
            summary: what the user wants, in short.
        """
        return TRANSFERRED

    def _found(self, kind: str, key: str) -> Record:
        """Return a record, or raise where there is none with this id."""
        record = self.database.read(kind + "s", key)
        if record is None:
            raise ValueError(f"{kind} not found")
        return record


SCHEMAS = tools_of(RetailTools)
"""Name -> schema of the 16 tools."""


@dataclass(frozen=True, slots=True)
class Desk(RetailTools):
    """The tools over one database, for calls that no model makes: reference actions, demonstrations, tests."""

    database: Database

    def call(self, action: Action) -> str:
        """Execute one action; a failed one answers `Error: ` and what is wrong with it."""
        text, failed = execute(self, SCHEMAS, action["name"], action["kwargs"])
        return f"Error: {text}" if failed else text

    def call_all(self, actions: Iterable[Action]) -> list[str]:
        """Execute actions in order and return what they answer."""
        return [self.call(action) for action in actions]
