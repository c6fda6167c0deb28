"""``python -m coxswain.client``: the command line."""

from coxswain.client.cli.app import main

if __name__ == "__main__":
    main()
