"""The toy metric's part in the export."""
