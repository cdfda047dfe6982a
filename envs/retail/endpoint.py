"""A client of OpenAI-compatible chat endpoints: retries with backoff and jitter, limits on time, a count of tokens."""

from __future__ import annotations

import contextlib
import difflib
import http.client
import json
import os
import random
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from configs import bounds
from configs.errors import ConfigError
from envs.addresses import is_address
from envs.conversation import KWARGS
from envs.spaces import Message
from envs.user_model import KEY_VARIABLE, MODEL_NAME, SERVED, served_url

SECTION = KWARGS + "user."
SERVED_ATTEMPTS = 20
"""Attempts at the model that the run serves: with their waits they last longer than its restart."""
_RETRIED = frozenset({408, 409, 425, 429})
_MAX_BYTES = 1 << 20
_NUMBERS: dict[str, Any] = dict.fromkeys(("max_tokens", "attempts"), int) | dict.fromkeys(
    (
        "temperature",
        "timeout_s",
        "episode_timeout_s",
        "backoff_s",
        "max_backoff_s",
        "prompt_price",
        "completion_price",
    ),
    int | float,
)


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """An OpenAI-compatible endpoint and how long to wait for it: `environment.kwargs.user`."""

    base_url: str
    """Address up to the version, for example `http://10.0.0.7:8000/v1`; proxies are not used. `served` is the model
    that the run serves (`user_model`): then model and api_key_env are left out, and attempts is 20 by default."""
    model: str
    """Name of the model at the endpoint."""
    api_key_env: str | None = None
    """Environment variable that holds the key or token, on every node that runs environments; null sends none."""
    temperature: float = 1.0
    """Sampling temperature."""
    max_tokens: int = 256
    """Longest message in tokens."""
    timeout_s: float = 20.0
    """Longest time of one request, from connecting to the last byte; leave room for retries in
    `rollout.step_timeout_s`."""
    episode_timeout_s: float = 300.0
    """Longest time that an episode waits for the endpoint in all, waits between attempts included."""
    attempts: int = 5
    """Requests until a message must have come; refusals for good (401, say) are not repeated."""
    backoff_s: float = 1.0
    """Longest wait before the second attempt; it doubles with each one, and the wait is drawn uniformly below it."""
    max_backoff_s: float = 30.0
    """Longest wait between two attempts, also where the endpoint asks for a longer one."""
    prompt_price: float = 0.0
    """Price of a million prompt tokens, in any currency; the metric `user_cost` adds up."""
    completion_price: float = 0.0
    """Price of a million completion tokens."""

    def __post_init__(self) -> None:
        if not (self.is_served or is_address(self.base_url, query=False)):
            rule = "must be an http or https address without credentials or query"
            shown = self.base_url.rpartition("@")[2]  # what stands before it may be a password
            raise ConfigError(SECTION + "base_url", rule, shown, "Write http://host:port/v1.")
        if not self.model:
            raise ConfigError(SECTION + "model", "must not be empty", self.model, "Name the model at the endpoint.")
        for name, kind in _NUMBERS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                what = "a whole number" if kind is int else "a number"
                raise ConfigError(SECTION + name, f"must be {what}", value, f"Set it to {what}.")
        for name in ("temperature", "backoff_s", "max_backoff_s", "prompt_price", "completion_price"):
            bounds.at_least(SECTION, name, getattr(self, name), 0)
        for name in ("max_tokens", "attempts"):
            bounds.at_least(SECTION, name, getattr(self, name), 1)
        for name in ("timeout_s", "episode_timeout_s"):
            bounds.seconds(SECTION, name, getattr(self, name))

    @property
    def is_served(self) -> bool:
        """Whether it is the model that the run serves, whose address is known only while the run goes on."""
        return self.base_url == SERVED

    @classmethod
    def of(cls, settings: Mapping[str, Any] | str) -> EndpointConfig:
        """Make it from a config's mapping; `served` alone stands for `{base_url: served}`.

        Raises:
            ConfigError: no mapping, or an unknown, missing or wrong setting.
        """
        if settings == SERVED:
            settings = {"base_url": SERVED}
        if not isinstance(settings, Mapping):
            fix = "Write user: {base_url: http://host:port/v1, model: name}, or user: served; left out, it is a script."
            raise ConfigError(KWARGS + "user", "must hold the settings of an endpoint", settings, fix)
        known = [f.name for f in fields(cls)]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                fix = f"Did you mean {near[0]!r}?" if near else f"It takes: {', '.join(known)}."
                raise ConfigError(SECTION + str(name), "is no setting of the user's endpoint", settings[name], fix)
        if settings.get("base_url") == SERVED:
            settings = _of_served(settings)
        for name in ("base_url", "model", "api_key_env"):
            needed = name != "api_key_env" or settings.get(name) is not None
            if needed and not isinstance(settings.get(name), str):
                raise ConfigError(SECTION + name, "must be given as text", settings.get(name), f"Set {SECTION}{name}.")
        return cls(**settings)


def _of_served(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with what is fixed for the model that the run serves."""
    for name in ("model", "api_key_env"):
        if settings.get(name) is not None:
            rule = f"must be left out where base_url is {SERVED}"
            raise ConfigError(SECTION + name, rule, settings[name], "The run names its model and makes the token.")
    return {"attempts": SERVED_ATTEMPTS, **settings, "model": MODEL_NAME, "api_key_env": KEY_VARIABLE}


class EndpointError(RuntimeError):
    """The endpoint gave no message. The key is in none of its texts."""


@dataclass(slots=True)
class Figures:
    """What requests have cost."""

    requests: int = 0
    """Requests sent."""
    retries: int = 0
    """Those of them that repeat one that failed."""
    prompt_tokens: int = 0
    """Prompt tokens as the endpoint counted them; 0 where it does not say."""
    completion_tokens: int = 0
    """Sampled tokens, likewise."""
    seconds: float = 0.0
    """Time waited."""


@dataclass(slots=True)
class Endpoint:
    """One client, for one episode."""

    config: EndpointConfig
    """The endpoint."""
    figures: Figures = field(default_factory=Figures)
    """What its requests have cost; the caller may put a fresh one in its place."""
    waited_s: float = 0.0
    """Time waited over the whole episode."""
    url: str = field(init=False)
    """Its address up to the version."""
    _headers: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.url = served_url(SECTION + "base_url") if self.config.is_served else self.config.base_url
        self._headers = {"Content-Type": "application/json"}
        if self.config.api_key_env is not None:
            self._headers["Authorization"] = f"Bearer {read_key(self.config.api_key_env)}"

    def complete(self, messages: Sequence[Message]) -> str:
        """Return the endpoint's next message.

        Args:
            messages: the conversation so far, with roles as the endpoint sees them.

        Raises:
            EndpointError: it refused for good, did not answer in `attempts`, or the episode's time is over.
        """
        config, started = self.config, time.monotonic()
        deadline = started + config.episode_timeout_s - self.waited_s
        body = json.dumps(
            {
                "model": config.model,
                "messages": list(messages),
                "temperature": config.temperature,
                "max_tokens": config.max_tokens,
            }
        ).encode()
        try:
            return self._attempts(body, deadline)
        finally:
            spent = time.monotonic() - started
            self.waited_s += spent
            self.figures.seconds += spent

    def _attempts(self, body: bytes, deadline: float) -> str:
        """Try until a message comes, or raise."""
        config, problem, asked_wait = self.config, "no time was left", 0.0
        for attempt in range(config.attempts):
            if attempt:
                wait = random.uniform(0, min(config.max_backoff_s, config.backoff_s * 2 ** min(attempt - 1, 30)))
                wait = max(wait, min(asked_wait, config.max_backoff_s))
                time.sleep(max(0.0, min(wait, deadline - time.monotonic())))
            left = deadline - time.monotonic()
            if left <= 0:
                rule = f"waited episode_timeout_s={config.episode_timeout_s:g} in this episode"
                raise EndpointError(f"the user's endpoint {self.url} gave no message: {rule} (last: {problem}).")
            self.figures.requests += 1
            self.figures.retries += attempt > 0
            asked_wait = 0.0
            try:
                status, retry_after, data = self._post(body, min(left, config.timeout_s))
            except (OSError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if status == 200:
                message = self._read(data)
                if message is not None:
                    return message
                problem = f"no chat completion in an answer of {len(data)} bytes"
            else:
                problem = f"status {status}: {self._shown(data)}"
                asked_wait = _seconds(retry_after)
                if status not in _RETRIED and status < 500:
                    raise EndpointError(f"the user's endpoint {self.url} refused: {problem}")
        rule = f"failed {config.attempts} times"
        raise EndpointError(f"the user's endpoint {self.url} {rule} (last: {problem}).")

    def _post(self, body: bytes, timeout_s: float) -> tuple[int, str, bytes]:
        """Send one request; return status, `Retry-After` and the answer's first bytes. Redirects are not followed."""
        address = urlsplit(self.url)
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(str(address.hostname), address.port, timeout=timeout_s)
        guard = None
        try:
            connection.connect()
            # a socket's time limit is per read: a server that sends a byte now and then must be cut off from outside
            guard = threading.Timer(timeout_s, _cut, (connection.sock,))
            guard.daemon = True
            guard.start()
            connection.request("POST", address.path.rstrip("/") + "/chat/completions", body, self._headers)
            response = connection.getresponse()
            return response.status, response.getheader("Retry-After", ""), response.read(_MAX_BYTES)
        finally:
            if guard is not None:
                guard.cancel()
            connection.close()

    def _read(self, data: bytes) -> str | None:
        """Return the message in an answer and count its tokens; None where there is none."""
        try:
            answer = json.loads(data)
            message = answer["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            return None
        self.figures.prompt_tokens += _count(answer.get("usage"), "prompt_tokens")
        self.figures.completion_tokens += _count(answer.get("usage"), "completion_tokens")
        if not isinstance(message, str):
            return None
        return message.encode("utf-8", "replace").decode().strip() or None  # no half of a surrogate pair

    def _shown(self, data: bytes) -> str:
        """Return the start of an error's text, without the key, should the endpoint repeat it."""
        text = data.decode("utf-8", "replace")
        key = self._headers.get("Authorization", "").removeprefix("Bearer ")
        return (text.replace(key, "[key]") if key else text)[:200]


def read_key(variable: str) -> str:
    """Return the key that an environment variable holds.

    Raises:
        ConfigError: it is not set or holds what no header can; the key is not in the message.
    """
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        rule = "must name a set environment variable" if not key else "must name one with a key of printable ASCII"
        raise ConfigError(SECTION + "api_key_env", rule, variable, f"Export {variable} on every node.")
    return key


def _cut(sock: socket.socket) -> None:
    """End a connection under the thread that reads from it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not SSLSocket's own, which is not safe from another thread


def _count(usage: Any, name: str) -> int:
    """Return a count of tokens; 0 where the endpoint gives none."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0


def _seconds(header: str) -> float:
    """Return the wait that `Retry-After` asks for in seconds; 0 where it has another form."""
    return float(header) if header.isascii() and header.isdigit() and len(header) < 10 else 0.0
