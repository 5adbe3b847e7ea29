#!/usr/bin/env bash
# Check pplug on an NVIDIA GPU and measure it there, in under eight minutes; write a Markdown table.
#
#   tests/accelerator/check.sh [TABLE.md]                        on the first GPU
#   tests/accelerator/check.sh [TABLE.md] --device cpu --tiny    every check in tiny, where there is no GPU
#
# Packages that are missing are installed from the package index, or, with WHEELS=FOLDER, from wheels in a folder.
# PYTHON names the interpreter; one that has torch and transformers already saves most of the time. No model is
# downloaded: models are made from their configurations, with drawn weights. With vLLM installed it is measured too.
# The table is written whatever happens: what failed, packages that could not be installed too, is a row that says so.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
table=accelerator.md
case "${1:--}" in -*) ;; *) table=$1 ;; esac
rm -f "$table"

failed() {  # WHAT WHY: a table of nothing but this
  printf '| check | found | wanted | result |\n|---|---|---|---|\n| %s | | | FAILED: %s |\n' "$1" "${2//|//}" > "$table"
  exit 1
}

missing=$("$python" - "$@" <<'END'
from importlib.util import find_spec

NEEDED = {
    "torch": "torch>=2.11,<2.14", "transformers": "transformers>=5.16,<6", "tokenizers": "tokenizers", "numpy": "numpy",
    "safetensors": "safetensors", "platformdirs": "platformdirs", "regex": "regex", "rouge_score": "rouge-score==0.1.2",
}
print(*(package for module, package in NEEDED.items() if find_spec(module) is None))
END
) || failed packages "$python does not run"
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"

install() {  # PACKAGE...: five minutes at most, as nothing can be done meanwhile
  timeout 300 "$python" -m pip install -q --disable-pip-version-check --no-compile --target "$site" \
    ${WHEELS:+--no-index --no-deps --find-links "$WHEELS"} "$@" 2> >(tee "$site/pip.log" >&2)
}

if [ -n "$missing" ]; then
  # shellcheck disable=SC2086  # one word a package
  install $missing || failed packages "pip does not install $missing: $(tail -n 1 "$site/pip.log" | cut -c 1-200)"
fi
case " $* " in
  *" --tiny "*) ;;
  *) # without it the checks of 8 and 4 bits are rows that say so
    "$python" -c 'import torchao' 2> /dev/null || install 'torchao>=0.18,<0.19' || true ;;
esac
export PYTHONPATH="$root:$root/tests:$root/tests/accelerator:$PYTHONPATH"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
code=0
"$python" "$root/tests/accelerator/check.py" --seconds $((470 - SECONDS)) "$@" || code=$?  # bash counts from its start
[ -e "$table" ] || failed checks "check.py ended with $code before the first one"
exit "$code"
