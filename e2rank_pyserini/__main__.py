"""`python -m e2rank_pyserini` is the `e2rank` command."""

import sys

from e2rank_pyserini.cli import main

sys.exit(main())
