"""`python -m orchestrator` is `rejuvenate`."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
