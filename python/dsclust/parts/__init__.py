"""What methods are made of: the contract with the trainer, networks, closed forms, rules and votes."""
