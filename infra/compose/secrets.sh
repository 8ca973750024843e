#!/bin/sh
# Makes the files of secrets that compose.yaml hands to its containers. What is there already stays.
#
#   secrets.sh [--oracle]
#
# --oracle: the bars go to Oracle Free (docker compose --profile oracle), in place of PostgreSQL.
# Put your key into secrets/polygon_api_key; while that is empty, runs work against a stand-in market.
set -eu

cd "$(dirname "$0")"
folder="${SECRETS:-secrets}"
database="postgresql://closingbell:password@database:5432/closingbell?sslmode=disable"
case "${1:-}" in
  "") ;;
  --oracle) database="oracle://closingbell:password@oracle:1521/FREEPDB1?protocol=tcp" ;;
  *)
    sed -n '4s/^#   //p' "$0" >&2
    exit 2
    ;;
esac

# Others cannot look into the folder. The files in it are readable, for a container's user is not the one who made them.
umask 022
mkdir -p "$folder"
chmod 700 "$folder"

password() { # of letters and digits, so that it stands in a URL as it is; it begins with a letter for Oracle
  [ -e "$folder/$1" ] || printf 'a%s' "$(od -An -N18 -tx1 /dev/urandom | tr -d ' \n')" >"$folder/$1"
}

url() {
  [ -e "$folder/$1" ] || printf '%s' "$2" | sed "s/:password@/:$(cat "$folder/$3")@/" >"$folder/$1"
}

for name in database_password prefect_database_password oracle_password; do password "$name"; done
url database_url "$database" database_password
url prefect_database_url "postgresql+asyncpg://prefect:password@prefect-database:5432/prefect" prefect_database_password
[ -e "$folder/polygon_api_key" ] || : >"$folder/polygon_api_key"
echo "secrets are in $(cd "$folder" && pwd)"
