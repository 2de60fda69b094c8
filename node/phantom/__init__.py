"""Studies with known truth, a phantom scanner (SCU), a phantom PACS (SCP), the demo."""
