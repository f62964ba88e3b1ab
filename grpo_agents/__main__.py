"""``python -m grpo_agents``: the command line, where its console script is not on the path."""

from grpo_agents.cli import main

if __name__ == "__main__":
    main()
