"""What the command line gives a diagnosis to work on, and the file that it writes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from configs.diagnosis import DiagnosisConfig
from rejuvenation.diagnostics.grading import Grader
from rejuvenation.diagnostics.prompts import Prompt, load_prompts, prompts_of
from rejuvenation.pairs import TokenPair, load_pairs

if TYPE_CHECKING:
    from rejuvenation.diagnosis import Diagnosis


@dataclass(frozen=True, slots=True)
class Asked:
    """Calibration pairs, prompts and how answers to them are graded."""

    pairs: list[TokenPair]
    """Of `--calibration`; may be empty."""
    prompts: list[Prompt]
    """Of `--prompts`, else of the pairs; only those with an answer, if any has one."""
    grader: Grader | None
    """Null where no answer is known."""
    graded_by: str
    """How answers are graded, or why they are not, for a person."""

    @classmethod
    def of(
        cls, tokenizer_dir: Path, calibration: Path | None, prompts: Path | None, marker: str | None, *, most: int
    ) -> Asked:
        """Read the files.

        Args:
            tokenizer_dir: the checkpoint whose chat template renders them.
            calibration: JSONL of conversations.
            prompts: JSONL of prompts and answers.
            marker: what precedes an answer; see `grading.final_answer`.
            most: prompts that will be asked, drawn from all.
        """
        pairs = load_pairs(calibration, tokenizer_dir) if calibration else []
        if prompts:
            found = load_prompts(prompts, tokenizer_dir, marker)
        else:
            found = prompts_of(pairs, tokenizer_dir, marker) if pairs else []
        answers = {index: prompt.answer for index, prompt in enumerate(found) if prompt.answer is not None}
        if not answers:
            why = "no prompt has an answer" if found else "there are no prompts"
            return cls(pairs, found, None, f"nothing is graded: {why}")
        grader = Grader(list(answers.values()), marker)
        graded_by = f"graded by {grader.name}; {len(answers)} of {len(found)} prompts have an answer"
        if most < len(answers):
            graded_by += f", {most} of them are asked"
        return cls(pairs, [found[index] for index in answers], grader, graded_by)


def save(path: Path, base: Path, diagnoses: Sequence[Diagnosis], graded_by: str, config: DiagnosisConfig) -> None:
    """Write everything as JSON, so that readers see the old or the new file, never a part."""
    content = {
        "base": str(base),
        "graded_by": graded_by,
        "settings": asdict(config),
        "checkpoints": [diagnosis.to_json() for diagnosis in diagnoses],
    }
    staging = path.with_name(f".{path.name}.partial")
    with staging.open("w") as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)
