#!/usr/bin/env bash
# Exports every surface of a run at once, each by a process of its own: for people without TorchX.
#
#   scripts/export_surfaces.sh RUN [options of recsys export]
#
# One surface that fails does not stop the others. Last comes a table of what happened; the exit code is 1
# if one failed.
#
# SURFACES="A B"  which ones, no blanks in their names (default: all of the run)
# JOBS=N          how many at the same time (default: one a core)
# VERB=finetune   another verb that takes RUN and --surface
# RECSYS=COMMAND  default: .venv/bin/recsys, with a python beside it
set -uo pipefail

if [ $# -eq 0 ] || [ "$1" = "--help" ]; then
  sed -n '2,/^set /{/^# \{0,1\}/s///p}' "$0"
  exit 2
fi
run=$1
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
recsys=${RECSYS:-$here/.venv/bin/recsys}
python=$(dirname "$(command -v "$recsys")")/python || {
  echo "$recsys: not found; run \`make setup\` first" >&2
  exit 1
}
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

if [ -n "${SURFACES:-}" ]; then
  # shellcheck disable=SC2086  # names, with blanks between them
  printf '%s\n' $SURFACES
else
  "$python" - "$run" <<'PYTHON'
import sys
from recsys.errors import UserError
from recsys.run_directory import RunDirectory
try:
    print(*RunDirectory.open(sys.argv[1]).config.active_surfaces, sep="\n")
except UserError as error:
    sys.exit(f"recsys: {error}")
PYTHON
fi >"$results/.surfaces" || exit 2

one() {
  surface=$1
  shift
  "$recsys" "$@" --surface "$surface" --json >"$results/$surface.json" 2>"$results/$surface.log"
  code=$?
  echo "$code" >"$results/$surface.code"
  if [ "$code" -eq 0 ]; then echo "$surface: done" >&2; else echo "$surface: failed" >&2; fi
}
export -f one
export recsys results
# `one` says in a file how it ended, so that xargs goes on.
# NUL between names: a name may have blanks and quotes.
tr '\n' '\0' <"$results/.surfaces" |
  xargs -0 -P "${JOBS:-$(nproc)}" -I SURFACE bash -c 'one "$@"; exit 0' one SURFACE \
    "${VERB:-export}" "$run" "$@"

"$python" - "$results" <<'PYTHON'
import json
import sys
from pathlib import Path

from rich.console import Console

from recsys.export.show import print_exports

folder = Path(sys.argv[1])
surfaces = (folder / ".surfaces").read_text().splitlines()
exports, failed = [], []
for surface in surfaces:
    code = folder / f"{surface}.code"
    if code.is_file() and code.read_text().strip() == "0":
        found = json.loads((folder / f"{surface}.json").read_text())
        exports += found.get("exports", [found] if "parity" in found else [])
    else:
        lines = (folder / f"{surface}.log").read_text().splitlines() or ["ended without a word"]
        failed.append(f"{surface}: failed: {lines[-1]}")
console = Console()
if exports:  # other verbs make none
    print_exports(exports, console)
for line in failed:
    console.print(line, style="red", highlight=False, soft_wrap=True)
console.print(f"{len(surfaces) - len(failed)} of {len(surfaces)} surfaces are done", highlight=False)
sys.exit(1 if failed else 0)
PYTHON
