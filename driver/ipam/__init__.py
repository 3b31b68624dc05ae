"""Pure address arithmetic: pools, the choice of addresses, and who may have which address."""
