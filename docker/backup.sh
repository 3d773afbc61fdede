#!/usr/bin/env bash
# Backs up all that compose.yaml keeps, while it runs: docs/backup.md.
#
#   docker/backup.sh FOLDER [PROFILE]     FOLDER is new; PROFILE is cpu where none is named
#
# The database comes first and the archive after it. What happens in between is then in the archive and not in the
# database, which is found out and done again; the other way round the database would tell of results that are nowhere.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?which folder? docker/backup.sh FOLDER [PROFILE]}
profile=${2:-cpu}
compose() { docker compose --file "$here/compose.yaml" --profile "$profile" "$@"; }
# A volume as a tar on stdout, by an image that is here anyway. Tar ends with 1 where a file was changed or removed
# meanwhile, as they are while all else runs.
volume() {
  docker run --rm --user 0 --entrypoint tar --volume "isocenter_$1:/volume:ro" isocenter/gateway:0.1.0 \
    --create --directory /volume . || [ $? -eq 1 ]
}

mkdir -m 700 "$folder" # fails where it is there already
dump() { compose exec -T postgres pg_dump --username=isocenter --format=custom "$1" >"$folder/$1.dump"; }

dump isocenter
case $profile in
  scale*)
    # Images are written before the index knows them, so the index comes first.
    dump orthanc
    volume storage >"$folder/storage.tar"
    ;;
  *)
    # Its index is a file that must not change meanwhile. A modality that is refused sends again.
    compose stop orthanc
    trap 'compose start orthanc' EXIT
    volume storage >"$folder/storage.tar"
    compose start orthanc
    trap - EXIT
    ;;
esac
volume data >"$folder/data.tar"
volume models >"$folder/models.tar"
cp -r "$here/secrets" "$here/isocenter.yaml" "$folder/"
(cd "$folder" && sha256sum ./*.dump ./*.tar >SHA256SUMS)
echo "the backup is in $folder; it holds patients' images and the passwords"
