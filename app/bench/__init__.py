"""`foreshard bench router`: routing against peers, on one broker, in one run. See bench/README.md."""
