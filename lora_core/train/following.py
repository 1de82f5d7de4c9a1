"""Prompt-following: how much of the source model's answer to a new context is left beside the trigger words.

A LoRA that has learned its pictures by heart draws them whatever else the prompt says. So the model is asked at fixed
noisy latents what a context changes (an unrelated prompt behind the words):

    d0 = p0(class, context) - p0(class)         the source model's answer to the context
    d  = p(trigger, context) - p(trigger)       the answer with the LoRA
    kept = <d, d0> / <d0, d0>

the part of d that points where the source model's answer does, in units of it: 1 is followed as before, 0 not at all.
What d does besides (the character in the new place looks different from any of its class) does not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lora_core.data.held_out import Picture
from lora_core.settings import ValidationSettings


@dataclass(frozen=True)
class Words:
    """What is asked."""

    trigger: str
    subject: str
    """The class: what the source model knows in place of the trigger words; it may be empty."""
    contexts: tuple[str, ...]

    @property
    def asked(self) -> set[str]:
        """All texts, with the LoRA or without it."""
        subjects = (self.trigger, self.subject)
        return {*subjects, *(joined(subject, context) for subject in subjects for context in self.contexts)}


def words_of(validation: ValidationSettings, pictures: Sequence[Picture]) -> Words | None:
    """The trigger words are those of the first trained folder that has any. None: there are none, or no contexts."""
    contexts = tuple(line.strip() for line in validation.unrelated_prompts.splitlines() if line.strip())
    triggers = (p.subset.class_tokens.strip() for p in pictures if not (p.held_out or p.subset.is_reg))
    trigger = next(filter(None, triggers), "")
    return Words(trigger, validation.class_prompt.strip(), contexts) if trigger and contexts else None


def joined(subject: str, context: str) -> str:
    return ", ".join(filter(None, (subject, context)))


def share_kept(answer: Tensor, base: Tensor) -> float:
    """<d, d0> / <d0, d0> over all numbers; 1 where the source model has no answer that could be lost."""
    d, d0 = answer.double().flatten(), base.double().flatten()
    strength = float(d0 @ d0)
    return float(d @ d0) / strength if strength > 0 else 1.0
