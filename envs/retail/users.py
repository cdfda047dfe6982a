"""The simulated user: what one must offer, a scripted one, and one that a language model plays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from envs.retail.endpoint import Endpoint, EndpointConfig, Figures
from envs.retail.tools import Action
from envs.spaces import Message

STOP = "###STOP###"
"""What a user says, alone or at the end of a message, when there is nothing more to say."""
CONFIRMATION = "Yes, please go ahead."
CHANGING = frozenset(
    {
        "cancel_pending_order",
        "exchange_delivered_order_items",
        "modify_pending_order_address",
        "modify_pending_order_items",
        "modify_pending_order_payment",
        "modify_user_address",
        "return_delivered_order_items",
    }
)
"""The tools that change the database: the policy wants the user's explicit yes before each."""


GREETING = "Hello, this is the service desk. How can I help you?"
"""What a model that plays the user answers first; the policy does not see it."""
PERSONA = """You play a customer who writes to the service desk of a shop. This is who you are and what you want:

{instruction}

- Write one short message at a time, as a customer would, with nothing around it.
- Say what you want bit by bit, as the talk needs it; do not recite the text above.
- Know only what that text says. Asked for anything else, say that you do not know or do not have it.
- Agree to a change only if it is what you want.
- When all that you want is settled, or the desk hands you over to somebody else, write {stop} and nothing more.
"""


class User(Protocol):
    """The other side of the conversation, for one episode."""

    def open(self) -> str:
        """Return the first message."""
        ...

    def reply(self, text: str) -> str:
        """Return the answer to what the assistant said; with `STOP` in it the user leaves."""
        ...

    def take_figures(self) -> dict[str, float]:
        """Return what the user has cost since the last call, for the episode's metrics; the same names every time."""
        ...


class ScriptedUser:
    """Says its lines in order, whatever the assistant says, then leaves.

    Args:
        lines: the messages, the first of which opens the conversation.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = iter([*lines])

    def open(self) -> str:
        """Return the first line."""
        return self.reply("")

    def reply(self, text: str) -> str:
        """Return the next line; `STOP` after the last one."""
        return next(self._lines, STOP)

    def take_figures(self) -> dict[str, float]:
        """Return nothing: a script costs nothing."""
        return {}


class EndpointUser:
    """Played by a language model at an OpenAI-compatible endpoint, which sees only what was said to it.

    Args:
        config: the endpoint.
        instruction: who the user is and what they want, as the task says it.
    """

    def __init__(self, config: EndpointConfig, instruction: str) -> None:
        self._config = config
        self._endpoint = Endpoint(config)
        self._messages: list[Message] = [
            {"role": "system", "content": PERSONA.format(instruction=instruction, stop=STOP)}
        ]

    def open(self) -> str:
        """Return what the model says first."""
        return self.reply(GREETING)

    def reply(self, text: str) -> str:
        """Return what the model answers.

        Raises:
            EndpointError: the endpoint gave no message.
        """
        self._messages.append({"role": "user", "content": text})
        answer = self._endpoint.complete(self._messages)
        self._messages.append({"role": "assistant", "content": answer})
        return answer

    def take_figures(self) -> dict[str, float]:
        """Return requests, retries, tokens, price and seconds since the last call."""
        spent, self._endpoint.figures = self._endpoint.figures, Figures()
        cost = spent.prompt_tokens * self._config.prompt_price + spent.completion_tokens * self._config.completion_price
        return {
            "user_requests": float(spent.requests),
            "user_retries": float(spent.retries),
            "user_prompt_tokens": float(spent.prompt_tokens),
            "user_completion_tokens": float(spent.completion_tokens),
            "user_cost": cost / 1e6,
            "user_seconds": spent.seconds,
        }


def lines_of(instruction: str, actions: Sequence[Action]) -> list[str]:
    """Return the lines of a task's scripted user: the instruction, then one yes where the task changes anything."""
    return [instruction, *([CONFIRMATION] if any(action["name"] in CHANGING for action in actions) else [])]
