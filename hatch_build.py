"""Refuse to build a wheel that is not editable: `model.py` would land in site-packages under a name that others use
too."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EditableOnly(BuildHookInterface):
    """The hook that pyproject.toml names."""

    def initialize(self, version: str, _build_data: dict[str, Any]) -> None:
        """version: `editable` or `standard`."""
        if version != "editable":
            raise RuntimeError("expected `pip install -e .`, found an install that copies; the scripts run from here")
