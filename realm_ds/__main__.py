"""`python -m realm_ds`: the command line, as every rank is started with it."""

from realm_ds.cli.main import main

if __name__ == "__main__":
    main()
