"""`python -m rejuvenation`: the repair alone, without Ray, vLLM or DeepSpeed."""

from rejuvenation.cli import main

main()
