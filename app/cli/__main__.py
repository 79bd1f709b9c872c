"""`python -m app.cli` is `foreshard`."""

from app.cli import main

main(prog_name="foreshard")
