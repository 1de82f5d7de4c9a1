#!/usr/bin/env bash
# Starts Kumakobo on Linux and macOS; the first time it also installs it, into .venv beside this file.
#   ./launch.sh            the studio, in the browser          ./launch.sh demo    train a small LoRA in the terminal
#   ./launch.sh test       the test suite                      ./launch.sh --help  everything else
# All decisions are in lora_core/setup; this only finds a Python to run it with.
set -eu

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUTF8=1
unset PYTHONHOME

fits() {
  command -v -- "$1" >/dev/null 2>&1 &&
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

# A new environment can't be made by the Python inside the old one.
own="$root/.venv/bin/python"
case " $* " in *" --reinstall "*) own= ;; esac

for python in "$own" "${KUMAKOBO_PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
  if [ -n "$python" ] && fits "$python"; then
    exec "$python" -m lora_core.setup "$@"
  fi
done

if command -v uv >/dev/null 2>&1; then
  # uv brings a Python of its own.
  uv python install --quiet 3.12 || true
  if python=$(uv python find '>=3.11,<3.14' 2>/dev/null) && fits "$python"; then
    exec "$python" -m lora_core.setup "$@"
  fi
fi

case "${KUMAKOBO_LANG:-${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}}" in
  ja*)
    echo "Python 3.11、3.12、3.13 のいずれも見つかりません。どれかをインストールして、もう一度 ./launch.sh を実行してください。" >&2
    echo "  Ubuntu / Debian: sudo apt install python3 python3-venv    macOS: brew install python@3.12    その他: https://www.python.org/downloads/" >&2
    echo "別の場所にある Python を使うには: KUMAKOBO_PYTHON=/path/to/python3.12 ./launch.sh" >&2 ;;
  *)
    echo "Python 3.11, 3.12 or 3.13 was not found. Install one of them, then run ./launch.sh again." >&2
    echo "  Ubuntu / Debian: sudo apt install python3 python3-venv    macOS: brew install python@3.12    others: https://www.python.org/downloads/" >&2
    echo "To use a Python from another place: KUMAKOBO_PYTHON=/path/to/python3.12 ./launch.sh" >&2 ;;
esac
exit 1
