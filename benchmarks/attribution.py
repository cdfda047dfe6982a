"""`make bench-attribution`: scoring N target tokens of a pair at once, against one target at a time.

Two loops over the targets stand for "one at a time", both with frozen weights and on one thread, in turn with ours:

- plain: what one writes with transformers: the model's logits of the whole pair, and from the gold token's logit a
  backward pass to the outputs of the modules.
- frugal: the same without the lm_head, which takes no part in the gradients of one logit: the hardest to beat.

All three give equal scores. The last column is the ratio to the frugal loop that counting multiplications gives: with a
backward pass of activation gradients as dear as a forward pass, F, the loop costs 2 N F. Ours shares one forward pass
over the longest prefix, and goes back over each target's prefix alone, the last layer nearly for nothing: of L layers
and prefixes that are p of the pair in the mean, (1 + N p (1 - 1 / L)) F. Nobody's ratio grows beyond 2 / p with N.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import short
from benchmarks.checkpoints import QWEN2_HALF_B
from benchmarks.models import make_model
from orchestrator.run_directory import versions, write_atomic
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.neurons import KINDS, WRITERS, NeuronTable
from rejuvenation.pairs import TokenPair
from rejuvenation.scoring import NeuronScorer


@dataclass(frozen=True, slots=True)
class Case:
    """A model and a pair."""

    size: str
    """`tiny`, `mid`, or `0.5B`: the shape of Qwen2.5-0.5B."""
    tokens: int
    """Of the pair; the first quarter is the prompt."""
    rounds: int
    """How often each side runs; the best counts."""


CASES = (Case("tiny", 32, 5), Case("tiny", 128, 5), Case("mid", 128, 5), Case("0.5B", 256, 3))
TARGETS = 8
REQUIRED = 3.0
OUTPUT = Path("docs/results/bench-attribution.json")
ABOUT = f"""# Attribution: {TARGETS} target tokens at once against one at a time

Made by `make bench-attribution`: times faster than a loop over the targets, float32, processor time of one thread, the
best of the rounds in turn, scores equal. "Plain" is the loop one writes with transformers (logits of the whole pair,
backward to the modules' outputs, frozen weights); "frugal" leaves the lm_head out of both passes; "counted" is what
counting multiplications gives against the frugal loop. The head of `benchmarks/attribution.py` says more.

| model | vocabulary | tokens | against plain | against frugal | counted | required | commit |
|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Measure all cases, or those whose size is named, and write the result of all."""
    torch.set_num_threads(1)
    sizes = sys.argv[1:]
    rows = []
    for case in CASES:
        if sizes and case.size not in sizes:
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = {"size": case.size, "tokens": case.tokens, **measure(Path(folder), case)}
        rows.append(row)
        print(f"{case.size}, {case.tokens} tokens: {row['plain']:.2f} times faster than the plain loop, ", end="")
        print(f"{row['frugal']:.2f} than the frugal one, {row['counted']:.2f} counted (at least {REQUIRED:.2f})")
    if sizes:
        return
    commit = versions()["git"] or "unknown"
    lines = [
        f"| {row['size']} | {row['vocabulary']:,} | {row['tokens']} | {row['plain']:.2f} | {row['frugal']:.2f} | "
        f"{row['counted']:.2f} | {REQUIRED:.2f}{held(row)} | {short(commit)} |\n"
        for row in rows
    ]
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(OUTPUT, json.dumps({"commit": commit, "rows": rows}, indent=1) + "\n")
    write_atomic(OUTPUT.with_suffix(".md"), ABOUT + "".join(lines))


def held(row: dict[str, Any]) -> str:
    """Which loops are beaten by less than required, as a remark."""
    missed = [name for name in ("plain", "frugal") if row[name] < REQUIRED]
    return f", missed against {' and '.join(missed)}" if missed else ""


def measure(folder: Path, case: Case) -> dict[str, Any]:
    """Processor seconds of the three sides, the best of the rounds, and the ratios."""
    from transformers import AutoModelForCausalLM

    directory = make_half_b(folder / "model") if case.size == "0.5B" else make_model(case.size, folder / "model")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    model = model.eval().requires_grad_(False)
    table = NeuronTable.of(CheckpointReader(directory))
    token_ids = torch.randint(8, 60, (case.tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    pair = TokenPair(token_ids[: case.tokens // 4], token_ids[case.tokens // 4 :])
    targets = [int(len(pair.response_ids) * (number + 0.5) / TARGETS) for number in range(TARGETS)]

    def at_once(*, frozen_norm: bool) -> torch.Tensor:
        with NeuronScorer(model, table, frozen_norm=frozen_norm) as scorer:
            return scorer.scores(pair, targets).scores

    sides = {
        "at once": lambda: at_once(frozen_norm=True),
        "frugal": lambda: torch.stack([frugal(model, table, pair, target) for target in targets]),
        "plain": lambda: torch.stack([plain(model, table, pair, target) for target in targets]),
    }
    seconds, scores = in_turn(sides, case.rounds)
    check_equal(scores["at once"], scores["frugal"])
    check_equal(at_once(frozen_norm=False), scores["plain"])  # a plain logit's gradient passes through the norm
    best = {name: min(values) for name, values in seconds.items()}
    prefixes = [(pair.positions[target] + 1) / case.tokens for target in targets]
    layers = table.num_layers
    return {
        "seconds": best,
        "vocabulary": model.config.vocab_size,
        "plain": best["plain"] / best["at once"],
        "frugal": best["frugal"] / best["at once"],
        "counted": 2 * TARGETS / (max(prefixes) + sum(prefixes) * (1 - 1 / layers)),
    }


def in_turn(
    sides: dict[str, Callable[[], torch.Tensor]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    """Processor seconds of every side in every round, and what each gave last."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found = {}
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.process_time()
            found[name] = side()
            seconds[name].append(time.process_time() - start)
    return seconds, found


def check_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Refuse scores that differ by more than rounding."""
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max())):
        raise SystemExit("the two sides give different scores")


def make_half_b(directory: Path) -> Path:
    """Random weights in the shape of Qwen2.5-0.5B."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = QWEN2_HALF_B
    config = Qwen2Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    return directory


def frugal(model: Any, table: NeuronTable, pair: TokenPair, target: int) -> torch.Tensor:
    """[neurons] scores at one target by a forward and a backward pass without the lm_head, the norm's scale frozen."""
    kept = kept_by(model, table, lambda embeddings: model.model(inputs_embeds=embeddings, use_cache=False), pair)[0]
    stream = kept["final", 0][0, pair.positions[target]]
    direction = toward(model, stream, pair.response_ids[target])
    return scores_of(model, table, kept, stream @ direction, direction, pair.positions[target])


def plain(model: Any, table: NeuronTable, pair: TokenPair, target: int) -> torch.Tensor:
    """[neurons] scores at one target from the model's logits of the whole pair, as transformers gives them."""
    kept, output = kept_by(model, table, lambda embeddings: model(inputs_embeds=embeddings, use_cache=False), pair)
    t, gold = pair.positions[target], pair.response_ids[target]
    direction = toward(model, kept["final", 0][0, t], gold)
    return scores_of(model, table, kept, output.logits[0, t, gold], direction, t)


Kept = dict[tuple[str, int], torch.Tensor]


def kept_by(
    model: Any, table: NeuronTable, forward: Callable[[torch.Tensor], Any], pair: TokenPair
) -> tuple[Kept, Any]:
    """What hooks keep of a forward pass over a whole pair with its graph, and what that gives."""
    kept: Kept = {}
    handles = []
    for module in table.modules:

        def keep(
            _: Any, args: tuple[Any, ...], output: torch.Tensor, key: tuple[str, int] = (module.kind, module.layer)
        ) -> None:
            kept[key] = args[0] if key[0] in WRITERS else output

        handles.append(model.get_submodule(module.path).register_forward_hook(keep))
    final = model.model.norm.register_forward_pre_hook(lambda _, args: kept.__setitem__(("final", 0), args[0]))
    embeddings = model.get_input_embeddings()(torch.tensor([pair.token_ids])).detach().requires_grad_(True)
    output = forward(embeddings)
    for handle in (*handles, final):
        handle.remove()
    return kept, output


def toward(model: Any, stream: torch.Tensor, gold: int) -> torch.Tensor:
    """The direction d = s_rms * (gamma * W_U[y]) [D] (Eq. 2) at one position of the final residual stream."""
    scale = torch.rsqrt(stream.detach().pow(2).mean() + model.model.norm.variance_epsilon)
    direction: torch.Tensor = scale * model.model.norm.weight * model.lm_head.weight[gold]
    return direction


def scores_of(
    model: Any, table: NeuronTable, kept: Kept, logit: torch.Tensor, direction: torch.Tensor, t: int
) -> torch.Tensor:
    """[neurons] scores at position t: Eq. 3 of o and down, gradient of the logit x activation of the others."""
    readers = [(kind, layer) for kind, layer in kept if kind in KINDS and kind not in WRITERS]
    gradients = dict(zip(readers, torch.autograd.grad(logit, [kept[key] for key in readers]), strict=True))
    parts = []
    for module in table.modules:
        key = (module.kind, module.layer)
        if module.kind in WRITERS:
            parts.append(kept[key][0, t].detach() * (direction @ model.get_submodule(module.path).weight))
        elif module.kind in ("k", "v"):
            parts.append((kept[key] * gradients[key])[0, : t + 1].sum(0).detach())
        else:
            parts.append((kept[key] * gradients[key])[0, t].detach())
    return torch.cat(parts)


if __name__ == "__main__":
    main()
