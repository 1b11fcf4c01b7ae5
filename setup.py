"""Packaging of tfcontrast; the settings of the tools are in pyproject.toml."""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

TENSORFLOW_BUILDS = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")


def version() -> str:
    """Reads the version as text, so that building does not import TensorFlow."""
    text = (ROOT / "tfcontrast" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


def tensorflow() -> list[str]:
    """The TensorFlow to require: TFCONTRAST_TENSORFLOW names another build, and empty means none.

    An environment variable reaches pip's isolated builds; what is installed cannot be seen there.
    """
    build = os.environ.get("TFCONTRAST_TENSORFLOW", "tensorflow")
    if not build:
        return []
    if build not in TENSORFLOW_BUILDS:
        raise SystemExit(
            f"TFCONTRAST_TENSORFLOW must be empty or one of {', '.join(TENSORFLOW_BUILDS)}. "
            f"Received: {build!r}"
        )
    # 2.19: the first one that is tested; 2.22 is not released.
    return [f"{build}>=2.19,<2.22"]


def long_description() -> str:
    """The README, where there is one."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="tfcontrast",
    version=version(),
    description="Contrastive and self-supervised learning of image representations in TensorFlow.",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["tfcontrast", "tfcontrast.*"]),
    entry_points={"console_scripts": ["tfcontrast = tfcontrast.run:main"]},
    install_requires=[
        *tensorflow(),
        "keras>=3.12",  # what TensorFlow 2.21 asks for
        "tensorflow-datasets>=4.9.10",  # no earlier one is tested
        "importlib_resources",  # TFDS 4.9.10 imports it without requiring it
        "absl-py",
        "tensorboard",
        "tqdm",  # the progress bar; TFDS brings it anyway
        "scikit-learn",  # the digits data set and the probes
        "pillow",
        "numpy",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist",
            "pytest-cov",
            # These three judge the code, so everybody has the same.
            "ruff==0.17.6",
            "mypy==2.4.1",
            "import-linter==2.16",
            "build",
            "scikit-image",  # the reference of colour and geometry
            # The reference of the exported modules, with what its last release needs: Keras 2 and
            # pkg_resources, which setuptools 82 dropped.
            "tensorflow-hub==0.16.1",
            "tf-keras",
            "setuptools<82",
        ],
        "addons": [
            # An independent reference for image ops, to compare by hand. The project ended in 2024;
            # this last nightly is the only one that imports beside Keras 3, up to Python 3.11.
            'tfa-nightly==0.23.0.dev20240415222534; python_version < "3.12"',
        ],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
