from __future__ import annotations

import json

import pytest

from configs.auto import AutoConfig
from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation.choice import Choice, Outcome, choose
from rejuvenation.choice_table import WIDTH, lines

Table = dict[tuple[float, float], list[int]]


def config(**settings: object) -> RejuvenationConfig:
    auto = AutoConfig(alphas=[0.7, 0.5, 0.3], rhos=[0.01], prompts=4, samples=2, k=2)
    return RejuvenationConfig(**{"alpha": "auto", "rho": "auto", "auto": auto, **settings})  # type: ignore[arg-type]


def chosen(
    table: Table,
    settings: RejuvenationConfig | None = None,
    ratio: float = 0.1,
    entropy: dict[tuple[float, float], float] | None = None,
) -> Choice:
    """The choice where each candidate solves so many rollouts of each prompt; entropy is half a nat if not given."""
    asked: list[tuple[float, float]] = []

    def measure(alpha: float, rho: float) -> Outcome:
        asked.append((alpha, rho))
        return Outcome(ratio if rho else 0.0, (entropy or {}).get((alpha, rho), 0.5), table[alpha, rho])

    found = choose(settings or config(), measure, judged_by="a table")
    assert len(asked) == len(set(asked)), "each candidate is measured once"
    assert [(trial.alpha, trial.rho) for trial in found.trials] == asked
    return found


CLEAR: Table = {
    (1.0, 0.0): [0, 0, 0, 0],
    (0.7, 0.0): [1, 0, 0, 0],
    (0.5, 0.0): [1, 1, 1, 1],
    (0.3, 0.0): [0, 0, 0, 0],
    (0.5, 0.01): [2, 0, 0, 0],
}


def test_candidate_that_is_clearly_best_is_taken() -> None:
    found = chosen(CLEAR)
    assert (found.alpha, found.rho) == (0.5, 0.0)
    assert [trial.pass_at_k for trial in found.trials] == [0.0, 0.25, 1.0, 0.0, 0.25]
    assert [trial.behind for trial in found.trials] == [1.0, 0.75, 0.0, 1.0, 0.75]
    assert [trial.good_enough for trial in found.trials] == [False, False, True, False, False]
    assert found.trials[2].pass_at_1 == 0.5
    assert found.trials[2].signal_share == 1.0
    assert found.trials[4].signal_share == 0.0, "both samples of its one prompt are right"
    assert "pass@2 1.000 on 4 prompts, the best" in found.sentence
    assert "the SFT checkpoint as it is has 0.000" in found.sentence


def test_checkpoint_within_one_standard_error_of_the_best_needs_no_repair() -> None:
    table = {**CLEAR, (1.0, 0.0): [1, 1, 1, 0], (1.0, 0.01): [0] * 4}
    found = chosen(table)
    first = found.trials[0]
    # gaps 0, 0, 0, 1: mean 1/4, standard deviation 1/2, of four: 1/4
    assert (first.behind, first.behind_error) == (0.25, 0.25)
    assert first.good_enough
    assert found.needs_no_repair
    assert found.sentence.endswith("pass@2 0.750 on 4 prompts, near the best (alpha 0.5, rho 0: 1.000)")
    stricter = AutoConfig(alphas=[0.7, 0.5, 0.3], rhos=[0.01], samples=2, k=2, standard_errors=0.9)
    assert chosen(table, config(auto=stricter)).alpha == 0.5


def test_noise_makes_no_repair_good_enough_however_much_entropy_it_gives() -> None:
    table: Table = {(0.5, 0.0): [1] + [0] * 127, (0.5, 0.01): [0] * 128}
    found = chosen(table, config(alpha=0.5), entropy={(0.5, 0.0): 0.1, (0.5, 0.01): 6.0})
    assert found.rho == 0.0, "what solves nothing is not taken, although it is within one standard error of the best"
    nothing = [0] * 128
    table = dict.fromkeys(CLEAR, nothing) | {(0.5, 0.0): [1, *nothing[1:]]}
    assert chosen(table).alpha == 0.5, "nor is a checkpoint that solves nothing said to need no repair"


def test_candidates_within_the_tolerance_are_near_the_best() -> None:
    table: Table = {key: [1] * 10 for key in [*CLEAR, (0.7, 0.01), (0.3, 0.01)]} | {
        (1.0, 0.0): [0] * 10,
        (0.3, 0.0): [1] * 9 + [0],
    }
    more = {(0.3, 0.0): 0.6}
    settings = {"alphas": [0.7, 0.5, 0.3], "rhos": [0.01], "samples": 2, "k": 2}
    assert chosen(table, config(auto=AutoConfig(**settings)), entropy=more).alpha == 0.3
    assert chosen(table, config(auto=AutoConfig(**settings, tolerance=0.09)), entropy=more).alpha == 0.7


def test_of_candidates_near_the_best_the_one_with_the_most_entropy_is_taken() -> None:
    table = {**CLEAR, (0.7, 0.0): [1] * 4, (0.5, 0.01): [1] * 4}
    entropy = {(1.0, 0.0): 0.9, (0.7, 0.0): 0.2, (0.5, 0.0): 0.3, (0.3, 0.0): 0.8, (0.5, 0.01): 0.4}
    found = chosen(table, entropy=entropy)
    assert (found.alpha, found.rho) == (0.5, 0.01)
    assert "entropy 0.400 nats, the most of those near the best" in found.sentence
    assert "the SFT checkpoint as it is has 0.000 and 0.900 nats" in found.sentence
    assert (chosen(table, entropy={**entropy, (0.5, 0.01): 0.1}).rho) == 0.0


def test_checkpoint_near_the_best_needs_no_repair_however_much_entropy_one_would_give() -> None:
    table: Table = {key: [1] * 4 for key in [*CLEAR, (1.0, 0.01)]}
    found = chosen(table, entropy={(1.0, 0.0): 0.1})
    assert found.needs_no_repair
    assert found.sentence == "no repair needed (alpha 1, rho 0): pass@2 1.000 on 4 prompts, the best"


def test_reset_is_taken_where_it_solves_more() -> None:
    table = {**CLEAR, (0.7, 0.0): [0] * 4, (0.5, 0.0): [1, 1, 0, 0], (0.5, 0.01): [1, 1, 1, 1]}
    found = chosen(table, ratio=0.2)
    assert (found.alpha, found.rho) == (0.5, 0.01)
    assert found.trials[-1].taken_back == pytest.approx(1 - 0.5 * 0.8)


@pytest.mark.parametrize("solved", [[2, 2, 2, 2], [1, 1, 1, 1], [2, 1, 0, 1]])
def test_checkpoint_that_no_candidate_beats_needs_no_repair(solved: list[int]) -> None:
    table = {key: [0, 1, 0, 0] for key in CLEAR} | {(1.0, 0.0): solved, (1.0, 0.01): solved}
    found = chosen(table)
    assert found.needs_no_repair
    assert found.sentence.startswith("no repair needed (alpha 1, rho 0)")


def test_task_that_no_candidate_solves_says_so_and_repairs_nothing() -> None:
    table = {key: [0, 0, 0, 0] for key in [*CLEAR, (1.0, 0.01)]}
    found = chosen(table)
    assert found.needs_no_repair
    assert "no candidate solved any prompt" in found.sentence


def test_alpha_alone_is_chosen_at_the_rho_given() -> None:
    table: Table = {(1.0, 0.0): [0] * 4, (0.7, 0.02): [1] * 4, (0.5, 0.02): [0] * 4, (0.3, 0.02): [0] * 4}
    found = chosen(table, config(rho=0.02))
    assert (found.alpha, found.rho) == (0.7, 0.02)
    kept = chosen({**table, (1.0, 0.0): [1] * 4}, config(rho=0.02))
    assert kept.needs_no_repair, "the checkpoint as it is competes without the reset"


def test_rho_alone_is_chosen_at_the_alpha_given() -> None:
    assert chosen({(0.6, 0.0): [0] * 4, (0.6, 0.01): [1] * 4}, config(alpha=0.6)).rho == 0.01
    none = chosen({(0.6, 0.0): [1] * 4, (0.6, 0.01): [1] * 4}, config(alpha=0.6))
    assert (none.alpha, none.rho, none.needs_no_repair) == (0.6, 0.0, False)


def test_fusion_alone_tries_alphas_alone() -> None:
    found = chosen({key: CLEAR[key] for key in CLEAR if not key[1]}, config(steps=["fusion.linear"], rho=0.01))
    assert (found.alpha, found.rho, len(found.trials)) == (0.5, 0.0, 4)


def by_entropy(entropy: dict[float, float]) -> Choice:
    settings = config(rho=0.0)
    return choose(settings, lambda alpha, rho: Outcome(0.0, entropy[alpha]), judged_by="pairs", base_entropy=0.4)


def test_without_rewards_the_least_repair_that_gives_back_half_of_the_entropy_is_taken() -> None:
    found = by_entropy({1.0: 0.05, 0.7: 0.1, 0.5: 0.2, 0.3: 0.39})
    assert found.alpha == 0.5
    assert found.trials[0].pass_at_k is None
    assert "entropy 0.200 nats on calibration responses, base 0.400" in found.sentence
    assert by_entropy({1.0: 0.05, 0.7: 0.07, 0.5: 0.1, 0.3: 0.15}).alpha == 0.3, "none gives back as much: the most"
    assert by_entropy({1.0: 0.21, 0.7: 0.25, 0.5: 0.3, 0.3: 0.35}).needs_no_repair


def test_rollouts_that_failed_are_said() -> None:
    settings = config(rho=0.0)
    found = choose(settings, lambda alpha, rho: Outcome(0.0, 0.1, [1, 1], failed=2), judged_by="an environment")
    assert found.sentence.endswith("(8 rollouts failed in the environment and count as unsolved)")


def test_choice_survives_json() -> None:
    found = chosen(CLEAR)
    assert Choice.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_table_fits_a_terminal_and_marks_what_was_taken() -> None:
    table = {**CLEAR, (0.7, 0.0): [1] * 4, (0.7, 0.01): [0] * 4}
    shown = lines(chosen(table))
    assert max(map(len, shown)) <= WIDTH
    cells = [line.split() for line in shown]
    assert [row[:3] for row in cells if row[0] in (">", "+") and len(row) == 10] == [
        [">", "0.7", "0"],
        ["+", "0.5", "0"],
    ]
    assert any(line.startswith("rule: of the candidates whose pass@2 is") for line in shown)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": "automatic"}, "rejuvenation.alpha must be auto or a number in [0.0, 1.0], got 'automatic'"),
        ({"alpha": 1.5}, "rejuvenation.alpha must be auto or a number in [0.0, 1.0], got 1.5"),
        ({"rho": True}, "rejuvenation.rho must be auto or a number"),
        ({"alpha": "auto", "steps": ["fusion.norm_clip"]}, "can be auto only where all fusions are linear or slerp"),
        ({"alpha": "auto", "steps": ["reset.drift"]}, "can be auto only where all fusions are"),
        ({"rho": "auto", "steps": ["fusion.linear"]}, "rejuvenation.rho can be auto only where a step resets neurons"),
        ({"auto": AutoConfig, "alphas": [2.0]}, "rejuvenation.auto.alphas must lie in [0.0, 1.0], got 2.0"),
        ({"auto": AutoConfig, "k": 9}, "rejuvenation.auto.k must lie in [1, 8], got 9"),
    ],
)
def test_mistakes_are_named(settings: dict, words: str) -> None:
    auto = settings.pop("auto", None)
    with pytest.raises(ConfigError) as caught:
        auto(**settings) if auto else RejuvenationConfig(**settings)
    assert words in str(caught.value)


def test_numbers_stay_numbers_however_they_are_written() -> None:
    found = RejuvenationConfig(alpha="0.4", rho=0)
    assert (found.alpha, found.rho, found.is_auto) == (0.4, 0.0, False)
    assert type(found.rho) is float
