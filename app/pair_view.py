"""What the page says of the two pictures of a copier LoRA: how much differs, and where."""

import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

from app.folder_view import is_allowed
from app.i18n import say
from app.live import Look
from app.shared_files import shared_folder, url
from lora_core.data.pair import compare, difference_picture
from lora_core.errors import UserError
from lora_core.i18n import Language


def pair_html(look: Look, language: Language, roots: Sequence[Path] = ()) -> str:
    """The share of changed area and a picture of it; nothing while the pictures are not there.

    What is wrong with them is said at their fields.
    """
    before, after = look.settings.dataset.pair_before, look.settings.dataset.pair_after
    if before is None or after is None or not all(is_allowed(p, roots) and p.is_file() for p in (before, after)):
        return ""
    try:
        found = compare(before, after)
        shown = url(_difference(before, after))
    except (UserError, OSError):
        return ""
    words = say("folders.pair_differs", language, share=f"{found.share:.0%}")
    alt = say("folders.pair_picture", language)
    return f'<div class="kb-card"><div>{escape(words)}</div><img src="{escape(shown)}" alt="{escape(alt)}"></div>'


def _difference(before: Path, after: Path) -> Path:
    """The picture of the difference where the page may read it."""
    facts = [(path.resolve(), path.stat().st_mtime_ns, path.stat().st_size) for path in (before, after)]
    target = shared_folder() / "pictures" / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}-pair.png"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        difference_picture(before, after).save(target)
    return target
