"""`python -m ocishim`: the command."""

from ocishim.cli import main

raise SystemExit(main())
