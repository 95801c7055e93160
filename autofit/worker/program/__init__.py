"""Code that runs inside a user's own program: at the entry of ``Trainer.train()``, in the program's own process."""
