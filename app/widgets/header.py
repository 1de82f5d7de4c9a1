"""Name of the app and the switch of languages."""

import gradio as gr

from app.i18n import COOKIE

_TEMPLATE = """
<div class="kb-brand">
  <svg class="kb-logo" viewBox="0 0 32 32" aria-hidden="true">
    <circle cx="8" cy="8" r="5"/><circle cx="24" cy="8" r="5"/><circle cx="16" cy="17" r="12"/>
    <g class="kb-logo-face"><circle cx="11.6" cy="15" r="1.5"/><circle cx="20.4" cy="15" r="1.5"/>
    <ellipse cx="16" cy="20.4" rx="2.6" ry="1.9"/></g>
  </svg>
  <span class="kb-name">くま工房</span><span class="kb-latin">Kumakobo</span>
  <span class="kb-lang" role="group" aria-label="Language / 言語">
    <button type="button" data-lang="en" lang="en">EN</button>
    <button type="button" data-lang="ja" lang="ja">日本語</button>
  </span>
</div>
"""
_SCRIPT = """
element.querySelectorAll("[data-lang]").forEach((button) => {
  const language = button.dataset.lang;
  button.setAttribute("aria-pressed", String(document.documentElement.lang === language));
  button.onclick = () => {
    document.cookie = `COOKIE=${language};path=/;max-age=31536000;samesite=strict`;
    location.reload();
  };
});
"""


def build() -> gr.HTML:
    """Place the name and the language switch here. The choice is kept in a cookie and takes effect by a reload."""
    return gr.HTML(
        "",
        html_template=_TEMPLATE,
        js_on_load=_SCRIPT.replace("COOKIE", COOKIE),
        elem_id="kb_brand",
        padding=False,
        apply_default_css=False,
    )
