"""Where the wheel's packages lie; all else about them is in pyproject.toml.

The folders service and models are pellucid.service and pellucid.models in the wheel: top-level packages of these names
would shadow, or be shadowed by, the folders of a user's own project. Code that trains stays in the repository.
"""

from setuptools import find_packages, setup

inside = find_packages(include=["models*", "service*"], exclude=["models.training"])
setup(packages=[*find_packages(include=["pellucid*"]), *(f"pellucid.{name}" for name in inside)])
