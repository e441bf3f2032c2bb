"""What algorithms share: advantages of a group, and the policy-gradient loss that most of them are a variant of."""
