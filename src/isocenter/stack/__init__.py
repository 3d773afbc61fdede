"""The embedded stack: Orthanc, Triton, worker and gateway as watched child processes."""
