"""Writes /tmp/orthanc.json of ORTHANC__SECTION__KEY and of /run/secrets, by the rules that the true image documents.

Files ORTHANC__... in /run/secrets are variables, files *.json are read first; a plugin is moved to its place where it
is wanted, which ends with an error where that place can not be written.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

SHARE = Path("/usr/share/orthanc")
SECRETS = Path("/run/secrets")
DEFAULTS = {
    "StorageDirectory": "/var/lib/orthanc/db",
    "RemoteAccessAllowed": True,
    "AuthenticationEnabled": True,
    "HttpsCACertificates": "/etc/ssl/certs/ca-certificates.crt",
    "Plugins": [f"{SHARE}/plugins/"],
}
# By section, or by the setting that asks for it: the variable that enables it, and its files.
PLUGINS = {
    "DicomWeb": ("DICOM_WEB_PLUGIN_ENABLED", ["libOrthancDicomWeb.so"]),
    "PostgreSQL": (
        "POSTGRESQL_PLUGIN_ENABLED",
        ["libOrthancPostgreSQLIndex.so", "libOrthancPostgreSQLStorage.so"],
    ),
    "PythonScript": ("PYTHON_PLUGIN_ENABLED", ["libOrthancPython.so"]),
}
ENABLED_BY_ITSELF = {
    "GDCM_PLUGIN_ENABLED": "libOrthancGdcm.so",
    "ORTHANC_EXPLORER_2_ENABLED": "libOrthancExplorer2.so",
}


def name_of(words):
    return "PostgreSQL" if words == "POSTGRESQL" else "".join(word.capitalize() for word in words.split("_"))


def merge(into, more):
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def set_variable(configuration, variable, value):
    with suppress(ValueError):
        value = json.loads(value)
    for part in reversed(variable.removeprefix("ORTHANC__").split("__")):
        value = {name_of(part): value}
    merge(configuration, value)


def main():
    configuration = {}
    for file in sorted(SECRETS.glob("*.json")) if SECRETS.exists() else ():
        merge(configuration, json.loads(file.read_text()))
    for variable, value in os.environ.items():
        if variable.startswith("ORTHANC__"):
            set_variable(configuration, variable, value)
    for file in SECRETS.glob("ORTHANC__*"):
        set_variable(configuration, file.name, file.read_text().rstrip("\n"))
    for key, value in DEFAULTS.items():
        configuration.setdefault(key, value)
    wanted = [
        lib
        for key, (enabled_by, libs) in PLUGINS.items()
        if key in configuration or os.environ.get(enabled_by, "false") != "false"
        for lib in libs
    ]
    wanted += [lib for name, lib in ENABLED_BY_ITSELF.items() if os.environ.get(name, "true") != "false"]
    for lib in wanted:
        if not (SHARE / "plugins" / lib).is_file():
            (SHARE / "plugins-available" / lib).rename(SHARE / "plugins" / lib)
    Path("/tmp/orthanc.json").write_text(json.dumps(configuration, indent=2))


main()
