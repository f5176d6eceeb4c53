#!/usr/bin/env bash
# Copies Ray's logs from a node's own disk to the shared folder, because they end with the node otherwise.
#
#   ship-logs.sh /tmp/ray /shared/logs/NODE    # every minute, and a last time when it is ended
#
# SHIP_SECONDS sets the pause; 0 copies once.
# One folder per session of Ray. The copies are readable by the run's user alone: logs repeat settings.
set -euo pipefail
umask 077
from=${1:?name the folder of Ray, for example /tmp/ray} to=${2:?name the folder to copy to}

ship() {
  local logs session
  for logs in "$from"/session_[0-9]*/logs; do
    [[ -d $logs ]] || continue
    session=$(basename "$(dirname "$logs")")
    mkdir -p "$to/$session"
    # Files that Ray removes or rotates meanwhile are no reason to stop: the next round copies what is there.
    cp --recursive --update --no-preserve=mode "$logs/." "$to/$session/" || true
  done
}

nap=
trap 'kill "$nap" 2> /dev/null || true; ship; exit 0' TERM INT
ship
while ((${SHIP_SECONDS:-60})); do
  sleep "${SHIP_SECONDS:-60}" &
  nap=$!
  wait "$nap"
  ship
done
