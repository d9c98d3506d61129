"""`python -m hybrid_ir.cli`: the same as the command `hybrid-ir`."""

from hybrid_ir.cli.app import main

main()
