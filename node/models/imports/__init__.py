"""Other people's models become folders of ours: tensors, and a card as far as they tell it.

What arrives is read as data, in a process of its own with limits (`child.py`): tensors and plain
values come back, nothing of it is executed. Each format has a module; `bring.py` tells them apart.
"""
