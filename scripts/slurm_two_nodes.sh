#!/usr/bin/env bash
# A real Slurm cluster of two nodes on this machine, to try jobs on: CPUs only, loopback only.
#
#   sudo scripts/slurm_two_nodes.sh up       prints the SLURM_CONF that sbatch, squeue and torchx need
#   sudo scripts/slurm_two_nodes.sh status   exit code 0 if both nodes take jobs
#   sudo scripts/slurm_two_nodes.sh down     ends the daemons, jobs too, and deletes what `up` made
#
# It installs nothing: what is missing is named. Everything it writes is in one folder, with keys and
# sockets of its own, beside a Slurm that may be there already; and one line in /etc/hosts, which
# `down` takes out again.
#
# SLURM_DIR=DIR   that folder (default: /run/recsys-slurm)
# NODE_CPUS=N     CPUs that each node says it has (default: 2, however many there are)
# NODE_MEMORY=MB  memory that each node says it has (default: 10000)
# KILL_WAIT=N     seconds between SIGTERM and SIGKILL (default: Slurm's own 30)
set -euo pipefail

dir=${SLURM_DIR:-/run/recsys-slurm}
cpus=${NODE_CPUS:-2}
memory=${NODE_MEMORY:-10000}
kill_wait=${KILL_WAIT:-30}
mark="# recsys: two Slurm nodes"
export SLURM_CONF=$dir/slurm.conf

fail() {
  echo "slurm_two_nodes: $1" >&2
  exit "${2:-1}"
}

check_machine() {
  [ "$(id -u)" = 0 ] || fail "slurmctld and slurmd start jobs as their users: run it as root" 2
  local missing=()
  for program in munged slurmctld slurmd sinfo; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    fail "not found: ${missing[*]}; on Debian or Ubuntu: apt-get install slurm-wlm munge" 2
  fi
}

write_config() {
  local host
  host=$(hostname -s)
  cat >"$SLURM_CONF" <<END
ClusterName=two-nodes
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17000
AuthType=auth/munge
# A requeued job waits until the credentials of its first start have expired: 120 s if not said.
AuthInfo=socket=$dir/munge/socket,cred_expire=10
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmctldPidFile=$dir/slurmctld.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmdLogFile=$dir/slurmd-%n.log
SlurmdSpoolDir=$dir/spool-%n
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
# A job of several parts, which is what TorchX makes of several nodes, waits for this scheduler.
SchedulerParameters=bf_interval=2,bf_resolution=60
KillWait=$kill_wait
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=$cpus RealMemory=$memory
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=$cpus RealMemory=$memory
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
END
}

start_munge() {
  # Of its own: the key of a munge that runs already is not this script's to use.
  install -d -m 0755 -o munge -g munge "$dir/munge"
  head -c 128 /dev/urandom >"$dir/munge/key"
  chown munge:munge "$dir/munge/key"
  chmod 0400 "$dir/munge/key"
  setpriv --reuid munge --regid munge --clear-groups munged \
    --key-file "$dir/munge/key" --socket "$dir/munge/socket" --pid-file "$dir/munge/pid" \
    --log-file "$dir/munge/log" --seed-file "$dir/munge/seed"
}

nodes_idle() {
  [ "$(sinfo --noheader --Node --format %T 2>/dev/null | sort -u)" = idle ]
}

up() {
  check_machine
  [ ! -e "$dir" ] || fail "$dir: exists already; look at it by: $0 status; or end it by: $0 down" 2
  mkdir -p "$dir/state" "$dir/spool-n1" "$dir/spool-n2"
  # torchrun meets at the first node's name.
  grep -qF "$mark" /etc/hosts || echo "127.0.0.1 n1 n2 $mark" >>/etc/hosts
  write_config
  start_munge
  slurmctld -f "$SLURM_CONF"
  for node in n1 n2; do
    slurmd -f "$SLURM_CONF" -N "$node"
  done
  for _ in $(seq 60); do
    if nodes_idle; then
      echo "two nodes are up; logs are in $dir" >&2
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.5
  done
  sinfo --Node --long >&2 || true
  fail "the nodes are not idle after 30 s; look into $dir/*.log, then: $0 down"
}

status() {
  [ -e "$dir" ] || fail "not up ($dir is not there); start it by: $0 up"
  sinfo --Node --long
  squeue
  ! sinfo --noheader --Node --format %T | grep -qvE 'idle|mixed|allocated|completing'
}

# Sends a signal to the process of a pid file, if that is still this cluster's.
signal_daemon() {
  local file=$1 signal=$2 pid
  pid=$(cat "$file" 2>/dev/null) || return 1
  grep -qaF "$dir" "/proc/$pid/cmdline" 2>/dev/null || return 1
  kill "-$signal" "$pid"
}

down() {
  [ -e "$dir" ] || { echo "not up ($dir is not there)" >&2; return; }
  [ "$(id -u)" = 0 ] || fail "run it as root" 2
  timeout 10 scancel --user=root --quiet 2>/dev/null || true
  for _ in $(seq 20); do
    [ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ] && break
    sleep 0.5
  done
  local files=("$dir"/slurmd-n1.pid "$dir"/slurmd-n2.pid "$dir"/slurmctld.pid "$dir"/munge/pid)
  for file in "${files[@]}"; do
    signal_daemon "$file" TERM || continue
    for _ in $(seq 20); do
      signal_daemon "$file" 0 || break
      sleep 0.5
    done
    ! signal_daemon "$file" KILL || echo "killed the process of $file" >&2
  done
  # /etc/hosts may be a mount, which can be written but not replaced.
  local hosts
  hosts=$(grep -vF "$mark" /etc/hosts)
  printf '%s\n' "$hosts" >/etc/hosts
  rm -rf "$dir"
  echo "down" >&2
}

case "${1:-}" in
  up | down | status) "$1" ;;
  *)
    sed -n '2,17s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
