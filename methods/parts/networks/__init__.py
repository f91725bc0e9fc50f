"""Networks: backbones and their weights, what pools their maps, what puts them together again."""
