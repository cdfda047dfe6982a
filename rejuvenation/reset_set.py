"""The neurons to reset (arXiv 2606.09932, Eq. 4), by any criterion."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from configs.rejuvenation import PER_TARGET, RejuvenationConfig
from rejuvenation.alignment import Alignment
from rejuvenation.criteria import SCORED, Attribution, Criterion
from rejuvenation.criteria.weights import neuron_drift, random_neurons
from rejuvenation.memory import attribution_bytes
from rejuvenation.neurons import NeuronTable
from rejuvenation.pairs import TokenPair
from rejuvenation.scored_model import map_deterministically
from rejuvenation.scoring import NeuronScorer, Scores
from rejuvenation.selection import scopes, top_neurons, top_of, union
from rejuvenation.spread import device_of, is_spread

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def reset_set(
    config: RejuvenationConfig, table: NeuronTable, alignment: Alignment, evidence: Evidence | None, seed: int
) -> tuple[torch.Tensor, float | None]:
    """Choose the neurons to reset at `config.rho`; see `reset_sets`.

    Returns:
        [neurons] bool, and the largest reconstruction error |z~ - z| over all target tokens (None without evidence).
    """
    (selected,), error = reset_sets(config, table, alignment, evidence, seed, [config.rho])
    logger.info("reset set: %d of %d neurons", int(selected.sum()), table.total)
    return selected, error


def reset_sets(
    config: RejuvenationConfig,
    table: NeuronTable,
    alignment: Alignment,
    evidence: Evidence | None,
    seed: int,
    rhos: Sequence[float],
) -> tuple[list[torch.Tensor], float | None]:
    """Choose the neurons to reset for several rhos, from one scoring: scores depend on no rho.

    Each pair is scored by itself, so a set depends neither on the order of pairs nor on threads, and without a cap
    it only grows with rho and with pairs.

    Args:
        config: the criterion, and how neurons are ranked.
        table: the neurons.
        alignment: the two checkpoints.
        evidence: what neurons are scored on; None where `config.needs_pairs` is false.
        seed: of the random criterion.
        rhos: shares kept per target token, each above 0.

    Returns:
        Per rho [neurons] bool; and the largest reconstruction error |z~ - z| over all target tokens (None without
        evidence).
    """
    name = config.criterion
    assert name is not None
    error: float | None = None
    if name in PER_TARGET:
        assert evidence is not None
        votes, error = evidence.votes(SCORED[name](), rhos)
        return [union(each, config.union_cap) for each in votes], error
    counts = [max(1, round(rho * table.total)) for rho in rhos]
    if config.equal_size:
        assert evidence is not None
        votes, error = evidence.votes(Attribution(), rhos)
        counts = [int(union(each, config.union_cap).sum()) for each in votes]
    if name == "random":
        return [random_neurons(table.total, count, seed) for count in counts], error
    if name == "drift":
        ranking = neuron_drift(alignment, table)
    else:
        assert evidence is not None
        ranking = evidence.ranking(SCORED[name]())
    return [top_of(ranking, count, scopes(table, config.ranking)) for count in counts], error


@dataclass(frozen=True, slots=True)
class Evidence:
    """What neurons are scored on."""

    model: Any
    """Holds the SFT checkpoint."""
    table: NeuronTable
    """Its neurons."""
    config: RejuvenationConfig
    """How they are ranked."""
    alignment: Alignment
    """Reads the base checkpoint, for criteria that look at it."""
    pairs: Sequence[TokenPair]
    """Calibration pairs."""
    targets: Sequence[Sequence[int]]
    """Per pair the indices of its target tokens in the response."""

    def votes(self, criterion: Criterion, rhos: Sequence[float]) -> tuple[torch.Tensor, float]:
        """[rhos, neurons] number of target tokens that choose each; and the largest reconstruction error."""
        votes, adding = torch.zeros(len(rhos), self.table.total, dtype=torch.int64), threading.Lock()
        ranges = scopes(self.table, self.config.ranking)

        def vote(found: Scores) -> float:
            """Add the votes of one pair's targets; return its largest reconstruction error."""
            for place, rho in enumerate(rhos):
                chosen = top_neurons(found.scores, rho, ranges, self.config.score_sign).sum(0)
                with adding:  # whole numbers: in any order they give the same sum
                    votes[place].add_(chosen)
            return (found.reconstructed - found.logits).abs().max().item()

        return votes, max(self._over_pairs(criterion, vote))

    def ranking(self, criterion: Criterion) -> torch.Tensor:
        """[neurons] what a criterion that averages over all target tokens ranks by."""
        sums = self._over_pairs(criterion, lambda found: found.scores.double().sum(0))
        mean = torch.stack(sums).sum(0) / sum(map(len, self.targets))
        return torch.cat([criterion.rank(mean[module.neurons]) for module in self.table.modules])

    def _over_pairs(self, criterion: Criterion, function: Callable[[Scores], Result]) -> list[Result]:
        """Apply a function to the scores of each pair, as many pairs at once as fit into memory."""
        weight = next(self.model.parameters())
        longest, most = max(len(pair.token_ids) for pair in self.pairs), max(map(len, self.targets))
        needed = attribution_bytes(self.model.config, longest, most, max(4, weight.element_size()))
        items = list(zip(self.pairs, self.targets, strict=True))
        frozen = self.config.frozen_norm
        with NeuronScorer(self.model, self.table, criterion, self.alignment, frozen_norm=frozen) as scorer:
            return map_deterministically(
                lambda item: function(scorer.scores(*item)),
                items,
                device_of(self.model),
                item_bytes=needed,
                spread=is_spread(self.model),
            )
