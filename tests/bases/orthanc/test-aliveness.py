"""Ends with 0 where Orthanc answers /changes, as the true image's probe: with what /tmp/orthanc.json says."""

import base64
import json
import urllib.request
from pathlib import Path

configuration = json.loads(Path("/tmp/orthanc.json").read_text())
request = urllib.request.Request(f"http://localhost:{configuration.get('HttpPort', 8042)}/changes?last")
for user, password in configuration.get("RegisteredUsers", {}).items():
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    request.add_header("Authorization", f"Basic {token}")
    break
urllib.request.urlopen(request)
