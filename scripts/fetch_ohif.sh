#!/bin/sh
# Fetches OHIF's built viewer (npm package @ohif/app, MIT licence), checks it, and unpacks it.
#   scripts/fetch_ohif.sh [FOLDER]      FOLDER: default .cache/ohif; the viewer is then in FOLDER/dist
# With OHIF_TARBALL=FILE an already downloaded ohif-app-<version>.tgz is used, and no network.
set -eu

version=3.13.2
integrity=WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==

folder=${1:-.cache/ohif}
if [ "$(cat "$folder/version" 2>/dev/null || true)" = "$version" ]; then
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "${OHIF_TARBALL:-}" ]; then
    cp "$OHIF_TARBALL" "$work/ohif.tgz"
elif command -v npm >/dev/null; then
    echo "fetching OHIF $version (50 MB) from the npm registry" >&2
    (cd "$work" && npm pack --silent "@ohif/app@$version" >/dev/null && mv ./*.tgz ohif.tgz) || {
        echo "OHIF $version could not be fetched from the npm registry. All but the viewer works without it;" \
            "try again, or give a downloaded package: OHIF_TARBALL=ohif-app-$version.tgz $0" >&2
        exit 1
    }
else
    echo "npm is missing, so OHIF can not be fetched: the viewer and its browser test will not work, all else" \
        "does (routing, inference, results in Orthanc, the list of jobs). To get it: apt-get install npm" >&2
    exit 1
fi

found=$(openssl dgst -sha512 -binary "$work/ohif.tgz" | openssl base64 -A)
if [ "$found" != "$integrity" ]; then
    echo "the fetched OHIF $version is not the one that was pinned (sha512 $found); it was not unpacked" >&2
    exit 1
fi

mkdir "$work/new"
tar -xzf "$work/ohif.tgz" -C "$work/new" --strip-components=1
# What is large and can be squeezed is kept squeezed as well: 17 MB of script become 4 MB on the wire.
find "$work/new/dist" -type f \( -name '*.js' -o -name '*.css' -o -name '*.wasm' -o -name '*.svg' \) -size +2k \
    -not -path '*/ort/*' -exec gzip -9 --keep {} +
find "$work/new/dist" -name '*.map' -delete
echo "$version" >"$work/new/version"
mkdir -p "$(dirname "$folder")"
rm -rf "$folder.old"
if [ -e "$folder" ]; then mv "$folder" "$folder.old"; fi
mv "$work/new" "$folder"
rm -rf "$folder.old"
echo "OHIF $version is in $folder/dist" >&2
