"""How a folder tree is judged: names such as "20_usu bear", and the usual mistakes with their cures."""

from dataclasses import dataclass
from pathlib import Path

from lora_core.data.listing import CAPTION_ENDINGS, Listing, has_images, list_folder
from lora_core.data.wording import enumerated
from lora_core.errors import Problem, UserError

MANY_REPEATS = 1000
"""From here on a number is more likely a year ("2023_summer") than a wish."""


@dataclass(frozen=True)
class FolderName:
    """What a numbered folder's name says."""

    repeats: int
    words: str


def numbered(name: str) -> FolderName | None:
    """Read "20_usu bear" as (20, "usu bear") and "30" as (30, ""). None if it does not begin with a number from 1."""
    number, _, words = name.partition("_")
    try:
        repeats = int(number)
    except ValueError:
        return None
    return FolderName(repeats, words) if repeats >= 1 else None


def not_a_folder(root: Path | None, setting: str) -> Problem | None:
    """What is wrong with a folder setting before one can look inside."""
    if root is None:
        return Problem(setting, "data.no_folder")
    try:
        if root.is_dir():
            return None
        if root.exists():
            return Problem(setting, "data.folder_is_file", {"path": root}, fix={setting: str(root.absolute().parent)})
    except OSError as error:
        return Problem(setting, "data.folder_unreadable", {"path": root, "reason": error.strerror or error})
    return Problem(setting, "data.folder_missing", {"path": root, "exists": _nearest_existing(root)})


def child_chosen(folder: Path, name: FolderName, setting: str) -> Problem:
    """The numbered folder itself was chosen. It is used as it is; its parent is offered, with what else lies there."""
    siblings = [f.name for f in _folders_in(folder.parent) if f != folder and numbered(f.name) and has_images(f)]
    key = "data.child_chosen_siblings" if siblings else "data.child_chosen"
    values = {"name": folder.name, "parent": folder.parent, "repeats": name.repeats, "siblings": enumerated(siblings)}
    return Problem(setting, key, values, "warning", fix={setting: str(folder.parent)})


def nothing_found(root: Listing, setting: str) -> Problem:
    """No image where images are looked for: say where they are, if they are near."""
    below = [folder for folder in root.folders if has_images(folder) or _has_numbered(folder)]
    # Kohya's own preparation makes img, reg, log and model side by side.
    usual = "reg" if setting == "dataset.reg_dir" else "img"
    best = next((folder for folder in below if folder.name.lower() == usual), below[0] if len(below) == 1 else None)
    if best:
        return Problem(setting, "data.images_below", {"path": root.folder, "below": best}, fix={setting: str(best)})
    if below:
        names = enumerated([folder.name for folder in below])
        return Problem(setting, "data.images_in_folders", {"path": root.folder, "folders": names})
    if root.unread_pictures:
        names = enumerated([path.name for path in root.unread_pictures])
        return Problem(setting, "data.only_unread_pictures", {"path": root.folder, "files": names})
    return Problem(setting, "data.no_images", {"path": root.folder})


def unused_beside_numbered(root: Listing, setting: str) -> list[Problem]:
    """Images that are passed over because they lie beside the numbered folders or in unnumbered ones."""
    problems = []
    if root.images:
        values = {"path": root.folder, "files": enumerated([path.name for path in root.images])}
        problems.append(Problem(setting, "data.loose_images", values, "warning"))
    unnumbered = [folder.name for folder in root.folders if not numbered(folder.name) and has_images(folder)]
    if unnumbered:
        values = {"folders": enumerated(unnumbered), "example": f"10_{unnumbered[0]}"}
        problems.append(Problem(setting, "data.folders_not_numbered", values, "warning"))
    return problems


def odd_in_folder(listing: Listing, captions: int, setting: str, caption_ending: str) -> list[Problem]:
    """Pictures that are not read, images one level too deep, captions that belong to nothing."""
    problems = []
    if listing.unread_pictures:
        values = {"path": listing.folder, "files": enumerated([p.name for p in listing.unread_pictures])}
        problems.append(Problem(setting, "data.unread_pictures", values, "warning"))
    deeper = [folder.name for folder in listing.folders if has_images(folder)]
    if deeper:
        values = {"path": listing.folder, "folders": enumerated(deeper)}
        problems.append(Problem(setting, "data.nested_images", values, "warning"))
    return problems + _odd_captions(listing, captions, caption_ending)


def odd_repeats(folder: Path, repeats: int, setting: str) -> list[Problem]:
    if repeats < MANY_REPEATS:
        return []
    return [Problem(setting, "data.many_repeats", {"name": folder.name, "repeats": repeats}, "warning")]


def _odd_captions(listing: Listing, captions: int, ending: str) -> list[Problem]:
    stems = {path.stem for path in listing.images}
    other = next(e for e in CAPTION_ENDINGS if e != ending)
    others = sum(found == other and stem in stems for stem, found in listing.captions)
    if others and not captions:
        values = {"path": listing.folder, "found": other, "wanted": ending}
        fix = {"dataset.caption_extension": other}
        return [Problem("dataset.caption_extension", "data.caption_ending", values, "warning", fix)]
    # A face crop's caption may bear the shorter name (caption_beside), hence startswith.
    orphans = [
        path.name
        for (stem, found), path in listing.captions.items()
        if found == ending and stem not in stems and not any(name.startswith(stem + "_") for name in stems)
    ]
    # A lone text file beside images without captions is a note, not a caption.
    if orphans and (captions or len(orphans) > 1):
        values = {"path": listing.folder, "files": enumerated(orphans)}
        return [Problem("dataset.caption_extension", "data.captions_without_image", values, "warning")]
    return []


def _folders_in(folder: Path) -> tuple[Path, ...]:
    try:
        return list_folder(folder).folders
    except UserError:
        return ()


def _has_numbered(folder: Path) -> bool:
    return any(numbered(child.name) and has_images(child) for child in _folders_in(folder))


def _nearest_existing(path: Path) -> Path:
    """The deepest folder above ``path`` that is there: where the typing error begins."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
