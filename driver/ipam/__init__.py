"""Pure address arithmetic: pools, choice of addresses, who may have which."""
