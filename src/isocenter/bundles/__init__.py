"""MONAI bundles: read without running them, and made into models and applications."""
