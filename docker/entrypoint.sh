#!/bin/sh
# What the container runs, by its first word; the rest are options of that program. Settings come from ASR_* variables.
#   all      service and bridge in one container; the container ends when one of them does (default)
#   service  gRPC service
#   bridge   WebSocket bridge; ASR_GRPC_TARGET says where the service is
# Anything else is run as a command. `exec` throughout: the program gets the signals, and its exit code is the container's.
set -eu

here=$(dirname "$0")
serve=$here/serve.py
[ -f "$serve" ] || serve=$here/../tools/serve.py # in a checkout

role=${1:-all}
[ $# -eq 0 ] || shift
# For healthcheck.py, which Docker starts beside the program. Where nothing can be written, it needs to be told.
noted=${TMPDIR:-/tmp}/asr-role
case $role in
  all | service | bridge) echo "$role" 2> /dev/null > "$noted" || : ;;
esac
case $role in
  all)
    if [ $# -ne 0 ]; then
      echo "entrypoint: 'all' takes its settings from ASR_* variables, not from options: $*" >&2
      exit 2
    fi
    exec python3 "$serve"
    ;;
  service) exec python3 -m asr_service "$@" ;;
  bridge) exec python3 -m ws_bridge "$@" ;;
  *) exec "$role" "$@" ;;
esac
