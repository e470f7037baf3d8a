"""`python -m hiercli` is `hier`, and what `torchrun -m hiercli` starts."""

from hiercli.cli.app import main

if __name__ == "__main__":
    main()
