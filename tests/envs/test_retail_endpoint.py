"""The user at an OpenAI-compatible endpoint, against a real HTTP server on this machine that misbehaves on purpose."""

import http.server
import json
import threading
import time
from pathlib import Path

import pytest

from configs.errors import ConfigError
from envs.retail.endpoint import Endpoint, EndpointConfig, EndpointError
from envs.retail.environment import RetailEnv
from envs.retail.users import GREETING, STOP, EndpointUser
from envs.tool_calls import format_hermes
from envs.user_model import KEY_VARIABLE, MODEL_NAME, URL_VARIABLE

KEY = "sk-very-secret"
VARIABLE = "TEST_RETAIL_KEY"


def completion(text, prompt_tokens=100, completion_tokens=7):
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


class Server:
    """Answers requests in order with `answers`: a text, a (status, headers, bytes), or a function of the handler."""

    def __init__(self, answers):
        self.answers = iter(answers)
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((self.path, dict(self.headers), body, time.monotonic()))
                answer = next(outer.answers)
                if callable(answer):
                    return answer(self)
                if isinstance(answer, str):
                    answer = (200, {}, json.dumps(completion(answer)).encode())
                status, headers, data = answer
                self.send_response(status)
                for name, value in {"Content-Length": len(data), **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve():
    servers = []

    def start(*answers):
        servers.append(Server(answers))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def endpoint(server, **settings):
    return Endpoint(EndpointConfig(**{"base_url": server.url, "model": "m", "backoff_s": 0.01, **settings}))


def drip(seconds):
    """An answer of which a byte comes now and then: every read is in time, the whole is not."""

    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(int(seconds / 0.05)):
            try:
                handler.wfile.write(b" ")
                handler.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)

    return answer


def hang(handler):
    time.sleep(1)


def close(handler):
    handler.connection.close()


def test_a_request_is_a_chat_completion_with_the_key(serve, monkeypatch):
    monkeypatch.setenv(VARIABLE, f" {KEY}\n")
    server = serve("hello")
    client = endpoint(server, api_key_env=VARIABLE, temperature=0.5, max_tokens=9)
    assert client.complete([{"role": "user", "content": "hé"}]) == "hello"
    path, headers, body, _ = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    messages = [{"role": "user", "content": "hé"}]
    assert body == {"model": "m", "messages": messages, "temperature": 0.5, "max_tokens": 9}
    assert (client.figures.requests, client.figures.retries) == (1, 0)
    assert (client.figures.prompt_tokens, client.figures.completion_tokens) == (100, 7)
    assert KEY not in repr(client)


@pytest.mark.parametrize(
    "bad",
    [
        (500, {}, b"oops"),
        (503, {}, b""),
        (429, {}, b"{}"),
        (408, {}, b""),
        (200, {}, b"<html>"),
        (200, {}, b"[]"),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": {"content": null}}]}'),
        (200, {}, json.dumps(completion("  ")).encode()),
        (200, {}, b"[" * 100_000),
        (200, {}, b"\xff\xfe"),
        (200, {"Content-Length": 100}, b'{"choices"'),
        close,
    ],
)
def test_failures_and_garbage_are_tried_again(serve, bad):
    server = serve(bad, bad, "hello")
    client = endpoint(server, timeout_s=2)
    assert client.complete([]) == "hello"
    assert (client.figures.requests, client.figures.retries) == (3, 2)


@pytest.mark.parametrize(
    "usage", [None, [], {}, {"prompt_tokens": "many"}, {"prompt_tokens": -1}, {"prompt_tokens": True}]
)
def test_a_message_without_a_count_of_its_tokens_is_taken_all_the_same(serve, usage):
    server = serve((200, {}, json.dumps(completion("hello") | {"usage": usage}).encode()))
    client = endpoint(server)
    assert client.complete([]) == "hello"
    assert (client.figures.requests, client.figures.prompt_tokens, client.figures.completion_tokens) == (1, 0, 0)


def test_half_a_surrogate_pair_which_no_tokenizer_takes_is_replaced(serve):
    data = b'{"choices": [{"message": {"content": "a\\ud83d"}}]}'
    assert endpoint(serve((200, {}, data))).complete([]) == "a?"


def test_it_gives_up_after_so_many_attempts(serve):
    server = serve(*[(500, {}, b"oops")] * 9)
    with pytest.raises(EndpointError, match=r"failed 3 times \(last: status 500: oops\)"):
        endpoint(server, attempts=3).complete([])
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_for_good_is_not_repeated_and_shows_no_key(serve, monkeypatch, status):
    monkeypatch.setenv(VARIABLE, KEY)
    other = serve("never")
    server = serve((status, {"Location": other.url}, f"key {KEY} is wrong".encode()))
    with pytest.raises(EndpointError, match=f"refused: status {status}") as raised:
        endpoint(server, api_key_env=VARIABLE).complete([])
    assert KEY not in str(raised.value)
    assert "[key]" in str(raised.value)
    assert len(server.requests) == 1
    assert other.requests == [], "a redirect would carry the key elsewhere"


def test_nobody_at_the_address_is_an_error_that_names_it(serve):
    server = serve()
    server.stop()
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1.*ConnectionRefusedError"):
        endpoint(server, attempts=2).complete([])


@pytest.mark.parametrize("slow", [hang, drip(1.0)])
def test_a_slow_answer_is_cut_off_and_tried_again(serve, slow):
    server = serve(slow, "hello")
    client = endpoint(server, timeout_s=0.2)
    started = time.monotonic()
    assert client.complete([]) == "hello"
    assert 0.2 <= time.monotonic() - started < 0.9
    assert client.figures.seconds >= 0.2


def test_the_time_of_an_episode_ends_all_waiting(serve):
    server = serve("one", hang, hang, hang)
    client = endpoint(server, timeout_s=10, episode_timeout_s=0.4, attempts=100)
    assert client.complete([]) == "one"
    started = time.monotonic()
    with pytest.raises(EndpointError, match=r"waited episode_timeout_s=0\.4"):
        client.complete([])
    assert time.monotonic() - started < 0.9
    with pytest.raises(EndpointError, match="no time was left"):
        client.complete([])
    assert len(server.requests) == 2, "the time is that of the episode, not of one message"


def test_waits_grow_are_drawn_and_heed_what_the_endpoint_asks_up_to_the_limit(serve, monkeypatch):
    from envs.retail import endpoint as module

    bounds, slept = [], []
    monkeypatch.setattr(module.random, "uniform", lambda low, high: bounds.append((low, high)) or high / 2)
    monkeypatch.setattr(module.time, "sleep", slept.append)
    asks = (429, {"Retry-After": "3"}, b"")
    asks_long = (429, {"Retry-After": "9999"}, b"")
    server = serve((500, {}, b""), (500, {}, b""), asks, asks_long, (500, {"Retry-After": "soon"}, b""), "hello")
    assert endpoint(server, attempts=6, backoff_s=1.0, max_backoff_s=6.0).complete([]) == "hello"
    assert bounds == [(0, 1.0), (0, 2.0), (0, 4.0), (0, 6.0), (0, 6.0)]
    assert slept == [0.5, 1.0, 3.0, 6.0, 3.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "user.base_url must be given"),
        ({"base_url": "http://a/v1"}, "user.model must be given"),
        ({"base_url": "http://a/v1", "model": "m", "modle": 1}, "Did you mean 'model'"),
        ({"base_url": "ftp://a", "model": "m"}, "must be an http or https address"),
        ({"base_url": "http://", "model": "m"}, "must be an http or https address"),
        ({"base_url": "http://a/v1", "model": "m", "timeout_s": 0}, "timeout_s must be > 0"),
        ({"base_url": "http://a/v1", "model": "m", "attempts": 0}, "attempts must be >= 1"),
        ({"base_url": "http://a/v1", "model": "m", "attempts": 1.5}, "attempts must be a whole number"),
        ({"base_url": "http://a/v1", "model": "m", "temperature": "hot"}, "temperature must be a number"),
        ({"base_url": "http://a/v1", "model": "m", "timeout_s": True}, "timeout_s must be a number"),
        ({"base_url": "http://a:99999/v1", "model": "m"}, "must be an http or https address"),
        ({"base_url": "http://[::1/v1", "model": "m"}, "must be an http or https address"),
        ({"base_url": "http://a/v1?key=1", "model": "m"}, "must be an http or https address"),
        ({"base_url": "http://a/v1", "model": "m", "api_key_env": 3}, "user.api_key_env must be given as text"),
        ({"base_url": "http://a/v1", "model": "m", "api_key_env": "TEST_RETAIL_UNSET"}, "must name a set environment"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(settings, message):
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.user\.") as raised:
        RetailEnv(user=settings)
    assert message in str(raised.value)


def test_a_user_that_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match=r"environment\.kwargs\.user must hold the settings of an endpoint"):
        RetailEnv(user="script")


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_a_key_that_no_header_holds_is_refused_without_showing_it(monkeypatch, key):
    monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(ConfigError, match="printable ASCII") as raised:
        RetailEnv(user={"base_url": "http://a/v1", "model": "m", "api_key_env": VARIABLE})
    assert key not in str(raised.value)


def test_credentials_in_the_address_are_refused_without_showing_them():
    with pytest.raises(ConfigError, match="without credentials") as raised:
        RetailEnv(user={"base_url": f"http://me:{KEY}@a/v1", "model": "m"})
    assert KEY not in str(raised.value)


def test_the_model_sees_the_talk_from_the_users_side(serve):
    server = serve("Hi, cancel it.", f"Thanks. {STOP}")
    user = EndpointUser(EndpointConfig(server.url, "m"), "You want {this}.")
    assert user.open() == "Hi, cancel it."
    assert user.reply("Which one?") == f"Thanks. {STOP}"
    messages = server.requests[1][2]["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert "You want {this}." in messages[0]["content"]
    assert STOP in messages[0]["content"]
    assert [message["content"] for message in messages[1:]] == [GREETING, "Hi, cancel it.", "Which one?"]


def test_an_episode_with_a_user_at_an_endpoint_counts_what_it_costs(serve):
    server = serve((500, {}, b""), "Hello, it is me.", "Please do.", f"{STOP}")
    settings = {"base_url": server.url, "model": "m", "backoff_s": 0.01, "prompt_price": 2.0, "completion_price": 10.0}
    env = RetailEnv(user=settings)
    task = env.task(0)
    assert env.reset(options={"task": task})[0][1] == {"role": "user", "content": "Hello, it is me."}
    metrics = [env.step(format_hermes("think", {"thought": "?"}))[4]["metrics"]]
    assert metrics[0]["user_requests"] == 2, "the opening counts in the first step"
    assert metrics[0]["user_retries"] == 1
    observation, _, _, _, info = env.step("May I?")
    assert observation == ({"role": "user", "content": "Please do."},)
    metrics.append(info["metrics"])
    _, _, terminated, _, info = env.step("Bye.")
    metrics.append(info["metrics"])
    assert terminated
    total = {name: sum(step[name] for step in metrics) for name in metrics[0]}
    assert (total["user_requests"], total["user_prompt_tokens"], total["user_completion_tokens"]) == (4, 300, 21)
    assert total["user_cost"] == pytest.approx((300 * 2 + 21 * 10) / 1e6)
    assert total["user_seconds"] > 0


def test_demonstrations_ask_no_endpoint(serve):
    server = serve("Hello.", "Hello.")
    env = RetailEnv(user={"base_url": server.url, "model": "m"})
    env.reset(seed=0)
    asked = len(server.requests)
    assert env.demonstration()[-1]["role"] == "assistant"
    assert len(server.requests) == asked == 1
    env.reset(seed=0)
    assert len(server.requests) == 2, "the next episode asks it again"
    env.reset(seed=0, options={"demonstration": True})
    assert len(server.requests) == 2


def test_an_endpoint_that_fails_raises_out_of_the_step(serve):
    server = serve("Hello.", (401, {}, b"no"))
    env = RetailEnv(user={"base_url": server.url, "model": "m"})
    env.reset(seed=0)
    with pytest.raises(EndpointError, match="status 401"):
        env.step("Yes?")


# ---- the model that the run serves ---------------------------------------------------------------------------------


def test_a_served_user_is_found_and_asked_with_the_runs_token(serve, monkeypatch):
    server = serve("Hello.", "Hello again.")
    env = RetailEnv(user="served")  # made before anything is served
    assert env.uses_user_model
    monkeypatch.setenv(URL_VARIABLE, server.url)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert env.reset(seed=0)[0][1]["content"] == "Hello."
    path, headers, body, _ = server.requests[0]
    assert (path, headers["Authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert body["model"] == MODEL_NAME
    env = RetailEnv(user={"base_url": "served", "temperature": 0.25, "max_tokens": 7, "attempts": 3})
    env.reset(seed=0)
    assert (server.requests[1][2]["temperature"], server.requests[1][2]["max_tokens"]) == (0.25, 7)
    assert env.endpoint.attempts == 3
    assert EndpointConfig.of("served").attempts == 20, "it may be starting again"
    assert EndpointConfig.of({"base_url": "http://a/v1", "model": "m"}).attempts == 5
    assert not RetailEnv().uses_user_model


def test_a_served_user_in_a_process_of_no_such_run_is_an_error_of_the_configuration(monkeypatch):
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    env = RetailEnv(user="served")
    with pytest.raises(ConfigError, match=r"user\.base_url needs a run that serves a model, got 'served'\. Give"):
        env.reset(seed=0)
    env.reset(seed=0, options={"demonstration": True})
    assert env.demonstration()[-1]["role"] == "assistant", "an expert needs nobody"


@pytest.mark.parametrize("name", ["model", "api_key_env"])
def test_what_the_run_settles_cannot_be_set_for_a_served_user(name):
    with pytest.raises(ConfigError, match=rf"user\.{name} must be left out where base_url is served, got 'x'"):
        RetailEnv(user={"base_url": "served", name: "x"})


def test_the_judge_of_the_documentation_asks_the_served_model(serve, monkeypatch):
    text = Path("docs/environments.md").read_text()
    program = text.partition("where the run serves none:\n\n```python\n")[2].partition("```")[0]
    space: dict = {}
    exec(compile(program, "docs/environments.md", "exec"), space)
    server = serve("Yes, it is.", "No.")
    monkeypatch.setenv(URL_VARIABLE, server.url)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    env = space["Poem"]()
    assert env.uses_user_model
    for reward in (1.0, 0.0):
        env.reset(seed=0)
        assert env.step("Roses are red.")[1:3] == (reward, True)
    assert "Roses are red." in server.requests[0][2]["messages"][0]["content"]
