"""Regularisation pictures: the class as the source model draws it, in the sizes of the training pictures."""

from collections.abc import Iterator, Sequence

from lora_core.data.regularisation import Wanted, class_folder, number_of_pictures, still_to_draw, training_sizes
from lora_core.errors import UserError
from lora_core.events import EventBase, FileSaved, StageChanged
from lora_core.families.encoded import EncodedTexts
from lora_core.generate.draw import draw, prompts_asked, save_png
from lora_core.generate.prompts import SamplePrompt
from lora_core.generate.shelf import Shelf
from lora_core.generate.studio import Studio
from lora_core.io.writing import replacing
from lora_core.settings import SampleSettings, TrainSettings
from lora_core.settings.tools import RegularisationSettings
from lora_core.train.device import DTYPES, choose_device, choose_precision


def regularisation(settings: RegularisationSettings, shelf: Shelf | None = None) -> Iterator[EventBase]:
    """Draws what is missing in ``<folder>/1_<class>``; what is there stays. Any family.

    Raises UserError where folder, class or model can't be used, or a picture can't be written.
    """
    class_folder(settings)  # raises before anything is read
    sizes = training_sizes(settings)
    count = number_of_pictures(settings, sizes)
    wanted = list(still_to_draw(settings, sizes, count))
    if not wanted:
        yield StageChanged(stage="drawing", done=count, total=count)
        return
    yield StageChanged(stage="loading_model")
    train = TrainSettings(device=settings.device)
    device = choose_device(train)
    dtype = DTYPES[choose_precision(train, device)]
    with (shelf or Shelf()).studio(settings.model, device, dtype) as studio:
        yield from _drawn(settings, wanted, count, studio)
    yield StageChanged(stage="drawing", done=count, total=count)


def _drawn(
    settings: RegularisationSettings, wanted: Sequence[Wanted], count: int, studio: Studio
) -> Iterator[EventBase]:
    family, components, folder = studio.family, studio.components, class_folder(settings)
    defaults = SampleSettings(steps=settings.steps, guidance=settings.guidance, sampler=settings.sampler)
    texts = EncodedTexts(family, components, settings.model)
    prompts_asked(family, components, request(settings, wanted[0]), settings.model, texts)
    texts.release_encoders()
    folder.mkdir(parents=True, exist_ok=True)
    for done, one in enumerate(wanted, start=count - len(wanted)):
        yield StageChanged(stage="drawing", done=done, total=count)
        asked = request(settings, one)
        picture = draw(family, components, asked, defaults, settings.model, encode=texts, on_step=studio.goes_on)
        if one.path.exists():  # another job of the same folder was faster
            continue
        if settings.captions:
            caption(one, settings.prompt)
        save_png(picture, one.path)
        yield FileSaved(path=one.path, kind="picture", facts={"prompt": settings.prompt, "seed": one.seed, "index": 0})


def request(settings: RegularisationSettings, one: Wanted) -> SamplePrompt:
    width, height = one.size
    return SamplePrompt(settings.prompt, settings.negative, width, height, one.seed, settings.guidance)


def caption(one: Wanted, words: str) -> None:
    """The class words as a caption file beside the picture; before it, so that no picture is ever without."""
    try:
        with replacing(one.path.with_suffix(".txt")) as temporary:
            temporary.write_text(words + "\n", encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError("picture.cannot_write", path=one.path, reason=error.strerror or str(error)) from error
