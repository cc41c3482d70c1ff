# Lets this Envoy end without cutting a stream: drain.sh NEWS_SECONDS LONGEST_SECONDS, before it gets SIGTERM.
# It goes on for NEWS_SECONDS, while the news that it is gone spreads; then connections are told to make their next stream
# elsewhere, and it waits until the last stream is over, for LONGEST_SECONDS at most. Needs bash alone.
set -u
admin=127.0.0.1/${ENVOY_ADMIN_PORT:-9901}

ask() { # METHOD PATH: prints the answer
  exec 3<> "/dev/tcp/$admin" || return
  printf '%s %s HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
  while IFS= read -r line <&3; do
    printf '%s\n' "$line"
  done
  exec 3>&-
}

open_streams() {
  local count=0 name value
  while IFS=' ' read -r name value; do
    case $name in
      http.*.downstream_rq_active:) count=$((count + ${value//[!0-9]/})) ;;
    esac
  done < <(ask GET '/stats?filter=%5Ehttp%5C.(grpc%7Cwebsocket%7Ctls)%5C.downstream_rq_active%24')
  echo "$count"
}

sleep "$1"
ask POST '/drain_listeners?graceful&skip_exit' > /dev/null
until [ "$SECONDS" -ge $(($1 + $2)) ]; do
  [ "$(open_streams)" -gt 0 ] || break
  sleep 1
done
