"""`python -m onnxport` is the command line."""

from __future__ import annotations

import sys

from onnxport.cli.main import main

sys.exit(main())
