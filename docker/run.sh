#!/usr/bin/env bash
# Runs service and bridge in one container: docker/run.sh [cuda|cpu] [all|service|bridge [option ...]]
#
# Every ASR_* variable of this shell is handed on; ASR_PORT (8080) and ASR_GRPC_PORT (50051) are published. Models are
# kept in the volume asr-models. ASR_MODEL=/path/to/model.nemo is mounted read-only. ASR_IMAGE names another image.
set -euo pipefail

flavour=cuda
case ${1:-} in
  cuda | cpu)
    flavour=$1
    shift
    ;;
  -h | --help)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
esac

options=(--rm --init --volume asr-models:/var/lib/asr/models)
# Longer than ASR_DRAIN_S, so that streams can finish before the container is killed.
options+=(--stop-timeout 40)
options+=(--publish "${ASR_PORT:-8080}:${ASR_PORT:-8080}" --publish "${ASR_GRPC_PORT:-50051}:${ASR_GRPC_PORT:-50051}")
[ -t 0 ] && [ -t 1 ] && options+=(--interactive --tty)
[ "$flavour" = cuda ] && options+=(--gpus all)
while IFS= read -r name; do
  case $name in
    ASR_IMAGE) ;;
    ASR_MODEL)
      if [ -f "$ASR_MODEL" ]; then
        file=$(realpath "$ASR_MODEL")
        options+=(--volume "$file:/model/$(basename "$file"):ro" --env "ASR_MODEL=/model/$(basename "$file")")
      else
        options+=(--env ASR_MODEL)
      fi
      ;;
    *) options+=(--env "$name") ;;
  esac
done < <(compgen -e ASR_)

exec docker run "${options[@]}" "${ASR_IMAGE:-asr-service:$flavour}" "$@"
