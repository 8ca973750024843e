#!/bin/sh
# What a container of the image does, by its first word; anything else is a command of closingbell.
#
#   server          the Prefect server, on port 4200
#   worker TYPE     takes runs and starts them: TYPE is process (in this container) or kubernetes
#   bootstrap       makes work pool, limits and deployments on the server that PREFECT_API_URL names
#   bootstrap kubernetes [--image IMAGE] [--namespace NAME]    the same with a work pool whose runs are Kubernetes jobs
#   market          the stand-in market, on port 8787
#   healthy [PORT/PATH]    whether the server, worker or market of this container answers
#   prefect, python, sh    that program
#
# A secret may come in a file: NAME_FILE names it, where NAME is one of those below.
set -eu

NAMES="DATABASE_URL POLYGON_API_KEY POLYGON_FLATFILES_KEY POLYGON_FLATFILES_SECRET DATABENTO_API_KEY
  PREFECT_API_KEY PREFECT_API_AUTH_STRING PREFECT_SERVER_API_AUTH_STRING
  PREFECT_SERVER_DATABASE_CONNECTION_URL PREFECT_SERVER_ENCRYPTION_KEY"

for name in $NAMES; do
  eval "file=\${${name}_FILE:-}"
  [ -n "$file" ] || continue
  if ! value="$(cat "$file")"; then
    echo "error: ${name}_FILE cannot be read. Its file has to be readable for user $(id -u)." >&2
    exit 2
  fi
  if [ -n "$value" ]; then # an empty file is as good as none
    eval "set=\${$name:+yes}"
    if [ -n "$set" ]; then
      echo "error: both $name and ${name}_FILE are set. Unset one of them." >&2
      exit 2
    fi
    export "$name=$value"
  fi
  unset "${name}_FILE" value
done

# What stands in the image is read where it stands, and nothing is written there.
app="$(cd "$(dirname "$0")/../.." && pwd)"
role="${1:---help}"
[ $# -eq 0 ] || shift

case "$role" in
  server)
    # Whoever held it is dead. Prefect would tell by a process id, which a container gives out again: a server that
    # finds its own there waits for itself, and no call is ever let through.
    rm -f "${PREFECT_HOME:-$HOME/.prefect}/concurrency_leases/expirations.lock"
    cd "$app" # prefect.toml
    # To all of the container's network: who reaches it is decided by what is published.
    export PREFECT_SERVER_API_HOST="${PREFECT_SERVER_API_HOST:-0.0.0.0}"
    exec prefect server start "$@"
    ;;
  worker)
    type="${1:-process}"
    [ $# -eq 0 ] || shift
    cd "$app"
    exec prefect worker start --pool closingbell --type "$type" --install-policy never --with-healthcheck "$@"
    ;;
  bootstrap)
    cd "$app"
    if [ "${1:-}" = kubernetes ]; then
      shift
      python -m deployments.kubernetes_pool "$@"
    fi
    exec python -m deployments.register
    ;;
  market) exec closingbell market --host 0.0.0.0 --port 8787 "$@" ;;
  healthy)
    exec python - "$@" <<'PYTHON'
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

# Of server, worker and market; a container is one of them.
for address in sys.argv[1:] or ("4200/api/health", "8080/health", "8787/_market/health"):
    try:
        with urlopen(f"http://127.0.0.1:{address}", timeout=5):
            sys.exit(0)
    except HTTPError as error:
        sys.exit(f"unhealthy: {address} answers {error.code}")
    except OSError:
        continue
sys.exit("unhealthy: nothing answers")
PYTHON
    ;;
  prefect | python | sh) exec "$role" "$@" ;;
  *) exec closingbell "$role" "$@" ;;
esac
