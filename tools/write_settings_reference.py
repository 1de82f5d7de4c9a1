"""Write docs/settings.md and docs/settings.ja.md, the reference of all settings, from lora_core/settings.

python tools/write_settings_reference.py           writes both files
python tools/write_settings_reference.py --check   only says whether they are up to date
"""

import argparse
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from lora_core.i18n import LANGUAGES, Language  # noqa: E402
from lora_core.settings.applies import condition  # noqa: E402
from lora_core.settings.fields import SettingField, chooser_of, fields_of, help_text, label, section_label  # noqa: E402

FILES: dict[Language, Path] = {"en": PROJECT / "docs/settings.md", "ja": PROJECT / "docs/settings.ja.md"}
WORDS = {
    "en": {
        "title": "Settings",
        "intro": "Every setting, in the order of the settings file. In TOML, `train.learning_rate` is "
        "`learning_rate` under `[train]`; on the command line it is `--set train.learning_rate=5e-5`. An optional "
        'setting is switched off with `""`. This page is written by tools/write_settings_reference.py.',
        "head": "| Setting | Default | Allowed | What it does |",
        "not_set": "not set",
        "empty": "empty",
        "yes_no": "true, false",
        "text": "text",
        "path": "path",
        "integer": "whole number",
        "number": "number",
        "or_empty": ", or not set",
        "only": "Only with {variants}.",
        "kohya": "In Kohya's GUI: {name}.",
    },
    "ja": {
        "title": "設定一覧",
        "intro": "すべての設定を、設定ファイルでの順に並べています。`train.learning_rate` は、TOML では "
        "`[train]` の下の `learning_rate`、コマンドラインでは `--set train.learning_rate=5e-5` です。省略できる設定は "
        '`""` でオフになります。このページは tools/write_settings_reference.py が書き出したものです。',
        "head": "| 設定 | 既定値 | 使える値 | 説明 |",
        "not_set": "なし",
        "empty": "空",
        "yes_no": "true、false",
        "text": "文字列",
        "path": "パス",
        "integer": "整数",
        "number": "数値",
        "or_empty": "、または なし",
        "only": "{variants} のときだけ使います。",
        "kohya": "Kohya の GUI では {name}。",
    },
}


def reference(language: Language) -> str:
    """The whole page as Markdown."""
    words = WORDS[language]
    lines = [f"# {words['title']}", "", words["intro"]]
    section = ""
    for path, field in fields_of().items():
        if field.section != section:
            section = field.section
            lines += [
                "",
                f"## {section_label(section, language)} `[{section}]`",
                "",
                words["head"],
                "|---|---|---|---|",
            ]
        lines.append(_row(path, field, language))
    return "\n".join(lines) + "\n"


def _row(path: str, field: SettingField, language: Language) -> str:
    words = WORDS[language]
    about = [help_text(path, language)]
    if field.variants and not field.is_discriminator and len(field.variants) < len(_header(field).choices):
        about.append(words["only"].format(variants=", ".join(field.variants)))
    if needed := condition(path, language):
        about.append(needed)
    if field.kohya and field.kohya != field.name:
        about.append(words["kohya"].format(name=f"`{field.kohya}`"))
    cells = [f"**{label(path, language)}**<br>`{path}`", _default(field, words), _allowed(field, words)]
    return "| " + " | ".join([*cells, _escaped((" " if language == "en" else "").join(about))]) + " |"


def _header(field: SettingField) -> SettingField:
    return fields_of()[chooser_of(field.section)]


def _default(field: SettingField, words: dict[str, str]) -> str:
    defaults = dict.fromkeys(field.defaults.values()) if field.defaults and not field.is_discriminator else {}
    if len(defaults) > 1:
        return ", ".join(f"`{value}` ({_having(field, value)})" for value in defaults)
    if field.default is None:
        return words["not_set"]
    if field.default == "":
        return words["empty"]
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _having(field: SettingField, value: object) -> str:
    having = [variant for variant, default in field.defaults.items() if default == value]
    return ", ".join(having) if len(having) <= len(field.defaults) / 2 else "…"


def _allowed(field: SettingField, words: dict[str, str]) -> str:
    if field.kind == "switch":
        return words["yes_no"]
    allowed = ", ".join(f"`{choice}`" for choice in field.choices) or words[field.kind] + _range(field)
    return allowed + (words["or_empty"] if field.optional else "")


def _range(field: SettingField) -> str:
    low = "" if field.minimum is None else f"{'>' if field.open_minimum else '≥'} {field.minimum}"
    high = "" if field.maximum is None else f"{'<' if field.open_maximum else '≤'} {field.maximum}"
    limits = ", ".join(limit for limit in (low, high) if limit)
    return f" {limits}" if limits else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    check = parser.parse_args().check
    stale = [
        language
        for language in LANGUAGES
        if not FILES[language].exists() or FILES[language].read_text(encoding="utf-8") != reference(language)
    ]
    for language in stale:
        print(f"{FILES[language].relative_to(PROJECT)} {'is out of date' if check else 'written'}")
        if not check:
            FILES[language].write_text(reference(language), encoding="utf-8", newline="\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
