#!/usr/bin/env bash
# Check pplug on an NVIDIA GPU and measure it there, in under eight minutes; write a Markdown table.
#
#   tests/accelerator/check.sh [TABLE.md]                        on the first GPU
#   tests/accelerator/check.sh [TABLE.md] --device cpu --tiny    every check in tiny, where there is no GPU
#
# Packages that are missing are installed from the package index, or, with WHEELS=FOLDER, from wheels in a folder.
# PYTHON names the interpreter; one that has torch and transformers already saves most of the time. No model is
# downloaded: models are made from their configurations, with drawn weights. With vLLM installed it is measured too.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
missing=$("$python" - "$@" <<'END'
import sys
from importlib.util import find_spec

NEEDED = {
    "torch": "torch>=2.11", "transformers": "transformers>=5.16", "tokenizers": "tokenizers", "numpy": "numpy",
    "safetensors": "safetensors", "platformdirs": "platformdirs", "regex": "regex", "rouge_score": "rouge-score==0.1.2",
} | ({} if "--tiny" in sys.argv else {"torchao": "torchao>=0.18,<0.19"})
print(*(package for module, package in NEEDED.items() if find_spec(module) is None))
END
)
if [ -n "$missing" ]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  # shellcheck disable=SC2086  # one word a package
  "$python" -m pip install -q --target "$site" ${WHEELS:+--no-index --no-deps --find-links "$WHEELS"} $missing
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$root:$root/tests:$root/tests/accelerator${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$python" "$root/tests/accelerator/check.py" --seconds $((470 - SECONDS)) "$@"  # bash counts them from its start
