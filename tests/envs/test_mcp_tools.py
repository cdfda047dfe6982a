import gc
import http.server
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import mcp_types
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from configs.errors import ConfigError
from envs import tool
from envs.mcp_tools import McpToolEnv
from envs.mcp_tools.connection import ServerGone
from envs.mcp_tools.results import as_text
from envs.mcp_tools.schemas import mismatch, offered, plain
from envs.tool_calls import FORMATS
from tests.ended import ended

SERVER = str(Path(__file__).parents[1] / "data" / "mcp_server.py")
STDIO = {"command": sys.executable, "args": [SERVER], "start_timeout_s": 120.0}


class Sums(McpToolEnv):
    """Asks for a sum, which the server's tool `add` gives; the answer earns 1."""

    def sample_task(self, rng):
        return {"a": int(rng.integers(1000)), "b": int(rng.integers(1000))}

    def first_messages(self, task):
        return f"What is {task['a']} + {task['b']}? Use the tool, then say the number."

    @tool
    def hint(self) -> str:
        """Return a hint."""
        return "It is a sum."

    def finish(self, text):
        return float(text == str(self.current_task["a"] + self.current_task["b"]))

    def expert_turns(self, task):
        return [self.write_call("add", {"a": task["a"], "b": task["b"]}), str(task["a"] + task["b"])]


def made(server=STDIO, **kwargs):
    return Sums(server=server, max_turns=100, **kwargs)


@pytest.fixture(scope="module")
def shared():
    """One environment whose server keeps its process."""
    env = made(STDIO | {"per_episode": False, "call_timeout_s": 60.0, "max_result_characters": 1000})
    yield env
    env.close()


def called(env, name, arguments=None, *, fresh=True):
    """Return the content of the tool's message, and whether it counted as an error."""
    if fresh:
        env.reset(seed=0)
    observation, _, _, _, info = env.step(env.write_call(name, arguments or {}))
    assert [message["role"] for message in observation] == ["tool"]
    return observation[0]["content"], bool(info["metrics"]["tool_errors"])


def runs(pid):
    """Whether a process runs; one that has ended may wait to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_server_s_tools_stand_beside_those_of_the_class(shared):
    _, info = shared.reset(seed=0)
    functions = {schema["function"]["name"]: schema["function"] for schema in info["tools"]}
    assert list(functions)[:4] == ["hint", "add", "far", "shout"]
    assert functions["add"]["description"] == "Add two numbers."
    assert functions["add"]["parameters"]["required"] == ["a", "b"]
    assert functions["add"]["parameters"]["properties"]["a"]["type"] == "integer"
    assert called(shared, "hint") == ("It is a sum.", False)


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("add", {"a": 2, "b": 40}, "42"),
        ("far", {"point": {"x": 1}}, "1,0 m None"),
        ("far", {"point": {"x": 1, "y": 2}, "unit": "km", "names": ["a"]}, "1,2 km ['a']"),
        ("shout", {"text": "hé"}, "HÉ"),
        ("big", {"characters": 3000}, "x" * 1000 + "\n[cut off: 3000 characters in all]"),
        ("chatter", {}, "said"),
    ],
)
def test_calls_are_executed_by_the_server(shared, name, arguments, answer):
    assert called(shared, name, arguments) == (answer, False)


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("add", {"a": 2}, "Error: 'b' is a required property"),
        ("add", {"a": "2", "b": 40}, "Error: argument 'a': '2' is not of type 'integer'"),
        ("far", {"point": {"x": "1"}}, "Error: argument 'point.x': '1' is not of type 'integer'"),
        ("far", {"point": {"x": 1}, "unit": "mile"}, "Error: argument 'unit': 'mile' is not one of ['m', 'km']"),
        ("shout", {"text": "x" * 21}, f"Error: argument 'text': {'x' * 21!r} is too long"),
        ("fail", {}, "Error: Error executing tool fail"),
        ("none", {}, "Error: unknown tool 'none' (available: hint, add, far, "),
    ],
)
def test_what_goes_wrong_goes_back_to_the_model_and_is_counted(shared, name, arguments, error):
    content, failed = called(shared, name, arguments)
    assert content.startswith(error)
    assert failed
    assert called(shared, "add", {"a": 1, "b": 1}, fresh=False) == ("2", False)


def test_a_call_that_takes_too_long_is_given_up():
    env = made(STDIO | {"call_timeout_s": 2.0})
    started = time.perf_counter()
    assert called(env, "slow", {"seconds": 30.0}) == ("Error: no answer of slow within 2 seconds", True)
    assert time.perf_counter() - started < 15
    env.close()


@pytest.mark.parametrize("form", ["qwen3_coder", "react"])
def test_arguments_that_came_as_text_get_the_types_of_the_server_s_schema(shared, form):
    text = FORMATS[form]("far", {"point": {"x": 3}, "names": None})
    env = made(STDIO | {"per_episode": False}, tool_parser=form)
    env.reset(seed=0)
    assert env.step(text)[0][0]["content"] == "3,0 m None"
    assert env.step(FORMATS[form]("add", {"a": 1, "b": 2}))[0][0]["content"] == "3"
    env.close()


def test_the_server_sees_no_variable_that_is_not_named(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "s3cret")
    monkeypatch.setenv("PASSED_ON", "yes")
    env = made(STDIO | {"env": ["PASSED_ON"]})
    names = called(env, "variables")[0].split("\n")
    env.close()
    assert "PASSED_ON" in names
    assert "SECRET_KEY" not in names
    assert "PYTHONPATH" not in names


def test_every_episode_gets_a_server_that_no_other_has_used():
    env = made()
    assert called(env, "count") == ("1", False)
    assert called(env, "count", fresh=False) == ("2", False)
    first = int(called(env, "process", fresh=False)[0])
    assert called(env, "count") == ("1", False)
    second = int(called(env, "process", fresh=False)[0])
    assert first != second
    assert not runs(first)
    env.close()
    env.close()
    assert not runs(second)
    assert called(env, "count") == ("1", False)  # closed only until it is needed again
    env.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [("die", r"ended during a call of die. It said: .*out of order"), ("flood", "ended during a call of flood")],
)
def test_a_server_that_ends_or_says_too_much_costs_its_own_episode(name, message):
    env = made(STDIO | {"max_message_bytes": 1 << 20})
    env.reset(seed=0)
    started = time.perf_counter()
    with pytest.raises(ServerGone, match=message):
        env.step(env.write_call(name, {}))
    assert time.perf_counter() - started < 15
    assert called(env, "add", {"a": 1, "b": 2}) == ("3", False)
    env.close()


def test_a_server_that_ended_between_two_episodes_is_started_anew():
    env = made(STDIO | {"per_episode": False})
    first = int(called(env, "process")[0])
    os.kill(first, 9)
    while runs(first):
        time.sleep(0.01)
    time.sleep(0.2)  # until the end of its output has been read
    assert called(env, "add", {"a": 1, "b": 2}) == ("3", False)
    env.close()


def test_a_copy_in_another_process_has_a_server_of_its_own(shared):
    called(shared, "count")
    copy = pickle.loads(pickle.dumps(shared))
    assert called(copy, "count") == ("1", False)
    assert called(copy, "process") != called(shared, "process")
    copy.close()


def test_the_server_of_an_environment_that_nobody_needs_any_more_ends():
    env = made(STDIO | {"per_episode": False})
    pid = int(called(env, "process")[0])
    del env
    gc.collect()
    for _ in range(500):
        if not runs(pid):
            return
        time.sleep(0.02)
    pytest.fail("the server still runs after 10 s")


def test_environments_in_many_threads():
    found = {}

    def play(number):
        env = made(STDIO | {"per_episode": False, "start_timeout_s": 120.0})
        found[number] = [called(env, "add", {"a": number, "b": one})[0] for one in range(20)]
        env.close()

    threads = [threading.Thread(target=play, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(150)
    assert found == {number: [str(number + one) for one in range(20)] for number in range(4)}


def test_no_server_outlives_the_process(tmp_path):
    code = (
        "import sys; from tests.envs.test_mcp_tools import made, called\n"
        "envs = [made(), made()]; print(*[called(env, 'process')[0] for env in envs])\n"
        "del envs[0]"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    pids = [int(word) for word in result.stdout.split()]
    assert len(pids) == 2
    assert not any(runs(pid) for pid in pids)


def test_closing_ends_a_server_that_stays_and_its_daemon():
    env = made()
    processes = [int(pid) for pid in called(env, "linger")[0].split()]
    env.close()
    assert len(processes) == 2
    assert ended(processes) == []


def test_a_server_that_stays_and_its_daemon_end_with_a_process_that_is_killed():
    code = (
        "import time; from tests.envs.test_mcp_tools import made, called\n"
        "print(*called(made(), 'linger')[0].split(), flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as program:
        processes = [int(pid) for pid in program.stdout.readline().split()]
        program.kill()
    assert len(processes) == 2
    assert ended(processes) == []


def test_both_checkers_are_clean(shared):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(envs.make(f"{__name__}:Sums", {"server": STDIO | {"per_episode": False}}).unwrapped)
    envs.check_environment(shared)


@pytest.mark.slow
def test_the_whole_checkup_is_clean():
    kwargs = {"server": STDIO | {"per_episode": False}}
    findings = list(envs.checkup(lambda: envs.make(f"{__name__}:Sums", kwargs)))
    assert [finding for finding in findings if finding.problems] == []


def test_the_example_of_the_documentation():
    blocks = re.findall(r"```python\n(.*?)```", Path("docs/environments.md").read_text(), re.DOTALL)
    namespace = {}
    exec(next(block for block in blocks if "McpToolEnv" in block), namespace)
    env = namespace["Sums"](server=STDIO | {"per_episode": False, "tools": ["add"]})
    env.reset(options={"task": {"a": 20, "b": 22}})
    assert env.step(env.write_call("add", {"a": 20, "b": 22}))[0][0]["content"] == "42"
    assert env.step("42")[1:3] == (1.0, True)
    envs.check_environment(env)
    env.close()


def test_a_server_that_does_not_start_is_named():
    with pytest.raises(ServerGone, match=r"does not start within start_timeout_s=60 s: .*It said: .*no_such_file"):
        made({"command": sys.executable, "args": ["no_such_file.py"], "start_timeout_s": 60})
    silent = {"command": sys.executable, "args": ["-c", "import time; time.sleep(60)"], "start_timeout_s": 1}
    started = time.perf_counter()
    with pytest.raises(ServerGone, match="within start_timeout_s=1 s: no answer in time"):
        made(silent)
    assert time.perf_counter() - started < 15


@pytest.fixture(scope="module")
def http_server():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([sys.executable, SERVER, "http", str(port)], stderr=subprocess.DEVNULL) as process:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp", process
        process.kill()


def test_a_server_over_http(http_server):
    url, process = http_server
    env = made({"url": url, "tools": ["add", "far", "process", "fail"], "start_timeout_s": 5})
    assert list(env._tools) == ["hint", "add", "far", "process", "fail"]
    assert called(env, "add", {"a": 2, "b": 40}) == ("42", False)
    assert called(env, "process") == (str(process.pid), False)
    assert called(env, "fail")[1]
    assert called(env, "count") == ("Error: unknown tool 'count' (available: hint, add, far, process, fail)", True)
    process.kill()
    process.wait(10)
    with pytest.raises(ServerGone, match=r"ended during a call of add|does not start"):
        called(env, "add", {"a": 2, "b": 40})
    env.close()


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers everything with a long JSON text, and keeps the headers."""

    seen: list = []  # noqa: RUF012

    def do_POST(self):
        self.seen.append(dict(self.headers))
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"x": "y" * 100_000}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_the_token_is_sent_and_a_long_answer_is_not_read(monkeypatch):
    monkeypatch.setenv("MCP_TOKEN", "t0ken")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/mcp"
    with pytest.raises(ServerGone) as error:
        made({"url": url, "token_env": "MCP_TOKEN", "max_message_bytes": 2000, "start_timeout_s": 5})
    server.shutdown()
    assert "longer than 2000 bytes" in str(error.value)
    assert "t0ken" not in str(error.value)
    sent = {name.lower(): value for name, value in Answers.seen[0].items()}
    assert sent["authorization"] == "Bearer t0ken"


def remote(name="t", schema=None, description="d"):
    return mcp_types.Tool(name=name, description=description, input_schema=schema or {"type": "object"})


def test_schemas_are_completed():
    schema = offered([remote(schema={"type": "object", "required": ["a"]}, description=None)])["t"]
    assert schema["function"] == {
        "name": "t",
        "description": "The tool t.",
        "parameters": {"type": "object", "properties": {"a": {}}, "required": ["a"]},
    }


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([remote("a b")], "a tool's name must be unique, of letters"),
        ([remote("a"), remote("a")], "a tool's name must be unique"),
        ([remote(schema={"type": "object", "properties": {"a": {"type": "text"}}})], "is no JSON schema: 'text'"),
        ([remote(schema={"type": "array"})], "must be of type object"),
        ([remote(schema={"type": "object", "title": "x" * 70_000})], "more than 65536 characters"),
    ],
)
def test_what_is_no_tool_is_refused(tools, message):
    with pytest.raises(ValueError, match=message):
        offered(tools)


MANY = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("many")
for number in range(130):
    server.add_tool(lambda: 1, name=f"t{number}")
server.run("stdio")
"""


def test_a_server_with_too_many_tools_is_refused():
    with pytest.raises(ServerGone, match="does not list its tools: it has more than 128 tools"):
        made({"command": sys.executable, "args": ["-c", MANY], "start_timeout_s": 60})


def test_references_to_other_documents_are_not_followed():
    schema = offered([remote(schema={"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}})])["t"]
    with pytest.raises(Exception, match="127"):
        mismatch(schema, {"a": 1})
    assert plain(schema)["function"]["parameters"]["properties"] == {"a": {}}


def test_the_types_of_parameters_in_the_forms_of_json_schemas():
    properties = {
        "a": {"type": ["string", "null"]},
        "b": {"$ref": "#/$defs/B"},
        "c": {"oneOf": [{"type": "integer"}, {"type": "boolean"}]},
        "d": {"type": "array", "items": {"type": "object"}},
        "e": True,
        "f": {"enum": ["x", 1]},
        "g": {"$ref": "#/$defs/G"},
    }
    definitions = {"B": {"type": "number", "minimum": 0}, "G": {"$ref": "#/$defs/G"}}
    schema = offered([remote(schema={"type": "object", "properties": properties, "$defs": definitions})])["t"]
    assert plain(schema)["function"]["parameters"]["properties"] == {
        "a": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "b": {"type": "number"},
        "c": {"anyOf": [{"type": "integer"}, {"type": "boolean"}]},
        "d": {"type": "array", "items": {}},
        "e": {},
        "f": {"enum": ["x", 1]},
        "g": {},
    }


def test_results_that_are_no_text_are_named():
    content = [
        mcp_types.TextContent(text="a"),
        mcp_types.ImageContent(data="AAAA", mime_type="image/png"),
        mcp_types.ResourceLink(name="n", uri="file:///x"),
        mcp_types.EmbeddedResource(resource=mcp_types.TextResourceContents(uri="file:///y", text="b")),
        mcp_types.EmbeddedResource(resource=mcp_types.BlobResourceContents(uri="file:///z", blob="AAAA")),
    ]
    text = "a\n[image]\n[resource file:///x]\nb\n[resource file:///z]"
    assert as_text(mcp_types.CallToolResult(content=content), 1000) == text
    assert as_text(mcp_types.CallToolResult(content=[], structured_content={"n": [1]}), 1000) == '{"n": [1]}'
    assert as_text(mcp_types.CallToolResult(content=[]), 1000) == "The tool returned nothing."


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({}, r"kwargs\.server must have either a command or a url"),
        ({"command": "python", "url": "http://127.0.0.1:1"}, "must have either a command or a url"),
        ("python", r"kwargs\.server must hold the settings of an MCP server, got 'python'"),
        ({"comand": "python"}, r"server\.comand is no setting of an MCP server.* Did you mean 'command'\?"),
        ({"command": "no-such-program"}, r"server\.command must be a program that can be found"),
        ({"command": "python3", "cwd": "/no/such"}, r"server\.cwd must be a folder"),
        ({"command": "python3", "args": "x"}, r"server\.args must be a list of texts, got 'x'"),
        ({"command": "python3", "env": ["NO_SUCH_VARIABLE"]}, r"server\.env must name environment variables that are"),
        ({"command": "python3", "token_env": "HOME"}, r"server\.token_env is for a server with a url"),
        ({"command": "python3", "call_timeout_s": True}, r"server\.call_timeout_s must be a number, got True"),
        ({"command": "python3", "call_timeout_s": 0}, r"server\.call_timeout_s must lie in \[0\.1, 3600\]"),
        ({"command": "python3", "per_episode": 1}, r"server\.per_episode must be true or false, got 1"),
        ({"command": "python3", "max_message_bytes": 2.5}, r"max_message_bytes must be a whole number, got 2\.5"),
        ({"command": 3}, r"server\.command must be text, got 3"),
        ({"url": "http://user:pw@127.0.0.1/mcp"}, r"without credentials, got '127\.0\.0\.1/mcp'"),
        ({"url": "file:///x"}, r"server\.url must be an http or https address"),
        ({"url": "http://127.0.0.1:1/", "token_env": "NO_SUCH_VARIABLE"}, r"server\.token_env must name environment"),
        (STDIO | {"tools": ["sub"]}, r"server\.tools must name tools of the server, got \['sub'\].* It has: add, far"),
    ],
)
def test_wrong_settings_are_explained(server, message):
    with pytest.raises(ConfigError, match=message):
        made(server)


def test_a_tool_of_the_class_with_a_name_of_the_server_s_is_refused():
    class Doubled(Sums):
        @tool
        def add(self, a: int) -> int:
            """Add."""
            return a

    with pytest.raises(ConfigError, match=r"server\.tools must leave out tools that the class has, got \['add'\]"):
        Doubled(server=STDIO)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "envs.mcp_tools.connection", None)
    with pytest.raises(ConfigError, match=r"kwargs\.server needs the package mcp .* extra `mcp`"):
        made()
