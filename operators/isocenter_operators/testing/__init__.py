"""What users need to test their own applications: the thorax phantom and its exact truth."""
