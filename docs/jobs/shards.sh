#!/usr/bin/env bash
# One snapshot by many: each part is a process on this machine, or on one of several.
#
#   SHARDS=4 shards.sh /data/lake                    four processes here
#   HOSTS="node1 node2 node3" shards.sh /data/lake   one part for each host, by ssh
#
# LAKEBED_REPO, the password and the credentials come from the environment. With HOSTS each host reads them from the file
# that REMOTE_ENV names there. All hosts must see the same files under the same paths.
#
#   RUN       what the parts have in common; no other run may have had this name
#             [default: the time and a random number]
#   NAME      the host that the snapshot is filed under [default: this machine's name]
#   TRIES     so often a part is tried [default: 3]
#   LAKEBED   the program [default: lakebed]
#
# The exit code is that of joining: 0 done, 3 done but partial, 1 parts are missing. To go on with a run that parts are
# missing of, give its RUN, and the same SHARDS or HOSTS and paths.
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: shards.sh PATH..." >&2; exit 2; }

read -ra hosts <<<"${HOSTS:-}"
count=${#hosts[@]}
[ "$count" -gt 0 ] || count=${SHARDS:-4}
run=${RUN:-$(date -u +%Y-%m-%dT%H:%M:%SZ)-$RANDOM}
name=${NAME:-$(uname -n)}
lakebed=${LAKEBED:-lakebed}

# Runs one part, once.
once() {
  local part=$1
  shift
  local command=("$lakebed" backup --quiet --shard "$part/$count" --shard-run "$run" --host "$name" -- "$@")
  if [ ${#hosts[@]} -gt 0 ]; then
    ssh -- "${hosts[part]}" "set -a; . ${REMOTE_ENV:-/etc/lakebed.env}; exec ${command[*]@Q}" </dev/null
  else
    "${command[@]}" </dev/null
  fi
}

# Runs one part until it is saved: 0 is done, 3 is done with something that could not be read.
part() {
  local try code
  for ((try = 1; try <= ${TRIES:-3}; try++)); do
    code=0
    once "$@" || code=$?
    case $code in
      0 | 3) return 0 ;;
      130) return 130 ;;
    esac
    echo "part $1/$count of $run: try $try failed with exit code $code" >&2
  done
  return 1
}

echo "run $run: $count parts"
for ((i = 0; i < count; i++)); do
  part "$i" "$@" &
done
# whether all are there is asked below
wait

# Whoever is last has joined them already. Then this only says so; else it names the parts that are missing.
exec "$lakebed" snapshots join "$run"
