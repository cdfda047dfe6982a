"""Base as seen from the SFT checkpoint: the same tensors in the same shapes, or an error that names the tensor."""

from __future__ import annotations

import torch

from configs.checkpoint import ARCHITECTURE_KEYS
from configs.errors import ConfigError
from rejuvenation.checkpoint import CheckpointReader

EMBEDDING = "embed_tokens.weight"
LM_HEAD = "lm_head.weight"
VOCABULARY = (EMBEDDING, LM_HEAD, "lm_head.bias")
BUFFERS = ("rotary_emb.inv_freq",)


class Alignment:
    """Two checkpoints of one architecture, tensor by tensor.

    Legal differences, listed in `notes`: the SFT checkpoint has more embedding or lm_head rows (added tokens: those
    rows stay the SFT's) or fewer (Base's surplus is cut); the lm_head is stored in only one because of tying; rotary
    buffers. The SFT checkpoint decides which tensors exist.

    Args:
        base: the anchor.
        sft: the checkpoint to repair.

    Raises:
        ConfigError: the two configs name different architectures, or a tensor is missing, extra or misshaped; the
            message names it.
    """

    def __init__(self, base: CheckpointReader, sft: CheckpointReader) -> None:
        self.base = base
        self.sft = sft
        self.notes: list[str] = []
        self._sources: dict[str, str | None] = {}
        _check_architecture(base, sft)
        for name in sft.entries:
            self._sources[name] = self._source(name)
        for name in base.entries:
            if name not in sft:
                self._check_dropped(name)

    def _source(self, name: str) -> str | None:
        """Name of the base tensor that `name` is fused with; None keeps the SFT's values."""
        if name.endswith(BUFFERS):
            self.notes.append(f"{name}: a buffer, kept as the SFT checkpoint stores it")
            return None
        source = name
        if name not in self.base:
            embedding = _embedding_of(self.base)
            if name != LM_HEAD or embedding is None or self.base.config.get("tie_word_embeddings") is False:
                raise self._mismatch("base", f"must hold tensor {name}, as the SFT checkpoint does", None)
            self.notes.append(f"{name}: only the SFT checkpoint stores it; fused with the base's tied {embedding}")
            source = embedding
        expected, found = self.sft.entries[name].shape, self.base.entries[source].shape
        if expected != found:
            if not (name.endswith(VOCABULARY) and len(expected) == len(found) and expected[1:] == found[1:]):
                rule = f"must hold tensor {name} in the SFT checkpoint's shape {list(expected)}"
                raise self._mismatch("base", rule, list(found))
            if expected[0] > found[0]:
                self.notes.append(f"{name}: {expected[0] - found[0]} rows that the base lacks stay the SFT's")
            else:
                self.notes.append(f"{name}: {found[0] - expected[0]} surplus rows of the base are cut")
        return source

    def _check_dropped(self, name: str) -> None:
        if name.endswith(BUFFERS):
            self.notes.append(f"{name}: a buffer of the base, dropped")
            return
        embedding = _embedding_of(self.base)
        if name == LM_HEAD and embedding is not None and self.sft.config.get("tie_word_embeddings") is not False:
            same = torch.equal(self.base.tensor(name), self.base.tensor(embedding))
            if same or self.base.config.get("tie_word_embeddings"):
                self.notes.append(f"{name}: only the base stores it; the SFT checkpoint ties it to {embedding}")
                return
            rule = f"must hold tensor {name} equal to {embedding}, as the SFT checkpoint ties them"
            raise self._mismatch("base", rule, "other values")
        raise self._mismatch("sft", f"must hold tensor {name}, as the base checkpoint does", None)

    def _mismatch(self, field: str, rule: str, value: object) -> ConfigError:
        places = f"Compare {self.base.directory} with {self.sft.directory}"
        return ConfigError(field, rule, value, f"{places}: they must be two stages of one model.")

    def base_rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of Base's value of the SFT tensor `name`; the SFT's rows where Base has none."""
        source = self._sources[name]
        if source is None:
            return self.sft.rows(name, start, stop)
        shape = self.base.entries[source].shape
        if not shape or stop <= shape[0]:
            return self.base.rows(source, start, stop)
        added = self.sft.rows(name, max(start, shape[0]), stop)
        if start >= shape[0]:
            return added
        known = self.base.rows(source, start, shape[0])
        if added.dtype != known.dtype:  # both fit into the wider of the two exactly
            wide = torch.promote_types(added.dtype, known.dtype)
            added, known = added.to(wide), known.to(wide)
        return torch.cat([known, added])

    def base_tensor(self, name: str) -> torch.Tensor:
        """Base's value of the SFT tensor `name`, in its shape."""
        return self.base_rows(name, 0, self.sft.entries[name].num_rows)


def _embedding_of(reader: CheckpointReader) -> str | None:
    return next((name for name in reader.entries if name.endswith(EMBEDDING)), None)


def _check_architecture(base: CheckpointReader, sft: CheckpointReader) -> None:
    pairs = [(key, base.config.get(key), sft.config.get(key)) for key in ARCHITECTURE_KEYS]
    pairs.append(("rope_theta", _rope_theta(base), _rope_theta(sft)))
    for key, ours, theirs in pairs:
        if ours is not None and theirs is not None and ours != theirs:
            rule = f"must be the model that the SFT checkpoint was trained from: its config has {key} = {theirs!r}"
            raise ConfigError("base", rule, ours, f"Compare {base.directory} with {sft.directory}.")


def _rope_theta(reader: CheckpointReader) -> object:
    """`rope_theta`, which transformers 5 writes inside `rope_parameters`."""
    return reader.config.get("rope_theta", (reader.config.get("rope_parameters") or {}).get("rope_theta"))
