"""Serve the user model of a run, and tell its address and token to whoever runs environments."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.run import RunConfig
from envs.user_model import KEY_VARIABLE, MODEL_NAME, URL_VARIABLE
from orchestrator.members import InlineMember, RayMember, RayPending, gather
from orchestrator.placement import USER_MODEL

TOKEN_BYTES = 32


def serve_inline(config: RunConfig, run_dir: Path) -> InlineMember | None:
    """Start the server as a child of this process, whose environments then find it; None where there is none to be."""
    if config.user_model is None:
        return None
    from policies.model_server import ModelServer

    key = secrets.token_hex(TOKEN_BYTES)
    server = ModelServer(config.user_model, MODEL_NAME, key, log_of(run_dir))
    os.environ.update({URL_VARIABLE: server.url, KEY_VARIABLE: key})
    return InlineMember(USER_MODEL, server)


def close_inline(server: InlineMember) -> None:
    """End the server and forget its address."""
    server.target.close()  # type: ignore[attr-defined]
    for variable in (URL_VARIABLE, KEY_VARIABLE):
        os.environ.pop(variable, None)


def serve_on(
    actor: Any, group: Any, config: RunConfig, run_dir: Path, tell: Mapping[str, Any], timeout_s: float
) -> RayMember:
    """Start the server in an actor, and tell the other actors where it is going to answer.

    It listens on loopback where the whole run lies on one node, else at its node's address. The token travels in calls
    of actors, whose arguments Ray neither shows nor logs.

    Args:
        actor: a `UserModelActor`.
        group: the placement group of the run.
        config: of the run.
        run_dir: of the run.
        tell: the actors that run environments, by name.
        timeout_s: longest each of the two may take.

    Raises:
        MemberFailed: an actor failed or was late.
    """
    key = secrets.token_hex(TOKEN_BYTES)
    setup = actor.setup.remote(config.user_model, key, str(log_of(run_dir)), lies_on_one_node(group))
    variables = {URL_VARIABLE: RayPending(USER_MODEL, "setup", setup).result(timeout_s), KEY_VARIABLE: key}
    gather([RayPending(name, "export", told.export.remote(variables)) for name, told in tell.items()], timeout_s)
    return RayMember(USER_MODEL, actor)


def log_of(run_dir: Path) -> Path:
    """File with the server's output."""
    return run_dir / "logs" / f"{USER_MODEL}.log"


def lies_on_one_node(group: Any) -> bool:
    """Whether all bundles of a placement group lie on one node."""
    from ray.util import placement_group_table

    return len(set(placement_group_table(group)["bundles_to_node_id"].values())) == 1
