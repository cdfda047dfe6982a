import threading

import pytest

from envs import conversation
from envs.retail.environment import RetailEnv
from orchestrator.episode import Episode, EpisodeJob, Sampling, SharedByGroup
from policies.engine import Generation
from policies.rendering import Renderer
from policies.trajectory import STATUSES
from tests.orchestrator.fakes import END, ChainEnv, FakeRenderer
from tests.pico import make_tokenizer


def make(env, max_model_len=100, max_tokens=8, shared=None):
    job = EpisodeJob(group=2, sample=1, task_index=5, seed=9)
    return Episode(
        job, lambda: env, FakeRenderer(), Sampling(1.0, max_tokens), max_model_len, shared or SharedByGroup()
    )


def answer(request, text, reason="stop", version=3):
    ids = [*map(ord, text), *([END] if reason == "stop" else [])]
    logprobs = [-(i + 1) / 10 for i in range(len(ids))]
    return Generation(request.request_id, list(request.prompt_token_ids), ids, logprobs, reason, version)


def ids(text):
    return [END if c == "." else ord(c) for c in text]


def test_two_turns_make_one_sequence_with_mask_logprobs_and_versions():
    episode = make(ChainEnv(turns=2))
    first = episode.begin()
    assert (first.request_id, first.prompt_token_ids, first.max_tokens) == ("2-1-0", ids("q5>"), 8)
    episode.accept(answer(first, "ab", version=3))
    second = episode.advance()
    assert second.prompt_token_ids == ids("q5>ab.+>"), "the sampled end of turn is not added again"
    assert second.request_id == "2-1-1"
    assert second.seed != first.seed
    episode.accept(answer(second, "c", version=4))
    assert episode.advance() is None
    t = episode.trajectory
    assert t.token_ids == ids("q5>ab.+>c.")
    assert t.loss_mask == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert t.policy_versions == [-1, -1, -1, 3, 3, 3, -1, -1, 4, 4]
    assert t.rollout_logprobs == [0.0, 0.0, 0.0, -0.1, -0.2, -0.3, 0.0, 0.0, -0.1, -0.2]
    assert (t.reward, t.status, t.metrics, t.task) == (1.0, "finished", {"calls": 2.0}, {"n": 5})
    assert [m["content"] for m in t.messages] == ["q5", "ab", "+", "c"]
    assert t.seconds > 0


def test_turn_cut_by_length_is_graded_and_ends_the_episode_as_truncated():
    episode = make(ChainEnv(turns=1))
    episode.accept(answer(episode.begin(), "abc", reason="length"))
    assert episode.advance() is None
    assert (episode.trajectory.status, episode.trajectory.reward) == ("truncated", 1.0)
    assert episode.trajectory.loss_mask == [0, 0, 0, 1, 1, 1]


def test_turn_without_a_sampled_end_gets_it_from_the_template_with_mask_0():
    episode = make(ChainEnv(turns=2))
    request = episode.begin()
    episode.accept(Generation(request.request_id, request.prompt_token_ids, ids("a!"), [-1.0, -1.0], "stop", 0))
    follow = episode.advance()  # "!" stands for another stop token
    assert follow.prompt_token_ids == ids("q5>a!.+>")
    assert episode.trajectory.loss_mask == [0, 0, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(("length", "max_tokens"), [(4, 1), (5, 2), (50, 8)])
def test_a_turn_never_asks_for_more_than_the_room_left(length, max_tokens):
    assert make(ChainEnv(), max_model_len=length).begin().max_tokens == max_tokens


def test_prompt_that_leaves_no_room_is_truncated_without_a_turn():
    episode = make(ChainEnv(), max_model_len=3)
    assert episode.begin() is None
    assert (episode.trajectory.status, episode.trajectory.turns) == ("truncated", [])


def test_extension_that_leaves_no_room_truncates():
    episode = make(ChainEnv(turns=2), max_model_len=8)  # 3 + "ab." + "+>" = 8
    episode.accept(answer(episode.begin(), "ab"))
    assert episode.advance() is None
    assert episode.trajectory.status == "truncated"
    assert len(episode.trajectory.token_ids) == 8


class ToolErrorEnv(ChainEnv):
    def step(self, text):
        observation, reward, _, _, info = super().step(text)
        return observation, reward, True, False, info | {"status": "tool_error"}


def test_environment_names_its_own_status():
    episode = make(ToolErrorEnv())
    episode.accept(answer(episode.begin(), "a"))
    episode.advance()
    assert episode.trajectory.status == "tool_error"


class OwnStatusEnv(ChainEnv):
    def step(self, text):
        observation, reward, _, _, info = super().step(text)
        return observation, reward, True, False, info | {"status": "great"}


def test_environments_and_trajectories_know_the_same_statuses():
    assert conversation.STATUSES == STATUSES


def test_a_status_that_is_none_of_the_five_is_an_error_of_the_environment():
    episode = make(OwnStatusEnv())
    episode.accept(answer(episode.begin(), "a"))
    with pytest.raises(ValueError, match=r"must be one of finished, truncated, tool_error, .*, got 'great'"):
        episode.advance()


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_reward_that_is_not_finite_is_an_error_of_the_environment(reward):
    episode = make(ChainEnv(reward=reward))
    episode.accept(answer(episode.begin(), "a"))
    with pytest.raises(ValueError, match="reward must be finite"):
        episode.advance()
    assert episode.trajectory.reward == 0.0


def test_failed_episode_keeps_status_error_and_the_reward_so_far():
    episode = make(ChainEnv(turns=2))
    episode.accept(answer(episode.begin(), "a"))
    episode.advance()
    episode.fail("environment_error", "KeyError: 'x'")
    assert episode.trajectory.status == "environment_error"
    assert episode.trajectory.error == "KeyError: 'x'"
    assert len(episode.trajectory.loss_mask) == len(episode.trajectory.token_ids)


class WaitingEnv(ChainEnv):
    def __init__(self):
        super().__init__(turns=1)
        self.go = threading.Event()

    def step(self, text):
        self.go.wait(10)
        return super().step(text)


def test_environment_that_answers_after_the_episode_failed_changes_nothing():
    env = WaitingEnv()
    episode = make(env)
    episode.accept(answer(episode.begin(), "a"))
    thread = threading.Thread(target=episode.advance)
    thread.start()
    episode.fail("timed_out", "late")
    before = episode.trajectory.to_json()
    env.go.set()
    thread.join(10)
    assert episode.trajectory.to_json() == before
    assert (before["status"], before["reward"]) == ("timed_out", 0.0)


def test_environment_that_is_made_after_the_episode_failed_is_closed():
    env = ChainEnv()
    episode = make(env)
    episode.fail("timed_out", "late")
    assert episode.begin() is None
    assert env.closed
    assert episode.env is None
    assert episode.trajectory.status == "timed_out"


def test_turn_sampled_from_another_prompt_is_refused():
    episode = make(ChainEnv())
    request = episode.begin()
    request.prompt_token_ids[0] += 1
    with pytest.raises(AssertionError, match="another prompt"):
        episode.accept(answer(request, "a"))


def test_siblings_share_task_and_rendered_prompt():
    shared, made = SharedByGroup(), []
    assert [shared.task(4, lambda i: made.append(i) or {"n": i}) for _ in range(3)] == [{"n": 4}] * 3
    assert made == [4]
    shared.task(4, made.append)["n"] = 5
    assert shared.task(4, made.append) == {"n": 4}, "what one sibling does to its task the others do not see"
    renderer = FakeRenderer()
    for text in ("x", "x", "y"):
        shared.opening(renderer, [{"role": "user", "content": text}], [])
    assert renderer.prompts == 2


def test_sampling_seed_depends_on_the_job_and_the_turn_only():
    assert make(ChainEnv(turns=2)).begin().seed == make(ChainEnv(turns=3)).begin().seed


def test_an_episode_with_tools_and_a_user_has_the_tokens_of_its_demonstration():
    env, renderer, sampling = RetailEnv(), Renderer(make_tokenizer()), Sampling(1.0, 10_000)
    episode = Episode(EpisodeJob(0, 0, 1, 9), lambda: env, renderer, sampling, 10**6, SharedByGroup())
    request = episode.begin()
    _, info = env.reset(options={"index": 1})
    token_ids, loss_mask = renderer.training_example(env.demonstration(), info["tools"])
    env.reset(options={"index": 1})
    for text in env.expert_turns(env.current_task):
        ids = [*renderer.tokenizer.encode(text), renderer.end_of_turn_id]
        logprobs = [-1.0] * len(ids)
        episode.accept(Generation(request.request_id, request.prompt_token_ids, ids, logprobs, "stop", 0))
        request = episode.advance()
    trajectory = episode.trajectory
    assert (trajectory.reward, trajectory.status, trajectory.metrics["success"]) == (1.0, "finished", 1.0)
    assert (trajectory.token_ids, trajectory.loss_mask) == (token_ids, loss_mask)
    assert {message["role"] for message in trajectory.messages} == {"system", "user", "assistant", "tool"}
