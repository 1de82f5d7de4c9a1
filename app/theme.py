"""Look of the page: theme, generated styles and keyboard shortcuts. The style sheets are in styles/."""

from pathlib import Path

import gradio as gr

from app.form import element_id
from app.i18n import say
from app.settled import SCRIPT
from lora_core.i18n import LANGUAGES
from lora_core.settings.fields import fields_of

_FONTS = (
    "system-ui",
    "Segoe UI",
    "Noto Sans JP",
    "Noto Sans CJK JP",
    "Hiragino Sans",
    "Yu Gothic UI",
    "Meiryo",
    "sans-serif",
)

_SHORTCUTS = """
<script>
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    document.getElementById("train_button")?.click();
  }
  if (event.key === "Escape") {
    [...document.querySelectorAll(".kb-modal")]
      .filter((box) => box.getClientRects().length)
      .forEach((box) => box.querySelector("button.kb-cancel")?.click());
  }
});
</script>
"""


def kohya_names() -> str:
    """Style rules that put Kohya's name of an option behind the help, small and grey."""
    kohya = {element_id(path): field.kohya for path, field in fields_of().items() if field.kohya}
    return "".join(f'#{name} .info-text::after{{content:"{option}"}}' for name, option in kohya.items())


def toast_titles() -> str:
    """Style rules with the titles of short messages: Gradio has them in English only."""
    rules = [".toast-title{font-size:0!important}.toast-title::before{font-size:1rem}"]
    for language in LANGUAGES:
        for kind in ("info", "warning"):
            title = say(f"toast.{kind}", language)
            rules.append(f'html:lang({language}) .toast-title.{kind}::before{{content:"{title}"}}')
    return "".join(rules)


_SHARED = "".join(
    f"<script>{(Path(__file__).parent / 'widgets' / name).read_text(encoding='utf-8')}</script>"
    for name in ("make.js", "go_to.js")
)
"""What the scripts of several widgets call."""
HEAD = _SHORTCUTS + _SHARED + SCRIPT + f"<style>{kohya_names()}{toast_titles()}</style>"


def theme() -> gr.themes.Base:
    """Calm greys with one warm accent; fonts of the system only, Japanese ones included."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.amber,
        secondary_hue=gr.themes.colors.stone,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
        font=[gr.themes.Font(name) for name in _FONTS],
        font_mono=[gr.themes.Font(name) for name in ("ui-monospace", "Cascadia Mono", "Consolas", "monospace")],
    ).set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_border_color="*primary_700",
        button_primary_border_color_dark="*primary_700",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        input_border_width="1px",
        input_background_fill="white",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_background_fill_dark="*neutral_950",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_500",
        block_border_width="0px",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_shadow="none",
        block_label_text_weight="600",
        block_title_text_weight="600",
        block_title_text_size="*text_sm",
        block_info_text_size="*text_xs",
        block_padding="*spacing_sm *spacing_sm",
        checkbox_label_background_fill="transparent",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_600",
        checkbox_border_color_selected="*primary_700",
        slider_color="*primary_600",
    )
