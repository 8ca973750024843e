#!/bin/sh
# Runs the store's tests on Oracle Free in a container, which is removed again.
#
#   infra/oracle/test.sh PYTHON [arguments for pytest]
#
# ORACLE_IMAGE chooses another image of the same maker. The first pull is about 1.5 GB, the start takes a minute or two.
set -eu

image="${ORACLE_IMAGE:-gvenzl/oracle-free:23.9-slim-faststart}"
patience="${ORACLE_PATIENCE:-600}" # seconds for the start
user=closingbell
python="$1"
shift

if ! docker info >/dev/null 2>&1; then
  echo "make test-oracle starts Oracle in a container, and no Docker answers here." >&2
  echo "Start Docker; or set CLOSINGBELL_TEST_ORACLE_URL to the URL of a user who owns nothing, and: make test" >&2
  exit 1
fi

secret() { od -An -N12 -tx1 /dev/urandom | tr -d ' \n'; }
ORACLE_PASSWORD="a$(secret)" # pragma: allowlist secret
APP_USER_PASSWORD="a$(secret)" # pragma: allowlist secret
export ORACLE_PASSWORD APP_USER_PASSWORD # docker takes them from here: they stand in no command line

name="closingbell-oracle-$$"
trap 'docker rm --force --volumes "$name" >/dev/null 2>&1 || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

docker run --detach --name "$name" --publish 127.0.0.1::1521 \
  --env ORACLE_PASSWORD --env APP_USER="$user" --env APP_USER_PASSWORD "$image" >/dev/null

echo "waiting for $image"
began="$(date +%s)"
# It is healthy a little before its user is made; this line is its last.
until docker logs "$name" 2>&1 | grep -q "DATABASE IS READY TO USE"; do
  running="$(docker inspect --format '{{.State.Running}}' "$name")"
  if [ "$running" != true ] || [ "$(($(date +%s) - began))" -ge "$patience" ]; then
    docker logs --tail 30 "$name" >&2
    echo "Oracle did not start within $patience s" >&2
    exit 1
  fi
  sleep 2
done

address="$(docker port "$name" 1521/tcp | head -n 1)"
CLOSINGBELL_TEST_ORACLE_URL="oracle+oracledb://$user:$APP_USER_PASSWORD@$address/?service_name=FREEPDB1"
export CLOSINGBELL_TEST_ORACLE_URL
"$python" -m pytest tests/store -m oracle "$@"
