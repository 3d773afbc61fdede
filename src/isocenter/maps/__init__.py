"""MONAI Application Packages: container images that hold an application, its models and what it says of itself.

Images are read and written here without a container engine: OCI layouts, archives of these, and what `docker save`
makes (https://github.com/opencontainers/image-spec, version 1.1).
"""
