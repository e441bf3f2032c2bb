"""`python -m outdo`, for machines where the `outdo` script is not on the path."""

from outdo.cli.main import app_main

if __name__ == "__main__":
    app_main()
