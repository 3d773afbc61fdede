"""The warm process that keeps MONAI Deploy imported and runs the applications' graphs."""
