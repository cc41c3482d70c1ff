#!/usr/bin/env bash
# Runs the image: docker/run.sh [cuda|cpu] [all|service|bridge [option ...]]
#
#   docker/run.sh cpu                service and bridge in one container: clients connect to the ports below, and a
#                                    browser that opens http://localhost:8080/ has a page to speak into
#   docker/run.sh cuda service       each in a container of its own, side by side; unless ASR_GRPC_TARGET says
#   docker/run.sh cpu bridge         otherwise, the bridge looks for the service at ASR_GRPC_PORT of this machine
#
# Every ASR_* variable of this shell is handed on. Some mean this machine, and become what is right in the container:
#   ASR_PORT (8080), ASR_GRPC_PORT (50051), ASR_METRICS_PORT (none)   published, each by the role that has it, at
#   ASR_BRIDGE_METRICS_PORT (none)                                    these addresses:
#   ASR_HOST (all addresses), ASR_METRICS_HOST and ASR_BRIDGE_METRICS_HOST (127.0.0.1)
#   ASR_MODEL=/path/to/model.nemo                                     mounted read-only, each of several
#   certificates, keys, ASR_API_KEYS_FILE                             mounted read-only; user 10001 has to be able to
#                     read them. A file that is replaced, not written to, is seen when the container starts anew.
# Options after the role are the program's: ports, files and times given there are not known here.
# Stopping takes ASR_DRAIN_S (30) and ASR_BRIDGE_CLOSE_S (10) at most; so long the container is given, and 5 s more.
# Models are kept in the volume asr-models, and fetched with this shell's HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN.
# ASR_IMAGE names another image, CONTAINER_ENGINE another program than docker, such as podman.
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
role=${1:-all}

refuse() {
  echo "run.sh: $1" >&2
  exit 2
}

# Whole seconds of a setting: VALUE NAME
seconds() {
  local whole
  whole=$(LC_ALL=C printf '%.0f' "$1" 2> /dev/null) || refuse "$2=$1 should be a number of seconds"
  echo "$whole"
}

# Publishes a port under the same number: PORT [ADDRESS]
publish() {
  local address=${2:-}
  [[ $address == *:* ]] && address="[$address]"
  options+=(--publish "${address:+$address:}$1:$1")
}

# Publishes a program's own port, and that of its metrics if it has one: PORT PREFIX (of its metrics' settings)
publish_both() {
  local metrics=$2_METRICS_PORT host=$2_METRICS_HOST
  publish "$1" "${ASR_HOST:-}"
  if [ "${!metrics:-0}" != 0 ]; then
    publish "${!metrics}" "${!host:-127.0.0.1}"
    options+=(--env "$host=0.0.0.0")
  fi
}

# Mounts the file that a setting names, and tells the program where: NAME TARGET
mount_file() {
  [ -f "${!1}" ] || refuse "$1=${!1}: no such file"
  options+=(--volume "$(realpath "${!1}"):$2:ro" --env "$1=$2")
}

options=(--rm --init --volume asr-models:/var/lib/asr/models)
drain=$(seconds "${ASR_DRAIN_S:-30}" ASR_DRAIN_S)
close=$(seconds "${ASR_BRIDGE_CLOSE_S:-10}" ASR_BRIDGE_CLOSE_S)
options+=(--stop-timeout $((drain + close + 5)))
[ -t 0 ] && [ -t 1 ] && options+=(--interactive --tty)
[ "$flavour" = cuda ] && [ "$role" != bridge ] && options+=(--gpus all)
case $role in
  all | service) publish_both "${ASR_GRPC_PORT:-50051}" ASR ;;
esac
case $role in
  all | bridge) publish_both "${ASR_PORT:-8080}" ASR_BRIDGE ;;
esac
if [ "$role" = bridge ] && [ -z "${ASR_GRPC_TARGET:-}" ]; then
  options+=(--add-host host.docker.internal:host-gateway)
  options+=(--env "ASR_GRPC_TARGET=host.docker.internal:${ASR_GRPC_PORT:-50051}")
fi
while IFS= read -r name; do
  [ -n "${!name}" ] || continue # as not set
  case $name in
    # Not the programs': this script's, a client's. And what was seen to above.
    ASR_IMAGE | ASR_API_KEY | ASR_HOST | ASR_METRICS_HOST | ASR_BRIDGE_METRICS_HOST) ;;
    ASR_MODEL)
      models='' copies=1
      IFS=';' read -ra names <<< "$ASR_MODEL"
      for model in "${names[@]}"; do
        read -r model <<< "$model" # without spaces around it
        if [ -f "$model" ]; then
          target=/model/$(basename "$model")
          case ";$models;" in
            *";$target;"*) target=/model/$((++copies))/$(basename "$model") ;; # another one of that name
          esac
          options+=(--volume "$(realpath "$model"):$target:ro")
          model=$target
        fi
        models+=${models:+;}$model
      done
      options+=(--env "ASR_MODEL=$models")
      ;;
    ASR_TLS_CERT | ASR_TLS_KEY | ASR_TLS_CLIENT_CA | ASR_API_KEYS_FILE | ASR_GRPC_CA | ASR_GRPC_CERT | ASR_GRPC_KEY | \
      ASR_BRIDGE_TLS_CERT | ASR_BRIDGE_TLS_KEY)
      mount_file "$name" "/etc/asr/$name"
      ;;
    *) options+=(--env "$name") ;;
  esac
done < <(compgen -e ASR_)
for name in HF_ENDPOINT HF_HUB_OFFLINE HF_TOKEN; do
  [ -z "${!name:-}" ] || options+=(--env "$name")
done

exec "${CONTAINER_ENGINE:-docker}" run "${options[@]}" "${ASR_IMAGE:-asr-service:$flavour}" "$@"
