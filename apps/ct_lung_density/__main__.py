"""`python apps/ct_lung_density`: a folder in, a folder out, as the environment of a MAP names them."""

import json
import sys

from app import application

from isocenter_operators.errors import IsocenterError

try:
    outcome = application().execute()
except IsocenterError as error:
    sys.exit(f"ct_lung_density: {error}")
if outcome.status == "not_applicable":
    sys.stderr.write(f"not applicable: {outcome.reason}\n")
sys.stdout.write(json.dumps([dict(group) for group in outcome.groups], indent=2) + "\n")
