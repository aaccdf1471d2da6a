#!/usr/bin/env bash
# One model trained on every surface's logs, its metrics per surface and task, and an export of each surface.
#
#   scripts/demo.sh                simulated logs, whose best reachable metrics are known
#   RAW=DIR scripts/demo.sh        the official KuaiRand-Pure files
#
# DEMO=DIR        where to work (default: demo)
# REQUESTS=N      how many requests to simulate (default: 30000)
# RECSYS=COMMAND  default: .venv/bin/recsys, which `make setup` installs; torchx must be beside it
set -euo pipefail

raw=${RAW:-}
if [ -n "$raw" ]; then
  if [ ! -d "$raw" ]; then
    echo "RAW=$raw: no such folder; give the unpacked KuaiRand-Pure folder" >&2
    exit 2
  fi
  raw=$(cd "$raw" && pwd)
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

demo=${DEMO:-demo}
recsys=${RECSYS:-.venv/bin/recsys}
requests=${REQUESTS:-30000}
if ! command -v "$recsys" >/dev/null; then
  echo "$recsys: not found; run \`make setup\` first" >&2
  exit 1
fi

# A job finds torchrun, and torchrun finds recsys, where the command line is.
bin=$(cd "$(dirname "$(command -v "$recsys")")" && pwd)
export PATH=$bin:$PATH
# Of torch's C++ parts, errors only: a rank would say that its towers may lack rows, which they may.
export TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}

# One thread a rank: the numbers are the same on every machine with as many, and other programs on its
# cores do not slow training down several times, as they do when two threads wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

step() {
  printf '\n\033[1m%s\033[0m\n' "$1"
  shift
  printf '  $'
  printf ' %q' "$@"
  printf '\n'
  "$@"
}

if [ -n "$raw" ]; then
  data=$demo/kuairand
  run=$demo/runs/kuairand
  config=configs/kuairand.yaml
  make_data=("$recsys" data kuairand "$raw" "$data")
  shorter=(training.epochs=1) # of 3, for the laptop's sake
else
  data=$demo/simulated
  run=$demo/runs/simulated
  config=$data/config.yaml
  make_data=("$recsys" data simulate "$data" --requests "$requests")
  shorter=()
fi
# What an earlier demo left, and nothing else.
rm -rf "$data" "$run"
root=(--set "data.root=$data")

step "1/7  Is this machine ready?" "$recsys" doctor
step "2/7  Logs of all surfaces as request tables" "${make_data[@]}"
step "3/7  Are the tables what the config says?" "$recsys" data check "$config" "${root[@]}"
# A rank a GPU, two at most; on CPUs two.
ranks=$("$bin/python" -c 'from recsys.gpus import usable_gpus; print(min(2, usable_gpus() or 2))')
step "4/7  One model for all surfaces, ranks: $ranks" \
  torchx run -s local_cwd recsys.train --config "$config" --run "$run" -j "1x$ranks" \
  "data.root=$data" "${shorter[@]}"
step "5/7  Metrics of the test split per surface and task" "$recsys" evaluate "$run"
step "6/7  One artefact per surface, checked against the joint model" "$recsys" export "$run"
step "7/7  Metrics with intervals, calibration, experts, gradients: one page" "$recsys" report "$run"

cat <<END

The run is in $run: its resolved config, plan, checkpoints, predictions and metrics.
What to try next:
  $recsys report RUN OTHER_RUN              # side by side, with paired differences
  .venv/bin/tensorboard --logdir $demo/runs
  $recsys evaluate $run --split valid
  $recsys evaluate $run --surface SURFACE   # one surface alone, by its view of the model
  $recsys predict $run/exports/SURFACE/VERSION $data/test OUT   # with an artefact alone
END
if [ -z "$raw" ]; then
  echo "  REQUESTS=200000 make demo   # more logs come closer to the best reachable, shown under 2/7"
fi
echo
echo "The report: $run/report.html"
