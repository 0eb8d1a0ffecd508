"""Train a network whose backward pass is derived by hand: `python train.py --help`."""
