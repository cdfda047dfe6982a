"""Configuration: frozen dataclasses, one per component, the loader, and the YAML files that ship."""
