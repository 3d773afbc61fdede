#!/usr/bin/env bash
# Makes the secrets of compose.yaml, once: the files that are there already are kept.
#
#   docker/secrets.sh [FOLDER]      docker/secrets where none is named
#
# The folder is its owner's alone. The files in it can be read by everybody who gets into it, because in a container
# they are read by users that this machine does not know.
set -euo pipefail
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"

password() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; } # 192 bits, of which none has to be escaped anywhere

put() { # put FILE CONTENT
  [ -e "$folder/$1" ] || printf '%s\n' "$2" >"$folder/$1"
  chmod 644 "$folder/$1"
}

put database_password "$(password)"
put orthanc_password "$(password)"
put database_url "postgresql://isocenter:$(cat "$folder/database_password")@postgres:5432/isocenter"
put orthanc_users.json "{\"RegisteredUsers\": {\"isocenter\": \"$(cat "$folder/orthanc_password")\"}}"
echo "the secrets are in $folder"
