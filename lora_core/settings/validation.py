"""How over-fitting is measured while a run trains."""

import re
from typing import Annotated

from pydantic import AfterValidator

from lora_core.errors import UserError
from lora_core.settings.base import Settings, UserPath, setting

UNRELATED = "a photo of a house\na bowl of fruit on a table\na mountain landscape"
"""Prompts that hardly any LoRA is about."""
MOST_FOLDS = 20


def _fold(value: str) -> str:
    """ "2/4", or empty."""
    value = value.strip()
    found = re.fullmatch(r"(\d{1,2})/(\d{1,2})", value)
    if value and not (found and 1 <= int(found[1]) <= int(found[2]) and 2 <= int(found[2]) <= MOST_FOLDS):
        raise UserError("settings.fold", most=MOST_FOLDS)
    return value


class ValidationSettings(Settings):
    every_n_epochs: int | None = setting(None, "Validate every n epochs", "validate_every_n_epochs", ge=1)
    """Measures over-fitting every n epochs: the loss on training pictures, on pictures held out, and how far other prompts have moved. Each time costs as much as a few dozen steps. Empty: off."""
    split: float | None = setting(0.1, "Held-out share", "validation_split", gt=0, le=0.5)
    """This part of the training pictures is not trained on but only measured; copies of a picture go with it. 0.1 of 20 pictures is 2. Regularisation images are never taken. Empty: none."""
    fold: Annotated[str, AfterValidator(_fold)] = setting("", "Fold")
    """Holds out one of equal parts of the pictures in place of a share: 2/4 is the second quarter. Runs on 1/4 to 4/4 hold out every picture once; the k-fold search makes them. Empty: the share decides."""
    folder: UserPath = setting(None, "Validation folder")
    """Pictures to measure on instead of holding some out, in numbered folders or not, with captions like the training pictures. None of them may be among those."""
    seed: int | None = setting(None, "Validation seed", "validation_seed", ge=0, le=2**32 - 1)
    """Which pictures are held out, and the noise they are measured with. Empty: the same for every run, whatever its seed, so that runs compare."""
    max_pictures: int = setting(16, "Most pictures measured", "max_validation_steps", ge=1, le=1000)
    """So many of the training pictures, and so many of those held out, are measured. More is surer and slower."""
    timesteps: int = setting(8, "Noise levels", ge=1, le=64)
    """Each picture is measured at so many noise levels, spread as they are trained. 8 is enough to compare epochs."""
    noise_draws: int = setting(1, "Noise draws", ge=1, le=16)
    """Each noise level with so many different noises. More is steadier for very small sets, and so many times slower."""
    class_prompt: str = setting("", "Class prompt", max_length=500)
    """The word for all of the kind, such as "bear" or "1girl": how far it moves from the source model is the drift of the class. Empty: no prompt at all."""
    unrelated_prompts: str = setting(UNRELATED, "Unrelated prompts", max_length=10_000)
    """One per line: what should stay as the source model draws it. Their drift shows a LoRA that changes everything."""
    patience: int | None = setting(None, "Stop early after", ge=1, le=1000)
    """Ends the run when so many validations in a row brought no better loss on held-out pictures. 3 is usual. Empty: the epochs decide."""
    keep_best: bool = setting(False, "Keep the best epoch")
    """Also writes the LoRA of the lowest loss on held-out pictures so far, in a file ending in -best."""
