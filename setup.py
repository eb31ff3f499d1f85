"""Packaging. Every version limit says why it is there."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "dcase_coherence" / "__init__.py").read_text("utf-8")
).group(1)
# The package has no address of its own: where its README is shown alone, what it links to in the
# repository is named, and pictures are left out.
README = re.sub(r"^!\[.*\n\n?", "", (ROOT / "README.md").read_text("utf-8"), flags=re.MULTILINE)
README = re.sub(r"\[([^]]*)\]\((?!\w+:)[^)]*\)", r"\1", README)

RECIPES = [
    # torchaudio does not load beside any torch, and pip does not know which belong together: this
    # one was run beside this one, which needs Python 3.11.
    "torch>=2.15,<2.16",
    "torchaudio==2.11.1",
    "pytorch-lightning>=2.6,<2.7",  # the hooks the trainer relies on were run on 2.6
    "numpy",
    "pandas>=2",
    "scipy>=1.11",  # confidence_interval of ttest_ind
    "soundfile",
    "matplotlib>=3.10",  # orientation of a boxplot
    "plotly>=6",  # the page of detect.py, with the script in it
    "pyyaml",
    "tensorboard",
    "torchmetrics",  # stands in for a metric of Lightning 1.2 in the official code
    "filelock",
    "joblib>=1.3",  # the first whose results come one by one
    "tqdm",
]
# dcase_util, of sed_eval, sed_scores_eval and desed, imports pkg_resources: setuptools warns of it
# from 80.9 on, and has none from 82 on.
SETUPTOOLS = "setuptools<80.9"
# The libraries that define the scores of a test, with what they need to run.
VERIFY = [
    "sed_eval>=0.2.1",
    "psds_eval==0.5.3",  # the last release
    "numpy<2.4",  # psds_eval turns an array into an int, an error from 2.4 on
    "pandas>=2,<3",  # psds_eval fills gaps with fillna(method=...), gone in 3
    SETUPTOOLS,
]
DESED = [
    "desed>=1.3.8",  # brings scaper, whose soxbindings need the libsox headers to build
    "numpy<2",  # scaper 1.6.5, the last release, takes np.Inf, gone in 2
    "pandas<3",  # neither was run with it
    SETUPTOOLS,
]
EXACT = ["sed_scores_eval>=0.0.4", SETUPTOOLS]
TUNE = [
    "optuna>=4.9",  # the first with RetryHeartbeatStaleTrialCallback
    "sqlalchemy>=2",  # the first that knows psycopg
]
POSTGRES = ["psycopg[binary]"]
DOCS = [
    "zensical>=0.0.73",  # of the makers of Material for MkDocs, which ends in May 2027
    "mkdocstrings[python]>=1",
    "latex2mathml",  # formulas without a script from the network
    "ruff",  # lays out long signatures
]
TEST = [
    "pytest>=8",
    "pytest-xdist>=3",
    "hypothesis>=6",
    "sybil>=9",  # runs the examples of the documentation
    "selenium>=4.11",  # looks at the pages in chromium, where that is installed
]

setup(
    name="dcase-coherence",
    version=VERSION,
    description="Temporal coherence loss for sound event detection, for the DCASE Task 4 baselines",
    long_description=README,
    long_description_content_type="text/markdown",
    author="The dcase_coherence authors",
    license="MIT",
    keywords="sound event detection, audio event detection, DCASE, DESED, temporal coherence",
    # Of the code that it is made for; the package has no address of its own.
    project_urls={"DESED_task": "https://github.com/DCASE-REPO/DESED_task"},
    packages=find_packages(include=["dcase_coherence", "dcase_coherence.*"]),
    package_data={"dcase_coherence": ["py.typed"]},
    python_requires=">=3.8",
    # The official environments pin torch 1.8.1 to 2.0.1; a newer limit would change them.
    install_requires=["torch>=1.8"],
    extras_require={
        "recipes": RECIPES,
        "verify": VERIFY,
        "desed": DESED,
        "tune": TUNE,
        "postgres": POSTGRES,
        "exact": EXACT,
        "test": TEST,
        "docs": DOCS,
        "dev": [
            *("ruff", "mypy", "types-PyYAML", "deptry", "import-linter"),
            *("build", "twine", "check-wheel-contents"),
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        # Tested: the core on 3.8, everything on 3.11; by hand, see docs/use.md, 3.12 and 3.13.
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.8",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
