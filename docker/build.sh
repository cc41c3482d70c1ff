#!/usr/bin/env bash
# Builds the image: docker/build.sh [cuda|cpu] [docker build option ...]
#
#   docker/build.sh                      asr-service:cuda, for NVIDIA GPUs
#   docker/build.sh cpu                  asr-service:cpu
#   PREFETCH_MODEL=nvidia/stt_en_fastconformer_hybrid_large_streaming_multi docker/build.sh
#                                        with the model inside: starts without a network
# ASR_IMAGE names the image otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."

flavour=cuda
case ${1:-} in
  cuda | cpu)
    flavour=$1
    shift
    ;;
  -h | --help)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "docker/$(basename "$0")"
    exit 0
    ;;
  -* | '') ;;
  *)
    echo "build.sh: '$1' is neither cuda nor cpu" >&2
    exit 2
    ;;
esac

file=docker/Dockerfile
[ "$flavour" = cuda ] || file=docker/Dockerfile.$flavour
exec docker build --file "$file" --tag "${ASR_IMAGE:-asr-service:$flavour}" \
  --build-arg "PREFETCH_MODEL=${PREFETCH_MODEL:-}" "$@" .
