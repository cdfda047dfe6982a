"""What a repair reads, writes and holds in memory, known before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from configs.errors import ConfigError
from configs.rejuvenation import RejuvenationConfig
from rejuvenation.blocks import BLOCK_BYTES, ahead
from rejuvenation.checkpoint import CheckpointReader
from rejuvenation.directories import weight_bytes
from rejuvenation.memory import available_bytes
from rejuvenation.scored_model import scoring_device, scoring_dtype

WIDE_COPIES = 6
"""Blocks' worth of memory that each thread has: base, SFT checkpoint and delta in float32, twice the size of bf16."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Sizes in bytes."""

    read: int
    """Weight files of both checkpoints."""
    write: int
    """Weight files of the output, as large as the SFT checkpoint's."""
    buffers: int
    """Blocks of rows in memory while the output is written."""
    model: int
    """Weights of the one model that scores pairs; 0 where nothing is scored. Activations come on top."""
    free: int
    """Memory that is free where the model is scored."""
    where: str
    """The device that the model is scored on."""
    dtype: str
    """The dtype it is scored in."""
    spread: bool = False
    """Whether it is spread over devices, and over disk as far as they are full."""

    @classmethod
    def of(cls, base: CheckpointReader, sft: CheckpointReader, config: RejuvenationConfig, *, scored: bool) -> Needs:
        """What the repair of a checkpoint needs.

        Args:
            base: the anchor.
            sft: the checkpoint to repair.
            config: device and dtype.
            scored: whether a model is loaded: calibration pairs are given.
        """
        read, write = _sizes((base, sft))
        device = scoring_device(config.device) if scored else torch.device("cpu")  # fusion touches no GPU
        dtype = scoring_dtype(config.scoring_dtype, device)
        model = sum(entry.numel for entry in sft.entries.values()) * dtype.itemsize if scored else 0
        threads = torch.get_num_threads()
        free, where = _free(device), str(device)
        if scored and config.device_map is not None:
            gpus = range(torch.cuda.device_count())
            free = available_bytes() + sum(_free(torch.device("cuda", number)) for number in gpus)
            count = f"{len(gpus)} GPUs, " if gpus else ""
            where = f"{count}main memory and, as far as they are full, disk (device_map {config.device_map})"
        return cls(
            read + write,
            write,
            (threads * WIDE_COPIES + ahead(threads)) * BLOCK_BYTES,
            model,
            free,
            where,
            str(dtype)[6:],
            spread=scored and config.device_map is not None,
        )

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            ConfigError: the model alone is larger than the memory that is free.
        """
        if self.model > self.free and not self.spread:
            rule = f"must have room for one model in {self.dtype}: {_size(self.model)}; {_size(self.free)} are free"
            fix = (
                "Score it on a GPU or in bfloat16 (--device, --scoring-dtype), spread it (--device-map auto), or take "
                "--steps fusion.linear alone."
            )
            raise ConfigError("rejuvenation.device", rule, self.where, fix)

    def lines(self) -> list[str]:
        """The needs as lines for a person."""
        lines = [
            f"reads    {_size(self.read)} of weights from base and sft",
            f"writes   {_size(self.write)} of weights",
            f"memory   about {_size(self.buffers)} for blocks of rows, whatever the size of the checkpoint",
        ]
        if self.model:
            lines.append(
                f"         and one model on {self.where} to score pairs: {_size(self.model)} in {self.dtype}, its "
                f"activations on top ({_size(self.free)} are free)"
            )
        return lines


def _free(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_bytes()


def _sizes(readers: Sequence[CheckpointReader]) -> list[int]:
    return [weight_bytes(reader.directory, reader.role) for reader in readers]


def _size(count: int) -> str:
    """Bytes for a person: three digits at most."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} bytes"
