"""What judges of text share: the words of a completion, and the answer in them."""
