"""Kohya's keys of loss and noise that are not one of our fields each: kinds of noise, masks, zero terminal SNR."""

from lora_core.settings.kohya.draft import Draft
from lora_core.settings.kohya.needs import NEEDS
from lora_core.settings.kohya.values import is_empty


def noise(draft: Draft) -> None:
    """In the GUI a menu says which noise counts; sd-scripts uses all that has a value."""
    chosen = draft.text("noise_offset_type")
    multires = NEEDS["multires_used"](draft)
    if multires and NEEDS["offset_used"](draft):
        kind = "both"
    else:
        kind = "multires" if multires or chosen == "Multires" else "original"
    if chosen and chosen.lower() == kind:
        draft.mapped("noise_offset_type", "noise.noise_offset_type", kind)
    elif kind != "original":
        draft.differs("noise_offset_type", "why.noise_kind", "noise.noise_offset_type", kind)


def masks(draft: Draft) -> None:
    """A folder of masks comes before transparency, as in sd-scripts; masked_loss alone does nothing there."""
    folder = not is_empty(draft.text("conditioning_data_dir"))
    alpha, masked = draft.flag("alpha_mask"), draft.flag("masked_loss")
    if masked and folder:
        draft.mapped("masked_loss", "loss.masked_loss", "folder")
        draft.idle("alpha_mask")
    elif alpha:
        draft.mapped("alpha_mask", "loss.masked_loss", "alpha")
        draft.idle("masked_loss")
    elif masked:
        draft.differs("masked_loss", "why.mask_alone", "loss.masked_loss", "off")
    draft.idle("masked_loss")
    draft.idle("alpha_mask")
    if folder and not masked:
        draft.idle("conditioning_data_dir", "why.mask_folder_idle")


def zero_terminal_snr(draft: Draft) -> None:
    """A switch there; what it leaves off, the model's file says here."""
    if draft.flag("zero_terminal_snr"):
        draft.mapped("zero_terminal_snr", "noise.zero_terminal_snr", "on")
    else:
        draft.idle("zero_terminal_snr")
