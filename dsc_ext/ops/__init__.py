"""One module per op family; each owns its schema, checks, fake, autograd and public function."""
