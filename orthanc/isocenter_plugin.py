# Isocenter's script for Orthanc's Python plugin
#
# SPDX-License-Identifier: AGPL-3.0-or-later
#
# This program is free software: you can redistribute it and/or modify it under the terms of the GNU Affero
# General Public License as published by the Free Software Foundation, either version 3 of the License, or
# (at your option) any later version. It is distributed in the hope that it will be useful, but WITHOUT ANY
# WARRANTY; without even the implied warranty of MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See
# the file LICENSE beside this one.
"""The script that Orthanc's plugin loads (`PythonScript`): the only one that imports the host's module."""

import orthanc
from nudger import install

install(orthanc)
