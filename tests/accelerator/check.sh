#!/usr/bin/env bash
# Check pplug on an NVIDIA GPU and measure it there, in under eight minutes; write a Markdown table.
#
#   tests/accelerator/check.sh [TABLE.md]                        on the first GPU
#   tests/accelerator/check.sh [TABLE.md] --device cpu --tiny    every check in tiny, where there is no GPU
#
# Packages that are missing are installed from the package index, or, with WHEELS=FOLDER, from wheels in a folder.
# PYTHON names the interpreter; one that has torch and transformers already saves most of the time. No model is
# downloaded: models are made from their configurations, with drawn weights. vLLM wants other versions of packages: where
# it is not installed, it is installed into a folder of its own while the other checks run, and checked last.
# The table is written whatever happens: what failed, packages that could not be installed too, is a row that says so.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
table=accelerator.md
case "${1:--}" in -*) ;; *) table=$1; shift ;; esac
rm -f "$table"
vllm=$root/docs/requirements-vllm-gpu.txt
case " $* " in *" --tiny "* | *" --only "*) vllm= ;; esac
vllm=${VLLM_REQUIREMENTS-$vllm}

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
"$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("vllm") is None)' && vllm=
sites=$(mktemp -d)
trap 'kill "${installing:-}" 2> /dev/null || true; wait; rm -rf "$sites"' EXIT
pip=(timeout 300 "$python" -m pip install -q --disable-pip-version-check --no-compile)  # little can be done meanwhile
[ -z "${WHEELS:-}" ] || pip+=(--no-index --no-deps --find-links "$WHEELS")

install() {  # PACKAGE...
  "${pip[@]}" --target "$sites/own" "$@" 2> >(tee "$sites/own.log" >&2)
}

why() {  # FOLDER: the last that pip said
  tail -n 1 "$sites/$1.log" | cut -c 1-200 | tr '|' /
}

check() {  # WORD...
  "$python" "$root/tests/accelerator/check.py" "$@"
}

if [ -n "$vllm" ]; then
  "${pip[@]}" --target "$sites/vllm" --no-deps -r "$vllm" 2> "$sites/vllm.log" &
  installing=$!
fi
export PYTHONPATH="$sites/own${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "$missing" ]; then
  # shellcheck disable=SC2086  # one word a package
  install $missing || failed packages "pip does not install $missing: $(why own)"
fi
case " $* " in
  *" --tiny "*) ;;
  *) # without it the checks of 8 and 4 bits are rows that say so
    "$python" -c 'import torchao' 2> /dev/null || install 'torchao>=0.18,<0.19' || true ;;
esac
export PYTHONPATH="$root:$root/tests:$root/tests/accelerator:$PYTHONPATH"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
code=0
check "$table" --seconds $((${vllm:+-150} + 470 - SECONDS)) "$@" || code=$?  # bash counts from its start
[ -e "$table" ] || failed checks "check.py ended with $code before the first one"
if [ -n "$vllm" ] && ! grep -q '^| device ' "$table"; then
  sed -i '/vLLM is not installed/d' "$table"
  if wait "$installing"; then
    export PYTHONPATH="$sites/vllm:$PYTHONPATH"
    check "$sites/vllm.md" --seconds $((470 - SECONDS)) "$@" --only 'vLLM, small' 'vLLM, large' || code=$?
    if [ -e "$sites/vllm.md" ]; then
      tail -n +5 "$sites/vllm.md" >> "$table"  # below the heading
    else
      printf '| vLLM | | | FAILED: check.py ended with %s before the first one |\n' "$code" >> "$table"
    fi
  else
    printf '| vLLM | | | not run: pip does not install %s: %s |\n' "${vllm##*/}" "$(why vllm)" >> "$table"
  fi
fi
exit "$code"
