"""Training a concept slider from prompts: the way from one prompt to another, in both directions.

With f0 the source model's answer to noisy latents z at time t, and eta how far strength 1 is to go:

    f(z, target; +1)  ->  f0(z, target) + eta (f0(z, more) - f0(z, less))
    f(z, target; -1)  ->  f0(z, target) - eta (f0(z, more) - f0(z, less))

Gandikota et al. 2023, "Concept Sliders: LoRA Adaptors for Precise Control in Diffusion Models", equation 7. There f is
noise prediction. It holds for velocity and flow as it stands: whatever a model predicts is a(t) z + b(t) x0 of the
clean picture x0 that it believes in, with a and b of the noise process alone. z and t are the same in all answers, so
the weights 1 + eta - eta = 1 leave a(t) z once on both sides, and every line says the same of the estimates:

    x0(target; +1)  ->  x0(target) + eta (x0(more) - x0(less))

Words that the concept must not drag along stand in front of all three prompts in turn, which is the paper's sum over
concepts to preserve (equation 8), one of them a sample.

The latents. The paper denoises from noise to time t with the prompt, anew for each step: some twenty passes for one
gradient. Here a few whole pictures are drawn at the start with the source model and get new noise at each step. Drawing
follows the process backwards, so z has the same distribution either way, as far as the drawing is exact; and z depends
on the seed and not on the weights, so a run resumes exactly. With an image folder, its pictures take their place.
Both directions are trained, in turn; the paper's code trains one of them and trusts that the other follows.

A distilled model (FLUX.1 dev) is told a guidance g and answers as guidance would: about f(no words) + g (f(words) -
f(no words)). So its difference of two prompts is already g times that of the prompts; the others get this factor when
pictures are drawn. To reach as far with the same eta, it is trained with the guidance it draws with (model.guidance).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_core.adapters import AdapterNetwork
from lora_core.settings import RunSettings
from lora_core.slider import Wording, wordings
from lora_core.train.preservation import without_adapters

Answer = Callable[[Sequence[str]], Tensor]
"""What the model says about the batch's noisy latents with these prompts."""


def steered(target: Tensor, more: Tensor, less: Tensor, eta: float) -> Tensor:
    """target + eta (more - less); Gandikota et al. 2023, equation 7."""
    return target + eta * (more - less)


@dataclass(frozen=True)
class PromptSlider:
    """The prompts of a slider and how far it goes."""

    wordings: tuple[Wording, ...]
    eta: float
    drawn: bool = False
    """The pictures were drawn from the target prompts, which then say which wording belongs to a picture."""

    @classmethod
    def of(cls, settings: RunSettings) -> "PromptSlider | None":
        """The slider of a run; None for every other kind of training."""
        slider = settings.slider
        return cls(wordings(slider), slider.guidance, settings.draws_its_pictures) if slider.is_on else None

    @property
    def texts(self) -> set[str]:
        """Everything that will be asked, to be encoded while the text encoders are there."""
        return {text for wording in self.wordings for text in (wording.target, wording.more, wording.less)}

    def choose(self, captions: Sequence[str], random: torch.Generator) -> Tensor:
        """(B,) the number of the wording for each sample: that of the drawn picture, else any."""
        if not self.drawn:
            return torch.randint(len(self.wordings), (len(captions),), generator=random)
        targets = [wording.target for wording in self.wordings]
        return torch.tensor([targets.index(caption) for caption in captions])

    def asked(self, network: AdapterNetwork, answer: Answer, chosen_B: Tensor) -> tuple[list[str], Tensor]:
        """(target prompts, what the model is to answer to them) at the network's present strength, +1 or -1.

        Three passes without gradients through the source model.
        """
        own = [self.wordings[number] for number in chosen_B.tolist()]
        eta = self.eta if network.multiplier > 0 else -self.eta
        prompts = [wording.target for wording in own]
        with without_adapters(network), torch.no_grad():
            target = answer(prompts).float()
            more = answer([wording.more for wording in own]).float()
            less = answer([wording.less for wording in own]).float()
        return prompts, steered(target, more, less, eta)
