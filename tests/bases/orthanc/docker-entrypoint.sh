#!/usr/bin/env bash
# As the true image starts: the configuration is made of variables and secrets, and Orthanc takes the place of this.
set -o errexit
if [[ ${GENERATE_HOST_ID_IF_MISSING:-true} == true && $(</etc/hostid) == not-generated ]]; then
  printf '%x\n' "$RANDOM$RANDOM" >/etc/hostid
fi
cd /startup
python3 configuration.py
exec Orthanc ${VERBOSE_ENABLED:+--verbose} "$@"
