#!/usr/bin/env bash
# Builds the image: docker/build.sh [cuda|cpu] [docker build option ...]
#
#   docker/build.sh                      asr-service:cuda, for NVIDIA GPUs
#   docker/build.sh cpu                  asr-service:cpu
#   PREFETCH_MODEL=nvidia/stt_en_fastconformer_hybrid_large_streaming_multi docker/build.sh
#                                        with the model inside: starts without a network
# A model that is not everybody's takes a token: --secret id=hf_token,src=FILE; HF_ENDPOINT names another hub.
# An index of packages of one's own: --secret id=pip_conf,src=pip.conf --build-arg TORCH_INDEX=; what a proxy signs with:
# --secret id=ca_certificates,src=ca.pem, and in pip.conf `cert = /run/secrets/ca_certificates`. --build-arg WITH_NEMO=1
# has NeMo inside, --build-arg BASE=IMAGE another base.
# ASR_IMAGE names the image otherwise, CONTAINER_ENGINE another program than docker, such as podman.
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
# Docker before 23 asks for BuildKit by this; Podman keeps health checks in images of this form only.
export DOCKER_BUILDKIT=1 BUILDAH_FORMAT=docker
exec "${CONTAINER_ENGINE:-docker}" build --file "$file" --tag "${ASR_IMAGE:-asr-service:$flavour}" \
  --build-arg "PREFETCH_MODEL=${PREFETCH_MODEL:-}" --build-arg "HF_ENDPOINT=${HF_ENDPOINT:-}" "$@" .
