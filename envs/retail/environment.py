"""The retail service desk as an environment: a policy, 16 tools over a database, and a simulated user.

```
system     the policy
user       Your name is Ada Falk and your zip code is 70012. You want to cancel order #W4418025 ...
assistant  <tool_call> find_user_id_by_name_zip ... </tool_call>
tool       ada_falk_3391
           ... look-ups ...
assistant  I would cancel order #W4418025 ... Do you confirm (yes or no)?
user       Yes, please go ahead.
assistant  <tool_call> cancel_pending_order ... </tool_call>
tool       {"order_id": "#W4418025", ..., "status": "cancelled", ...}
assistant  Order #W4418025 is cancelled.            the user leaves, and the episode is graded
```
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs.errors import ConfigError
from envs.conversation import KWARGS, Reply
from envs.retail.database import Database
from envs.retail.dataset import Task, check_task, read_dataset, read_tasks
from envs.retail.endpoint import EndpointConfig, read_key
from envs.retail.expert import expert_turns
from envs.retail.generated import generated_dataset
from envs.retail.generated_tasks import sample_task
from envs.retail.reward import grade
from envs.retail.tools import TRANSFER, TRANSFERRED, RetailTools
from envs.retail.users import STOP, EndpointUser, ScriptedUser, User, lines_of
from envs.spaces import Message, as_messages
from envs.tool_env import ToolEnv


class RetailEnv(RetailTools, ToolEnv):
    """`rejuvenate/Retail-v0`: the reward is for the right final database and for what the user had to be told.

    A turn with a tool call goes to the database, every other turn to the user. The episode ends when the user leaves or
    is handed to a human agent. The metrics of the last step hold `success`, `database_equal` and `outputs_said`.

    Args:
        path: folder with tau-bench's retail data (docs/environments.md); None: a small generated shop.
        tasks_file: file in that folder with the tasks; None: `tasks_train.json` for the split `train`, `tasks_dev.json`
            for `heldout`.
        user: an endpoint at which a model plays the user, the settings of `endpoint.EndpointConfig`; `served`: the
            model that the run serves; None: a scripted user, who states the whole instruction, confirms once where the
            task changes anything, then leaves.
        max_turns: assistant turns before truncation, tool calls included.
        max_calls_per_turn: calls executed in one turn; the policy wants one.
        correct_reward: reward of a solved episode.
        wrong_reward: reward of any other that came to its end.
        **kwargs: `split`, `seed`, `tool_parser`, ... of `ToolEnv`.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        tasks_file: str | None = None,
        user: Mapping[str, Any] | str | None = None,
        max_turns: int = 40,
        max_calls_per_turn: int = 1,
        correct_reward: float = 1.0,
        wrong_reward: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_turns=max_turns, max_calls_per_turn=max_calls_per_turn, **kwargs)
        self.endpoint = None if user is None else EndpointConfig.of(user)
        self.uses_user_model = self.endpoint is not None and self.endpoint.is_served
        if self.endpoint is not None and self.endpoint.api_key_env is not None and not self.uses_user_model:
            read_key(self.endpoint.api_key_env)  # a missing key is to be found before anything starts
        if tasks_file is not None and path is None:
            fix = "Give the folder that holds the file as environment.kwargs.path."
            raise ConfigError(KWARGS + "tasks_file", "needs path", tasks_file, fix)
        self.dataset = generated_dataset() if path is None else read_dataset(path)
        self.tasks: tuple[Task, ...] | None = None
        if path is not None:
            self.tasks = read_tasks(path, self.split, tasks_file)
            self.num_tasks = len(self.tasks)
        self.max_reward = correct_reward
        self.wrong_reward = wrong_reward
        self._tools_json = self.dataset.tools_json
        self.database = Database(self.dataset.template)
        self.user: User = ScriptedUser([])
        self.said: list[str] = []

    def make_user(self, task: Task) -> User:
        """Return the user of an episode; override it for one of another kind."""
        if self.endpoint is None or self.demonstrating:
            return ScriptedUser(lines_of(task["instruction"], task["actions"]))
        return EndpointUser(self.endpoint, task["instruction"])

    def task(self, index: int) -> Task:
        """Return task `index` of the file, or of the generated ones."""
        if self.tasks is None:
            return super().task(index)
        if not 0 <= index < len(self.tasks):
            raise ValueError(f"task index must lie in [0, {len(self.tasks)}), got {index}.")
        return copy.deepcopy(self.tasks[index])  # environments of a process share the tasks

    def sample_task(self, rng: np.random.Generator) -> Task:
        """Draw a task of the generated shop."""
        return sample_task(rng)

    def begin(self, task: Task) -> None:
        """Restore the database and call a new user in."""
        check_task(task)
        self.database.close()
        self.database = Database(self.dataset.template)
        self.user = self.make_user(task)
        self.said = []

    def first_messages(self, task: Task) -> Sequence[Message]:
        """Return the policy and what the user says first."""
        opening = self.user.open().partition(STOP)[0].strip()
        if not opening:
            raise RuntimeError("the user left without a word.")
        return [{"role": "system", "content": self.dataset.policy}, {"role": "user", "content": opening}]

    def respond(self, text: str) -> Reply:
        """Execute the turn's calls or give it to the user; grade the episode where it ends here."""
        reply = super().respond(text)
        reply.metrics |= self.user.take_figures()
        answers = [(message.get("name"), message["content"]) for message in as_messages(reply.messages)]
        reply.terminated |= (TRANSFER, TRANSFERRED) in answers
        if reply.terminated and reply.status is None:  # not after too many errors
            actions, outputs = self.current_task["actions"], self.current_task["outputs"]
            result = grade(self.database, self.said, self.dataset.template, actions, outputs)
            reply.reward = self.max_reward if result.solved else self.wrong_reward
            reply.metrics |= {
                "success": float(result.solved),
                "database_equal": float(result.database_equal),
                "outputs_said": float(result.outputs_said),
            }
        return reply

    def answer(self, text: str) -> Reply:
        """Give a turn without a call to the user."""
        self.said.append(text)
        answer, stop, _ = self.user.reply(text).partition(STOP)
        return Reply(answer.strip() or (), terminated=bool(stop))

    def expert_turns(self, task: Task) -> list[str]:
        """Return the reference actions with the look-ups and messages that the policy asks for."""
        return expert_turns(self.dataset.template, task, self.write_call)

    def close(self) -> None:
        """Free the database."""
        self.database.close()
