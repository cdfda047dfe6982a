"""`make bench-attribution`: scoring N target tokens of a pair at once, against one target at a time.

One at a time is what a plain loop does: a forward pass over the whole pair and a backward pass to the outputs of the
seven modules, for every target, with frozen weights. Both sides compute on one thread, in turn, and give equal scores.

No implementation can be faster without limit: with B the cost of a backward pass of activation gradients, about that of
a forward pass, the plain loop costs 2 N B. Whoever shares the forward pass and goes back over each target's prefix
alone pays (1 + N p) B, p the mean prefix as a share of the pair: 2 / p for large N. Where a pair is so small that calls
cost more than arithmetic (the toys), batching gains more than that.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import short
from benchmarks.models import make_model
from orchestrator.run_directory import versions, write_atomic
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.neurons import KINDS, WRITERS, NeuronTable
from rejuvenation.pairs import TokenPair
from rejuvenation.scoring import NeuronScorer

CASES = (("tiny", 32), ("tiny", 128), ("mid", 128))
"""Size of the model, and tokens of the pair."""
TARGETS = 8
ROUNDS = 5
REQUIRED = 3.0
OUTPUT = Path("docs/results/bench-attribution.json")
ABOUT = f"""# Attribution: {TARGETS} target tokens at once against one at a time

Made by `make bench-attribution`; what the two sides are, and why the ratio falls with the size of the pair, stands at
the head of `benchmarks/attribution.py`. Best of {ROUNDS} rounds in turn, processor time of one
thread; scores are equal.

| model | tokens | times faster | required | commit |
|---|---|---|---|---|
"""


def main() -> None:
    """Measure all cases and write the result."""
    torch.set_num_threads(1)
    rows = []
    for size, tokens in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"size": size, "tokens": tokens, **measure(Path(folder), size, tokens)})
        print(f"{size}, {tokens} tokens: {rows[-1]['ratio']:.2f} times faster (at least {REQUIRED:.2f})")
    commit = versions()["git"] or "unknown"
    lines = [
        f"| {row['size']} | {row['tokens']} | {row['ratio']:.2f} | {REQUIRED:.2f}"
        f"{'' if row['ratio'] >= REQUIRED else ', missed'} | {short(commit)} |\n"
        for row in rows
    ]
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(OUTPUT, json.dumps({"commit": commit, "rows": rows}, indent=1) + "\n")
    write_atomic(OUTPUT.with_suffix(".md"), ABOUT + "".join(lines))


def measure(folder: Path, size: str, tokens: int) -> dict[str, Any]:
    """Processor seconds of both sides, the best of the rounds, and their ratio."""
    from transformers import AutoModelForCausalLM

    directory = make_model(size, folder / "model")
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval().requires_grad_(False)
    table = NeuronTable.of(CheckpointReader(directory))
    token_ids = torch.randint(8, 60, (tokens,), generator=torch.Generator().manual_seed(0)).tolist()
    pair = TokenPair(token_ids[: tokens // 4], token_ids[tokens // 4 :])
    targets = [int(len(pair.response_ids) * (number + 0.5) / TARGETS) for number in range(TARGETS)]
    seconds: dict[str, list[float]] = {"at once": [], "one at a time": []}
    with NeuronScorer(model, table) as scorer:
        for _ in range(1 + ROUNDS):
            start = time.process_time()
            together = scorer.scores(pair, targets).scores
            seconds["at once"].append(time.process_time() - start)
            start = time.process_time()
            alone = torch.stack([one_at_a_time(model, table, pair, target) for target in targets])
            seconds["one at a time"].append(time.process_time() - start)
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max())):
        raise SystemExit("the two sides give different scores")
    best = {name: min(values[1:]) for name, values in seconds.items()}
    return {"seconds": best, "ratio": best["one at a time"] / best["at once"]}


def one_at_a_time(model: Any, table: NeuronTable, pair: TokenPair, target: int) -> torch.Tensor:
    """[neurons] scores at one target by a plain forward and backward pass, with the final norm's scale frozen."""
    kept: dict[tuple[str, int], torch.Tensor] = {}
    handles = []
    for module in table.modules:

        def keep(
            _: Any, args: tuple[Any, ...], output: torch.Tensor, key: tuple[str, int] = (module.kind, module.layer)
        ) -> None:
            kept[key] = args[0] if key[0] in WRITERS else output

        handles.append(model.get_submodule(module.path).register_forward_hook(keep))
    final = model.model.norm.register_forward_pre_hook(lambda _, args: kept.__setitem__(("final", 0), args[0]))
    embeddings = model.get_input_embeddings()(torch.tensor([pair.token_ids])).detach().requires_grad_(True)
    model.model(inputs_embeds=embeddings, use_cache=False)
    for handle in (*handles, final):
        handle.remove()
    t, gold = pair.positions[target], pair.response_ids[target]
    stream = kept["final", 0][0, t]
    scale = torch.rsqrt(stream.detach().pow(2).mean() + model.model.norm.variance_epsilon)
    direction = scale * model.model.norm.weight * model.lm_head.weight[gold]
    readers = [(kind, layer) for kind, layer in kept if kind in KINDS and kind not in WRITERS]
    gradients = dict(zip(readers, torch.autograd.grad(stream @ direction, [kept[key] for key in readers]), strict=True))
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
