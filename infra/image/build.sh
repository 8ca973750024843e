#!/bin/sh
# The steps that make the image, apart from copying files. They need a Python and no container, so a test runs them.
#
#   build.sh dependencies VENV    a virtual environment with what requirements.lock beside this file holds, by its hashes
#   build.sh application VENV APP    closingbell, as it stands in APP, into that environment
#
# PYTHON names the interpreter, python3 unless set.
set -eu

here="$(cd "$(dirname "$0")" && pwd)"

usage() {
  sed -n '4,5s/^#   //p' "$0" >&2
  exit 2
}

quiet_pip() {
  "$venv/bin/python" -m pip --disable-pip-version-check --no-input --no-cache-dir "$@"
}

dependencies() {
  "${PYTHON:-python3}" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' || {
    echo "closingbell needs Python 3.11 to 3.14; ${PYTHON:-python3} is none of them" >&2
    exit 1
  }
  "${PYTHON:-python3}" -m venv "$venv"
  # --no-deps: the lock is complete. Nothing is built here: whoever builds runs code that no hash covers.
  quiet_pip install --quiet --no-deps --only-binary :all: --require-hashes -r "$here/requirements.lock"
  quiet_pip check
}

application() {
  # In place: prefect.yaml stands beside the packages, and `prefect deploy` runs where it stands.
  quiet_pip install --quiet --no-deps --no-build-isolation -e "$app"
  quiet_pip check
  # Nobody can write these files later, so Python would compile them at each start.
  "$venv/bin/python" -m compileall -q "$app/closingbell" "$app/tasks" "$app/flows" "$app/deployments" "$app/infra"
  # Nothing in the finished image installs anything.
  quiet_pip uninstall --quiet --yes setuptools pip
  "$venv/bin/closingbell" --version
}

case "${1:-}" in
  dependencies) [ $# -eq 2 ] || usage; venv="$2"; dependencies ;;
  application) [ $# -eq 3 ] || usage; venv="$2"; app="$3"; application ;;
  *) usage ;;
esac
