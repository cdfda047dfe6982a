"""What a chat template makes of an environment's conversations: the checks of the rendering and of the loss mask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium

from configs.errors import ConfigError
from envs.checker import run_check
from envs.checkup import Finding
from envs.raised import Raised
from envs.records import quiet_hub
from policies.rendering import Renderer, load_renderer

_MOST_TURNS = 4


def renderer_of(model_dir: Path | None) -> Renderer:
    """Return the renderer of a checkpoint directory, or one with single bytes and a plain template.

    Raises:
        ConfigError: the checkpoint has no tokenizer that can be loaded.
    """
    if model_dir is not None:
        try:
            with quiet_hub():  # what the last try says is raised
                return load_renderer(model_dir)
        except ConfigError:
            raise
        except Exception as error:  # the library has many errors for it
            reason = " ".join(str(error).split())[:300]
            fix = "Give a Hugging Face checkpoint directory with its tokenizer."
            rule = f"must hold a tokenizer that can be loaded ({reason})"
            raise ConfigError("--model", rule, str(model_dir), fix) from error
    from policies.byte_tokenizer import byte_tokenizer

    return Renderer(byte_tokenizer())


@dataclass(slots=True)
class PlayedEpisode:
    """An episode as a rollout would record it."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    """All messages, up to the last turn of the assistant."""
    turns: list[str] = field(default_factory=list)
    """The assistant's texts as the environment gets them."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """JSON schemas."""
    token_ids: list[int] = field(default_factory=list)
    """[T]: the prompt, and by turn the sampled ids and those that the template added."""
    loss_mask: list[int] = field(default_factory=list)
    """[T]: 1 where the policy sampled."""

    def add(self, token_ids: list[int], sampled: int) -> None:
        """Append ids, sampled ones (1) or the environment's (0)."""
        self.token_ids += token_ids
        self.loss_mask += [sampled] * len(token_ids)


def rendering_findings(env: gymnasium.Env[Any, Any], renderer: Renderer) -> Iterator[Finding]:
    """Play one episode, an expert's where there is one, and check what the template and the mask make of it.

    Args:
        env: the environment; it is reset.
        renderer: of the model that is to be trained.

    Yields:
        The findings `rendering` and `mask`.
    """
    episodes: list[PlayedEpisode] = []
    notes: list[str] = []

    def checked(check: Callable[..., Iterator[str]]) -> tuple[tuple[str, ...], Raised | None]:
        problems, raised = run_check(lambda renderer: check(renderer, episodes, notes), renderer)
        return tuple(problems), raised

    def played(renderer: Renderer, episodes: list[PlayedEpisode], notes: list[str]) -> Iterator[str]:
        episodes.append(play(env, renderer))
        yield from _rendering(renderer, episodes[0], notes)

    problems, raised = checked(played)
    yield Finding("rendering", problems, " ".join(notes), raised)
    if not episodes:
        yield Finding("mask", skipped=True)
        return
    problems, raised = checked(lambda renderer, episodes, notes: _mask(renderer, episodes[0]))
    share = sum(episodes[0].loss_mask) / len(episodes[0].loss_mask)
    yield Finding("mask", problems, f"{share:.0%} of the episode's tokens are trained on.", raised)


def play(env: gymnasium.Env[Any, Any], renderer: Renderer) -> PlayedEpisode:
    """Play an episode as a rollout does, token ids in, token ids out."""
    observation, info = env.reset(seed=18)
    episode = PlayedEpisode([dict(message) for message in observation], tools=list(info.get("tools", [])))
    conversation = renderer.conversation(episode.messages, episode.tools or None)
    episode.add(conversation.prompt_token_ids, 0)
    texts = _texts(env, renderer)
    for number, text in enumerate(texts, start=1):
        written = conversation.turn_text({"role": "assistant", "content": text})  # some templates trim, or add thinking
        sampled = [*renderer.template.tokenize(written), renderer.end_of_turn_id]
        episode.add(sampled, 1)
        seen = renderer.parse(sampled)
        turn = {"role": "assistant", "content": seen}
        episode.turns.append(seen)
        episode.messages.append({"role": "assistant", "content": text})
        observation, _, terminated, truncated, _ = env.step(seen)
        if terminated or truncated or number == len(texts):
            break
        added = [dict(message) for message in observation]
        episode.add(conversation.extend(turn, added), 0)
        episode.messages += added
    return episode


def _texts(env: gymnasium.Env[Any, Any], renderer: Renderer) -> list[str]:
    """Return an expert's turns on the running task, or some of the model's own characters; the episode starts anew."""
    demonstrate = getattr(env.unwrapped, "demonstration", None)
    messages = demonstrate() if callable(demonstrate) else None
    env.reset(seed=18)
    if messages:
        return [message["content"] for message in messages if message["role"] == "assistant"]
    writable = renderer.parse(renderer.template.tokenize("one 1\n two 2 #3")) or "1"
    return [writable] * _MOST_TURNS


def _rendering(renderer: Renderer, episode: PlayedEpisode, notes: list[str]) -> Iterator[str]:
    """Every message must stand in the text that the model reads, in tokens that its vocabulary has."""
    rendered = renderer.tokenizer.backend_tokenizer.decode(episode.token_ids, skip_special_tokens=False)
    for number, message in enumerate(episode.messages, start=1):
        content = message["content"]
        written = renderer.parse(renderer.template.tokenize(renderer.template.mark(content)))
        if written != content:
            yield (
                f"the tokenizer cannot write the content of message {number} ({message['role']}): {_cut(content)} "
                f"becomes {_cut(written)}."
            )
            return
        if not any(text in rendered for text in (content.strip(), json.dumps(content, ensure_ascii=False)[1:-1])):
            yield f"the template leaves out the content of message {number} ({message['role']}): {_cut(content)}."
            return
    first = episode.loss_mask.index(1)
    notes.append(f"{first} tokens of prompt, {len(episode.token_ids)} in an episode of {len(episode.turns)} turns.")
    hidden = [tool["function"]["name"] for tool in episode.tools if tool["function"]["name"] not in rendered]
    if hidden:
        notes.append(f"The template does not show the model the tools {', '.join(hidden)}.")
    if not _stable(renderer, episode):
        notes.append("The template would now write earlier turns otherwise than they were sampled (docs/rendering.md).")


def _stable(renderer: Renderer, episode: PlayedEpisode) -> bool:
    """Whether the template makes of the whole conversation what was sampled and added piece by piece."""
    try:
        whole = renderer.render([renderer.template.mark(m) for m in episode.messages], episode.tools or None)
    except ConfigError:  # it takes the turns only with their calls taken apart
        return False
    return renderer.template.tokenize(whole)[: len(episode.token_ids)] == episode.token_ids


def _mask(renderer: Renderer, episode: PlayedEpisode) -> Iterator[str]:
    """The mask must cover the turns and their ends alone, and training data must give the ids of a rollout."""
    spans = "".join(map(str, episode.loss_mask)).replace("10", "1 0").replace("01", "0 1").split()
    start, sampled = 0, []
    for span in spans:
        if span[0] == "1":
            sampled.append(renderer.parse(episode.token_ids[start : start + len(span)]))
        start += len(span)
    if sampled != episode.turns:
        yield f"the tokens with mask 1 read {sampled!r}, the assistant's turns are {episode.turns!r}."
    token_ids, loss_mask = renderer.training_example(episode.messages, episode.tools or None)
    if (token_ids, loss_mask) != (episode.token_ids, episode.loss_mask):
        yield "the same conversation as training data has other token ids, or another mask, than as a rollout."


def _cut(text: str) -> str:
    """Show a text, cut short."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
