#!/usr/bin/env bash
# Puts back what docker/backup.sh has kept, on a machine where compose.yaml has kept nothing yet: docs/backup.md.
#
#   docker/restore.sh FOLDER [PROFILE]
#
# Refuses where a volume is there already: remove it first (docker compose down --volumes), if nothing in it is wanted.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?which folder? docker/restore.sh FOLDER [PROFILE]}
profile=${2:-cpu}
compose() { docker compose --file "$here/compose.yaml" --profile "$profile" "$@"; }
volume() { docker run --rm --interactive --user 0 --entrypoint tar --volume "isocenter_$1:/volume" isocenter/gateway:0.1.0 --extract --directory /volume; }

(cd "$folder" && sha256sum --check --quiet SHA256SUMS)
for name in database storage data models; do
  if docker volume inspect "isocenter_$name" >/dev/null 2>&1; then
    echo "the volume isocenter_$name is there already: nothing was restored" >&2
    exit 1
  fi
done
mkdir -p "$here/secrets"
chmod 700 "$here/secrets"
cp "$folder"/secrets/* "$here/secrets/"
cp "$folder/isocenter.yaml" "$here/"
for name in storage data models; do volume "$name" <"$folder/$name.tar"; done
compose up --detach --wait postgres
put() { compose exec -T postgres pg_restore --username=isocenter --no-owner --exit-on-error --dbname="$1" <"$folder/$1.dump"; }
put isocenter
case $profile in scale*) put orthanc ;; esac
compose up --detach --wait
echo "restored from $folder"
