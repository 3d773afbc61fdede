# Sourced by scripts that take packages of a release of Debian which need not be this machine's. They have `work`, a
# folder, and `fail`, which says why a thing can not be made here.

# debian_release RELEASE TYPES [MIRROR]: `apt` is then apt-get with lists of its own, of this release alone, so that this
# machine's lists know nothing of it. TYPES: deb, or "deb deb-src". MIRROR is by default the one that apt has.
debian_release() {
  local keys=/usr/share/keyrings/debian-archive-keyring.gpg mirror type
  [ -e "$keys" ] || fail "$keys is not here, by which Debian's packages are known (apt-get install debian-archive-keyring)"
  mirror=${3:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' |
    grep --invert-match security | head -n 1)}
  [ -n "$mirror" ] || fail "apt knows no mirror of Debian (apt-get update)"
  mkdir -p "$work"/apt/{lists,cache,etc}/partial "$work/apt/parts"
  for type in $2; do echo "$type [signed-by=$keys] $mirror $1 main"; done >"$work/apt/sources.list"
  touch "$work/apt/status"
  apt=(apt-get --quiet -o "Dir::Etc::sourcelist=$work/apt/sources.list" -o "Dir::Etc::sourceparts=$work/apt/parts"
    -o "Dir::State::lists=$work/apt/lists" -o "Dir::State::status=$work/apt/status" -o "Dir::Cache=$work/apt/cache"
    -o APT::Sandbox::User=root -o Acquire::Languages=none)
  "${apt[@]}" update >"$work/log" 2>&1 || fail "$(grep '^[EW]: ' "$work/log" | tail -n 1)"
}
