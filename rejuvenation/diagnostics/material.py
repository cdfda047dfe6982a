"""What every checkpoint of a ladder is measured on, the same for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from configs.diagnosis import ON_TEXT, DiagnosisConfig
from configs.errors import ConfigError
from rejuvenation.pairs import TokenPair, draw

Reward = Callable[[int, str], float]
"""`(index of the prompt, response text) -> reward`; above 0 the prompt counts as solved."""


@dataclass(frozen=True, slots=True)
class Material:
    """Calibration pairs, prompts to sample from, and what grades the samples."""

    pairs: list[TokenPair]
    """Drawn from those given; may be empty."""
    prompts: list[list[int]]
    """Token ids, drawn from those given; may be empty."""
    indices: list[int]
    """[prompts] place of each among those given, for the reward."""
    reward: Reward | None
    """Grades responses."""
    end_ids: list[int]
    """Tokens that end a response."""
    decode: Callable[[list[int]], str]
    """Makes text of a response's tokens."""

    @classmethod
    def of(
        cls,
        directory: Path,
        pairs: Sequence[TokenPair],
        prompts: Sequence[Sequence[int]] | None,
        reward: Reward | None,
        config: DiagnosisConfig,
    ) -> Material:
        """Draw what is used.

        Args:
            directory: the checkpoint whose tokenizer reads responses and says what ends them.
            pairs: calibration pairs.
            prompts: token ids; None takes those of the pairs.
            reward: grades responses.
            config: amounts and seed.
        """
        given = [pair.prompt_ids for pair in pairs] if prompts is None else [list(ids) for ids in prompts]

        def key(index: int) -> tuple[int, int]:
            return xxhash.xxh3_64_intdigest(str(given[index]).encode(), seed=config.seed), index

        chosen = sorted(range(len(given)), key=key)[: config.prompts]
        end_ids, decode = reader_of(directory) if given else ([], str)
        drawn = draw(pairs, config.calibration_pairs, config.seed)
        return cls(drawn, [given[index] for index in chosen], chosen, reward, end_ids, decode)

    def lacking(self, config: DiagnosisConfig) -> list[str]:
        """Notes on the diagnostics asked for that lack their data.

        Raises:
            ConfigError: none is left.
        """
        on_answers = None if self.prompts and self.reward else "prompts with answers (or a reward)"
        needs = {
            **dict.fromkeys(ON_TEXT, None if self.pairs else "calibration pairs"),
            "rollouts": None if self.prompts else "calibration pairs or prompts",
            "sharpness": None if self.prompts else "calibration pairs or prompts",
            "passes": on_answers,
            "gradient": on_answers or (None if len(self.prompts) > 1 else "two prompts, one for each half"),
        }
        missing = [(name, what) for name in config.only if (what := needs.get(name))]
        if len(missing) == len(config.only):
            rule = f"must name one that has its data: {missing[0][0]} needs {missing[0][1]}"
            raise ConfigError("diagnosis.only", rule, list(config.only), "Give --calibration or --prompts.")
        return [f"{name} is left out: it needs {what}" for name, what in missing]


def reader_of(directory: Path) -> tuple[list[int], Callable[[list[int]], str]]:
    """End tokens and decoder of a checkpoint; one without a tokenizer ends as its config says, and reads as numbers."""
    ends: set[int] = set()
    for file in ("config.json", "generation_config.json"):
        path = directory / file
        end = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        ends.update(end if isinstance(end, list) else [] if end is None else [end])
    if not (directory / "tokenizer_config.json").is_file():
        return sorted(ends), lambda ids: " ".join(map(str, ids))
    from transformers import AutoTokenizer

    from rejuvenation.turns import Turns

    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    end_of_turn = Turns(tokenizer, str(directory)).end_of_turn_id
    ends.update([] if end_of_turn is None else [end_of_turn])
    return sorted(ends), lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))
