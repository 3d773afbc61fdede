"""MONAI Application Packages: images that carry an application, its models and what they need, and say so."""
