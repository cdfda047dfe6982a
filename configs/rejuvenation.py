"""The repair of an over-trained SFT checkpoint (arXiv 2606.09932)."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Any

from configs import bounds
from configs.auto import AUTO, AutoConfig
from configs.errors import ConfigError
from configs.fusion import BASE_FREE, FUSIONS, UNCHANGED_AT_ONE, FusionConfig

CRITERIA = (
    "attribution",
    "entropy_attribution",
    "delta_attribution",
    "drift",
    "dormancy",
    "gradient_magnitude",
    "random",
)
"""Names of the reset steps: what neurons are chosen by."""
WEIGHTS_ALONE = ("drift", "random")
"""Criteria that score no calibration pair by themselves."""
PER_TARGET = ("attribution", "entropy_attribution", "delta_attribution")
"""Criteria that choose neurons for each target token; the others rank them once."""
RANKINGS = ("global", "per_module", "per_layer")
SCORE_SIGNS = ("positive", "absolute")
RESET_TARGETS = ("base", "fused", "zero")
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
DEVICE_MAPS = ("auto", "balanced", "sequential")
PLACE = re.compile(r"cpu|\d+")
SIZE = re.compile(r"\d+(\.\d+)?(K|M|G)i?B")
SCORING_DTYPES = ("auto", "float32", "bfloat16", "float64")


@dataclass(frozen=True, slots=True)
class RejuvenationConfig:
    """Fuse the SFT checkpoint with its base, then reset the neurons that carry its over-confidence."""

    steps: list[str] = field(default_factory=lambda: ["fusion.linear", "reset.attribution"])
    """What is done, in order: fusions (`fusion.NAME`), then at most one reset (`reset.NAME`); docs/rejuvenation.md."""
    alpha: Any = 0.5
    """Weight of the SFT checkpoint in the fusion alpha * sft + (1 - alpha) * base (Eq. 1): a number, or `auto` for one
    that is chosen by what the repaired weights can do on prompts, before any RL; docs/rejuvenation.md has the rule."""
    rho: Any = 0.01
    """Share of all neurons kept per target token (Eq. 4); their union over tokens is larger. 0 resets none; `auto`
    chooses as for alpha."""
    auto: AutoConfig = field(default_factory=AutoConfig)
    """What `auto` tries, and on how much."""
    equal_size: bool = True
    """Criteria that rank neurons once reset as many as the union by attribution would have (a control of equal size);
    false: the share rho itself, which needs no calibration pairs for `drift` and `random`."""
    calibration: str | None = None
    """JSONL of `{"messages": [...]}` or `{"prompt": ..., "response": ...}`; null: whoever calls brings token pairs."""
    calibration_pairs: int = 64
    """Prompt-response pairs that are scored; of more, this many are drawn by seed, whatever their order."""
    target_tokens: int = 8
    """Response tokens scored per pair: those with the largest entropy gap between SFT checkpoint and base."""
    ranking: str = "global"
    """Neurons that compete for rho: of the whole model, of each layer, or of each module of each layer."""
    union_cap: float | None = None
    """Largest share of all neurons reset; above it those chosen by the most target tokens stay. null: no cap."""
    score_sign: str = "positive"
    """`positive` ranks signed scores, most positive first; `absolute` ranks by magnitude."""
    frozen_norm: bool = True
    """Gradient scores take the final RMSNorm's scale as a constant; false differentiates through it."""
    reset_target: str = "base"
    """What a reset neuron becomes: its `base` value (Eq. 5), `zero`, or `fused` (it stays: only the report is made)."""
    strength: float = 1.0
    """Omega: share of the way from the fused value to the reset target."""
    scoring_dtype: str = "auto"
    """Dtype of the scored model's weights; `auto` is float32 on CPU, bfloat16 on GPU. Scores are float32 or wider."""
    device: str = "auto"
    """Where the model is scored: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, ..."""
    device_map: str | None = None
    """For models larger than one device: `auto`, `balanced` or `sequential` spread the layers over all GPUs, then main
    memory, then disk, as transformers does (needs accelerate). null: the whole model on `device`."""
    max_memory: dict[str, str] = field(default_factory=dict)
    """With `device_map`: most placed somewhere, such as `{"0": "70GiB", "cpu": "200GiB"}`; else what is free."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    """Settings of the other fusions."""
    plasticity: bool = False
    """Whether sharpness, pass@k and gradient signal before and after are measured on the calibration pairs and shown in
    the report; takes ten times the model's memory and some minutes."""
    gate: bool = False
    """Whether a run samples training prompts from the SFT and the repaired checkpoint first, and starts RL from the one
    with the better pass@k (`evaluation.k` of `evaluation.samples`)."""
    gate_prompts: int = 64
    """Training prompts that the gate samples; all of them where there are fewer."""
    timeout_s: float = 3600.0
    """Longest the rejuvenation of a run may take, downloads of named checkpoints included."""

    def __post_init__(self) -> None:
        section = "rejuvenation."
        bounds.seconds(section, "timeout_s", self.timeout_s)
        for name in ("alpha", "rho"):
            object.__setattr__(self, name, number_or_auto(section + name, getattr(self, name)))
        bounds.within(section, "strength", self.strength, 0.0, 1.0)
        if not DEVICE.fullmatch(self.device):
            fix = "Leave it at auto to take a GPU where there is one."
            raise ConfigError(section + "device", "must be auto, cpu, cuda or cuda:N", self.device, fix)
        self._check_device_map()
        for name in ("calibration_pairs", "target_tokens", "gate_prompts"):
            bounds.at_least(section, name, getattr(self, name), 1)
        if self.union_cap is not None:
            bounds.above(section, "union_cap", self.union_cap, 0.0)
            bounds.within(section, "union_cap", self.union_cap, 0.0, 1.0)
        check_steps(self.steps)
        self._check_auto()
        kept = self.fusion.density + self.fusion.spikes
        if "breadcrumbs" in self.fusions and kept > 1.0 + 1e-9:
            rule = "must leave room for fusion.density: the two add up to 1 at most"
            raise ConfigError(section + "fusion.spikes", rule, self.fusion.spikes, "Lower one of them.")
        for name, allowed in (
            ("ranking", RANKINGS),
            ("score_sign", SCORE_SIGNS),
            ("reset_target", RESET_TARGETS),
            ("scoring_dtype", SCORING_DTYPES),
        ):
            bounds.one_of(section, name, getattr(self, name), allowed)

    def _check_device_map(self) -> None:
        name = "rejuvenation.device_map"
        if self.device_map is not None:
            bounds.one_of("rejuvenation.", "device_map", self.device_map, DEVICE_MAPS)
            if self.device != "auto":
                fix = "Leave rejuvenation.device at auto, or set rejuvenation.device_map=null."
                raise ConfigError(name, f"must be null with rejuvenation.device = {self.device}", self.device_map, fix)
            if self.is_auto:
                fix = "Give rejuvenation.alpha and rejuvenation.rho numbers: trying candidates takes one device."
                raise ConfigError(name, "must be null with alpha or rho = auto", self.device_map, fix)
            if self.plasticity:
                fix = "Set rejuvenation.plasticity=false: it differentiates the weights, which takes one device."
                raise ConfigError(name, "must be null with rejuvenation.plasticity", self.device_map, fix)
        elif self.max_memory:
            fix = "Set rejuvenation.device_map=auto with it."
            raise ConfigError("rejuvenation.max_memory", "must be empty without device_map", self.max_memory, fix)
        for place, size in self.max_memory.items():
            if not PLACE.fullmatch(place) or not SIZE.fullmatch(size):
                fix = "Write {'0': '70GiB', 'cpu': '200GiB'}, say."
                rule = "must map cpu or the number of a GPU to a size"
                raise ConfigError("rejuvenation.max_memory", rule, {place: size}, fix)

    def _check_auto(self) -> None:
        """Refuse `auto` for what no step reads, or where alpha 1 would not keep the SFT checkpoint.

        Raises:
            ConfigError: says which field.
        """
        if self.alpha == AUTO and not (self.fusions and set(self.fusions) <= set(UNCHANGED_AT_ONE)):
            allowed = " or ".join(UNCHANGED_AT_ONE)
            rule = f"can be auto only where all fusions are {allowed}, which change nothing at alpha 1"
            raise ConfigError("rejuvenation.alpha", rule, self.fusions, "Give alpha a number, 0.5 say.")
        if self.rho == AUTO and not self.steps[-1].startswith("reset."):
            rule = "can be auto only where a step resets neurons"
            raise ConfigError("rejuvenation.rho", rule, self.steps, "Add reset.attribution to the steps, or leave rho.")

    @property
    def is_auto(self) -> bool:
        """Whether alpha or rho is still to be chosen (a rho that no step reads is not)."""
        return AUTO in (self.alpha, self.rho)

    @property
    def fusions(self) -> list[str]:
        """Names of the fusion steps, in order."""
        return [step.removeprefix("fusion.") for step in self.steps if step.startswith("fusion.")]

    @property
    def criterion(self) -> str | None:
        """What neurons are chosen by; None where none is reset."""
        last = self.steps[-1]
        return last.removeprefix("reset.") if last.startswith("reset.") and self.rho != 0.0 else None

    @property
    def needs_base(self) -> bool:
        """Whether a step looks at the base checkpoint."""
        return self.criterion is not None or not set(self.fusions) <= set(BASE_FREE)

    @property
    def needs_pairs(self) -> bool:
        """Whether neurons are chosen by what the model does on calibration pairs."""
        return self.criterion is not None and (self.equal_size or self.criterion not in WEIGHTS_ALONE)


def number_or_auto(field: str, value: Any) -> float | str:
    """A share from 0 to 1 as a float, or `auto`; a number may be given as text, as a command line does.

    Raises:
        ConfigError: it is neither.
    """
    if value == AUTO:
        return AUTO
    rule, fix = "must be auto or a number in [0.0, 1.0]", "Set it to auto, or to a number from 0.0 to 1.0."
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(field, rule, value, fix) from None
    if not 0.0 <= number <= 1.0:
        raise ConfigError(field, rule, number, fix)
    return number


def check_steps(steps: list[str]) -> None:
    """Refuse a list of steps that names an unknown one, or does not end with its only reset.

    Raises:
        ConfigError: says which step and what is possible.
    """
    known = [*(f"fusion.{name}" for name in FUSIONS), *(f"reset.{name}" for name in CRITERIA)]
    for step in steps:
        if step not in known:
            near = difflib.get_close_matches(step, known, n=1, cutoff=0.4)
            fix = f"Did you mean {near[0]}?" if near else "Take fusion.linear, say."
            raise ConfigError("rejuvenation.steps", f"must hold steps among {', '.join(known)}", step, fix)
    resets = [step for step in steps if step.startswith("reset.")]
    if not steps or len(resets) > 1 or (resets and steps[-1] != resets[0]):
        rule = "must hold one step or more, fusions first and at most one reset, as the last"
        raise ConfigError("rejuvenation.steps", rule, steps, "Take [fusion.linear, reset.attribution], say.")
